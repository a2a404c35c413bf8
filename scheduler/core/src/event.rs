//! What the core is told. The driver turns every message of the world into one of these.

use crate::{
    AgentId, DeviceId, LeaseId, ModelId, Nanos, Rate, RegionId, Regions, RequestId, TenantId,
    WorkerId,
};

/// Everything that can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A device takes part from now on, or again. Telling of one that does changes nothing.
    DeviceUp {
        device: DeviceId,
        kind: DeviceKind,
        region: RegionId,
        lanes: u32,
        workers_max: u32,
    },
    /// A device has memory for so many workers now; those that it has beyond that stay. Bounded by what it
    /// came with.
    DeviceRoom { device: DeviceId, workers: u32 },
    /// A device is of no use until `DeviceUp`: its work goes elsewhere. Unknown ones are ignored.
    DeviceDown { device: DeviceId },
    /// This model runs on accelerators where there are any. Told before its first request, or ignored; no other does.
    ModelAccelerates { model: ModelId },
    /// A tenant exists, or its settings have changed.
    TenantSet {
        tenant: TenantId,
        settings: TenantSettings,
    },
    /// An authorised request. Answered at once with `Effect::Accepted` or `Effect::Refused`.
    Submit(Submission),
    /// The client went away, or an operator said so. Unknown and ended requests are ignored.
    Cancel {
        request: RequestId,
        why: CancelReason,
    },
    /// All of an agent's requests, queued and running.
    CancelAgent { agent: AgentId, why: CancelReason },
    /// A worker is loaded, sealed and assigned to its tenant.
    WorkerReady { worker: WorkerId },
    /// A worker could not be started.
    WorkerFailed {
        worker: WorkerId,
        failure: StartFailure,
    },
    /// A worker process has ended, by whatever cause.
    WorkerDied { worker: WorkerId },
    /// A worker began to answer a request: what has gone out cannot be taken back. Ignored unless that
    /// worker holds it.
    Answering {
        worker: WorkerId,
        request: RequestId,
    },
    /// A worker did a step, and says that it took `step_ns` with those before it that had nothing to say. `answers`: how many
    /// output tokens those answers have by now that went on in it.
    Stepped {
        worker: WorkerId,
        lease: LeaseId,
        step_ns: Nanos,
        tokens: u32,
        kv_bytes: u64,
        answers: Vec<(RequestId, u32)>,
    },
    /// A worker finished one request. One that it had let go of before is ignored; one that it never had, or a word without
    /// a lease, gets the worker killed.
    Finished {
        worker: WorkerId,
        request: RequestId,
        tokens_in: u32,
        tokens_out: u32,
        outcome: Outcome,
    },
    /// A worker gave its lane back. `dry`: it says that it has nothing left to run.
    Released {
        worker: WorkerId,
        lease: LeaseId,
        dry: bool,
    },
    /// The workers that a model has now are to end, each once it has finished what it holds.
    RetireModel { model: ModelId },
    /// No new requests from now on; queued and running ones go on.
    Drain,
    /// The time of an earlier `Effect::WakeAt` has come, or simply: look again.
    Tick,
}

/// What a device is to the models that run on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceKind {
    /// Takes every model.
    Processor,
    /// Takes those that accelerate, and before any processor does.
    Accelerator,
}

/// Why a worker could not be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFailure {
    /// The model is refused as it is. Nothing was started, so that asking again costs nobody
    /// anything, and does not help until something changes.
    Refused,
    /// Nothing was started: whatever starts this model's workers waits for so long after failures of
    /// its own.
    Waiting { for_ns: Nanos },
    /// It was tried. `permanent`: trying again will not help.
    Tried { permanent: bool },
}

/// A tenant's place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantSettings {
    /// Where its work may be done.
    pub regions: Regions,
    /// Share of lane time relative to other tenants; at least 1.
    pub weight: u32,
    /// Most requests of this tenant that may wait, whatever room the global queue has.
    pub queue_requests_max: u32,
    /// Most requests of this tenant that may be accepted and not yet ended.
    pub open_requests_max: u32,
    /// What it may have a minute, and each of its agents.
    pub rate: Rate,
    pub agent_rate: Rate,
}

/// A request, as the core sees it: sizes and limits, never content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submission {
    pub request: RequestId,
    pub tenant: TenantId,
    pub agent: AgentId,
    pub model: ModelId,
    /// Input tokens, estimated from its bytes.
    pub tokens_in: u32,
    /// Of those, as many as have to be read in any case: less where texts are cut at the model's length, none where parts of
    /// prompts are kept from before.
    pub tokens_read_min: u32,
    /// Most output tokens; 0 for embeddings.
    pub tokens_out_max: u32,
    /// Bytes of queue memory that it takes while it waits.
    pub bytes: u64,
    /// When its caller gives up, on the same clock as `now`.
    pub deadline: Option<Nanos>,
    pub priority: Priority,
}

/// Which of an agent's requests goes first. It changes nothing between agents, as each pays for its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// After the agent's interactive ones.
    Batch,
}

/// Why a request was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The client hung up or asked for it.
    Client,
    /// Its agent may no longer act.
    Revoked,
    /// The scheduler is stopping and its patience ended.
    Shutdown,
    /// The audit log cannot take its record.
    Audit,
}

/// How a worker ended a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    Cancelled,
    /// The caller's fault.
    Invalid,
    OverQuota,
    Internal,
}
