//! How workers end: counted, and on their tenant's record where it was not asked for.
//!
//! Why a worker ended is what the driver saw, or what the kernel told the launcher. Of what a worker said nothing is in a
//! record or a label but two numbers: how much of its memory it found dirty, and where.

use super::Driver;
use crate::server::{metrics, records};
use bulkhead_core::{KillReason, ModelId, TenantId, WorkerId};
use bulkhead_proto::internal::{Exited, RecordKind, ScrubReport};

/// What the driver ended a worker for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It was idle, and its place, its memory or its model is somebody else's now.
    Evicted,
    /// It did not come to serve, and said so.
    Refused,
    /// It kept its lane past a yield and the grace that it had.
    HeldLane,
    /// It kept a request for as long after it was told to drop it.
    HeldRequest,
    /// It spoke of requests or leases that are not its own, or out of turn.
    Protocol,
    /// It used the processor without a lease.
    Unleased,
    /// It does not read what it is told.
    Unread,
    /// It sent what is no frame, or one that is too long.
    Frame,
    /// It said more of an answer than the answer can be.
    Output,
    /// Memory that it had zeroed was not zero.
    Residue,
    /// It did not come to the end of its start.
    SlowStart,
    /// The batch for it was not one tenant's alone.
    MixedBatch,
    /// Its device went bad.
    DeviceDown,
    /// It was where its tenant may not be any more.
    Residency,
}

impl From<KillReason> for Cause {
    fn from(reason: KillReason) -> Self {
        match reason {
            KillReason::HeldLane => Cause::HeldLane,
            KillReason::HeldRequest => Cause::HeldRequest,
            KillReason::Protocol => Cause::Protocol,
            KillReason::DeviceDown => Cause::DeviceDown,
            KillReason::Residency => Cause::Residency,
        }
    }
}

/// A worker of which the driver has taken leave, and whose process has yet to be buried.
pub(super) struct Ending {
    pub tenant: TenantId,
    pub model: ModelId,
    /// None: it ended by itself.
    pub cause: Option<Cause>,
    /// What it said was not zero after a scrub.
    pub residue: Option<ScrubReport>,
}

impl Driver {
    /// The launcher has buried a worker's process.
    pub(super) fn buried(&mut self, worker: WorkerId, exited: &Exited) {
        let Some(ending) = self.ending.remove(&worker) else {
            return;
        };
        let (how, why) = words(ending.cause, exited);
        metrics::worker_ended(&self.label(ending.tenant), how, why);
        if ending.cause == Some(Cause::Evicted) {
            return tracing::info!(worker = worker.0, how, why, "a worker ended");
        }
        let Some(tenant) = self.tenants.get(&ending.tenant) else {
            return;
        };
        let model = self.model_name(ending.model);
        let (worker, model) = (worker.0, model.as_deref().unwrap_or_default());
        tracing::warn!(worker, tenant = %tenant.name, model, how, why, process = %exited.how, "a worker ended");
        let mut details = serde_json::json!({
            "worker": worker, "model": model, "how": how, "why": why, "signal": exited.signal,
        });
        if let Some(residue) = ending.residue {
            details["residue"] = serde_json::json!({
                "bytes": residue.residue_bytes, "first_offset": residue.first_residue,
            });
        }
        let body = records::act("worker.ended", details);
        // Bounded by the backoff of its successors. Kept until the log opens, like every end.
        let _ = (self.setup.audit).append_end(&tenant.name, RecordKind::System, "", body);
    }
}

/// How a worker ended, and why, in words of ours.
fn words(cause: Option<Cause>, exited: &Exited) -> (&'static str, &'static str) {
    match cause {
        Some(Cause::Evicted) => ("evicted", "idle"),
        Some(Cause::Refused) => ("refused", "start"),
        Some(Cause::HeldLane) => ("killed", "held_lane"),
        Some(Cause::HeldRequest) => ("killed", "held_request"),
        Some(Cause::Protocol) => ("killed", "protocol"),
        Some(Cause::Unleased) => ("killed", "no_lease"),
        Some(Cause::Unread) => ("killed", "unread"),
        Some(Cause::Frame) => ("killed", "frame"),
        Some(Cause::Output) => ("killed", "output"),
        Some(Cause::Residue) => ("killed", "residue"),
        Some(Cause::SlowStart) => ("killed", "slow_start"),
        Some(Cause::MixedBatch) => ("killed", "mixed_batch"),
        Some(Cause::DeviceDown) => ("killed", "device_down"),
        Some(Cause::Residency) => ("evicted", "residency"),
        None if exited.out_of_memory => ("crashed", "out_of_memory"),
        None => (
            "crashed",
            match exited.signal {
                0 => "exit",
                // The filter's answer to a call that no worker makes.
                libc::SIGSYS => "forbidden_call",
                // By us since it had hung up, or by the system or an operator: the kernel does not say.
                libc::SIGKILL => "hung_up_or_killed_from_outside",
                _ => "signal",
            },
        ),
    }
}
