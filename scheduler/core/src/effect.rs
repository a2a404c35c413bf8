//! What the core wants done. The driver turns every effect into one call.

use crate::{
    CancelReason, DeviceId, LeaseId, ModelId, Nanos, Outcome, RequestId, TenantId, WorkerId,
};

/// Everything that the core can ask for or say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The request has a place: its Ticket.
    Accepted { request: RequestId },
    /// The request has none.
    Refused {
        request: RequestId,
        refusal: Refusal,
    },
    /// Start a worker process for this tenant and no other.
    StartWorker {
        worker: WorkerId,
        tenant: TenantId,
        model: ModelId,
        device: DeviceId,
    },
    /// End an idle worker (evicted) in good order; `WorkerDied` will follow.
    StopWorker { worker: WorkerId },
    /// Kill a worker that broke its word, whose device went down, or that starts where its tenant may not be; `WorkerDied` will follow.
    KillWorker { worker: WorkerId, why: KillReason },
    /// Give work to a worker: a batch of one tenant's requests. They run when it holds a lease.
    Assign {
        worker: WorkerId,
        requests: Vec<RequestId>,
    },
    /// The worker may run steps from now on.
    Grant { worker: WorkerId, lease: LeaseId },
    /// Ask for the lane back at the next step boundary.
    Yield { worker: WorkerId, lease: LeaseId },
    /// Tell a worker to drop a request at the next step boundary.
    CancelRunning {
        worker: WorkerId,
        request: RequestId,
    },
    /// The request waits again: its worker's device went down before anything of it was answered. It will
    /// be assigned anew.
    Requeued { request: RequestId },
    /// The request is over. Said exactly once for each accepted request.
    Ended { request: RequestId, end: End },
    /// A lease was settled: what its tenant was charged, from the driver's clock.
    Settled {
        tenant: TenantId,
        model: ModelId,
        worker: WorkerId,
        lease: LeaseId,
        lane_ns: Nanos,
    },
    /// Workers of this tenant and model failed: none is started for so long. The only word on it, so
    /// that whoever counts or logs restarts does so no more often than there are any.
    BackoffBegan {
        tenant: TenantId,
        model: ModelId,
        cause: BackoffCause,
        /// Failures in a row.
        failures: u32,
        for_ns: Nanos,
    },
    /// That time is over.
    BackoffOver { tenant: TenantId, model: ModelId },
    /// Come back with `Event::Tick` at this time at the latest. Replaces earlier ones.
    WakeAt { at: Nanos },
}

/// How an accepted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its worker ended it.
    Worker(Outcome),
    Cancelled(CancelReason),
    /// Its deadline passed, queued or running.
    Deadline,
    /// Its worker died under it. The caller may try again.
    WorkerLost,
    /// The device under it went down, and it could not go elsewhere: its answer had begun, or it was its
    /// second device, or its place in the queue was taken. The caller may try again.
    DeviceLost,
    /// The last device went down while it waited. The caller may try again.
    NoDevice,
    /// Its tenant was bound to regions in which there is no device while it waited.
    Residency,
    /// No worker could be started for it; when that may be otherwise. `None`: trying again will not
    /// help.
    NoWorker {
        retry_after_ns: Option<Nanos>,
    },
}

/// What a backoff follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackoffCause {
    /// A worker that could not be started.
    Start,
    /// A worker that died by itself.
    Death,
    /// A worker that had to be killed.
    Killed,
    /// Starts of the model, for whomever, that failed before they came to this tenant.
    Model,
}

/// Why a worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillReason {
    /// It kept its lane past a yield and the grace that it had.
    HeldLane,
    /// It had a request in hand for lane time beyond that grace after it was told to drop it.
    HeldRequest,
    /// It spoke of requests or leases that are not its own.
    Protocol,
    /// Its device went down. No fault of its own.
    DeviceDown,
    /// It was only starting, where its tenant may not be any more. No fault of its own.
    Residency,
}

/// Which bound refused a request, whose bound it is, and when it makes sense to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub bound: Bound,
    pub retry_after_ns: Option<Nanos>,
}

/// The bounds of admission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The tenant has its greatest number of requests waiting.
    TenantQueue,
    /// The tenant has its greatest number of requests open.
    TenantOpen,
    /// The tenant has had as many requests or tokens as it may have a minute.
    TenantRate,
    /// Its agent has.
    AgentRate,
    /// The queue memory that all tenants share is full, and the tenant's reserved part too.
    GlobalQueue,
    /// The deadline has passed already.
    DeadlinePast,
    /// The deadline is sooner than its work could be done, were there nothing else.
    DeadlineTooSoon,
    /// The tenant's workers for this model keep failing, and none is started before the time to retry.
    Backoff,
    /// The model was refused as it is, and is not tried again yet.
    ModelRefused,
    /// The scheduler is stopping.
    Draining,
    /// The request alone is larger than a bound can ever hold.
    TooLarge,
    /// No device is in service, where the tenant may be.
    NoDevice,
    /// There is no device where the tenant may be.
    Residency,
    /// A tenant or model that the core was not told of.
    Unknown,
}
