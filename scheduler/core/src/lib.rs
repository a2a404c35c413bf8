//! The pure scheduling core.

mod effect;
mod event;
mod ids;

pub use effect::{Bound, Effect, End, KillReason, Refusal};
pub use event::{CancelReason, Event, Outcome, Submission, TenantSettings};
pub use ids::{AgentId, DeviceId, LeaseId, ModelId, Nanos, RequestId, TenantId, WorkerId};

/// The limits that the operator set. All bounds are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of waiting requests over all tenants.
    pub queue_bytes_max: u64,
    /// Of which each tenant always has this much to itself.
    pub tenant_reserved_bytes: u64,
    /// Tokens handed to one worker and not yet finished: what a batch may hold.
    pub batch_tokens_max: u32,
    /// Lane time that a lease runs before it is asked to yield, while another tenant waits.
    pub quantum_ns: Nanos,
    /// After a yield was asked, how long until the worker is killed.
    pub release_grace_ns: Nanos,
    /// How many times in a row a worker may fail to start before its requests end.
    pub start_attempts_max: u32,
}

/// The scheduling state machine.
pub struct Core {
    _limits: Limits,
}

impl Core {
    /// An empty core.
    pub fn new(limits: Limits) -> Self {
        Core { _limits: limits }
    }

    /// Takes one event at time `now` and appends what has to be done to `effects`.
    pub fn handle(&mut self, _now: Nanos, _event: Event, _effects: &mut Vec<Effect>) {}
}
