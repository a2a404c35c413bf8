//! The pure scheduling core: every decision of the scheduler, in one deterministic state machine.
//!
//! `Core::handle` takes one [`Event`] and the time it happened, and appends [`Effect`]s. It has no
//! clock, no I/O, no threads, no randomness, no log and no floats; the same events at the same times
//! give the same effects, so that a simulator and the server drive the same code.
//!
//! The rules, and where they live:
//! - admission and its bounds: `admission`, `memory`, `places`, limits by time: `rates`
//! - fair order among tenants, on each device, and among the agents of each: `fair`, `standing`, `queue`, `slots`, `vtime`
//! - lanes, leases, batches, yields: `dispatch`, `lane`; how long a turn is: `turns`; several lanes: `claims`; what follows from them for tenants: `bounds`
//! - workers, their starts and evictions: `placement`, `worker`, `reports`; on which kind of device: `kinds`, in which regions: `regions`
//! - devices that come and go, and what becomes of their work: `devices`
//! - failed starts, deaths, and the pause after them: `restart`, `backoff`
//! - predicted cost: `cost`; what agents are charged: `charging`; how requests end: `ending`; derived indexes: `index`
//!
//! What the driver owes the core:
//! - Effects are carried out in order; a worker's frames reach it, and its words reach the core, in
//!   the order in which they were said.
//! - `WorkerDied` follows every `StopWorker` and `KillWorker`, and every other end of a worker that
//!   was ready. A worker that is starting ends with `WorkerFailed` or `WorkerDied`, either is enough.
//! - Unknown ids, repeated reports and reports out of turn are ignored or get a worker killed, never a panic.

mod admission;
mod backoff;
mod bounds;
mod charging;
mod check;
mod claims;
mod core;
mod cost;
mod devices;
mod dispatch;
mod effect;
mod ending;
mod event;
mod fair;
mod few;
mod ids;
mod index;
mod kinds;
mod lane;
mod lengths;
mod map;
mod memory;
mod placement;
mod places;
mod queue;
mod rates;
mod regions;
mod reports;
mod restart;
mod slots;
mod standing;
mod tenant;
mod turns;
mod view;
mod vtime;
mod worker;

pub use self::core::Core;
pub use backoff::{Backoff, Pace};
pub use bounds::agents_bound_tokens;
pub use effect::{BackoffCause, Bound, Effect, End, KillReason, Refusal};
pub use event::{
    CancelReason, DeviceKind, Event, Outcome, Priority, StartFailure, Submission, TenantSettings,
};
pub use ids::{
    AgentId, DeviceId, LeaseId, ModelId, Nanos, RegionId, RequestId, TenantId, WorkerId,
};
pub use lengths::LengthBook;
pub use queue::{Queue, Slot};
pub use rates::Rate;
pub use regions::Regions;
pub use turns::LeaseTimes;
pub use view::{StandingView, TenantView, WorkerState, WorkerView};
pub use vtime::VTime;

/// The limits that the operator set. All bounds are inclusive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of waiting requests over all tenants.
    pub queue_bytes_max: u64,
    /// Of which each tenant always has this much to itself.
    pub tenant_reserved_bytes: u64,
    /// Tokens handed to one worker and not yet finished, answers as long as they are expected: what a batch may hold. Agents
    /// of which a worker has nothing may fill it up to twice.
    pub batch_tokens_max: u32,
    /// The longest that a lease runs before it is asked to yield, lane time, while another tenant waits.
    pub quantum_ns: Nanos,
    /// Turns are shortened until changing hands takes so much of them, percent. 0: each is a whole quantum.
    pub switch_percent: u32,
    /// Lane time that a tenant which had nothing to run may have before others have had as much: what it missed, at most
    /// so much. It pays for work that comes in one piece, and costs everybody else as long a wait.
    pub burst_ns: Nanos,
    /// After a yield was asked, how long until the worker is killed.
    pub release_grace_ns: Nanos,
    /// How many times in a row a worker may fail to start before its requests end.
    pub start_attempts_max: u32,
    /// A worker that has had nothing to do for this long is ended; 0 keeps them all.
    pub unload_after_ns: Nanos,
    /// How long nothing is started for a queue whose workers fail, for each tenant and model.
    pub restarts: Pace,
    /// The longest such wait that requests sit out in their queue.
    pub backoff_patience_ns: Nanos,
    /// Spreads those waits: drawn anew by each scheduler, the same in a simulation.
    pub seed: u64,
}
