//! What the scheduler promises to tenants that compete, as formulas. Nothing here decides anything: `dispatch` keeps
//! these bounds, and the simulations hold it to them.
//!
//! All are for a device with one lane, and for tenants that compete on it: a worker of theirs there is ready and has work,
//! or holds the lane. What they have of other devices is no part of it. Lane time is divided by weight throughout, so a
//! bound is in nanoseconds of lane time at weight 1.
//!
//! `late_ns` is what no scheduler can take back once it has noticed, or what it charges beside lane time: the time from
//! a kill until the process is gone, jumps of the clock while a lease ran, and starts after a failure, which are charged
//! at once as if they had been lane time.

use crate::core::Core;
use crate::{Limits, Nanos, TenantId};

impl Limits {
    /// How far a tenant of this weight is ever ahead of another of the same. It gets the lane only where nobody is behind it.
    /// From then on it runs for a quantum, or until it has caught up, and for as long as its worker may take to give the lane
    /// back; and whoever comes may be let in behind by its burst. `late_ns`: all of it since that tenant last got the lane.
    pub fn lead_bound_ns(&self, weight: u32, late_ns: Nanos) -> Nanos {
        self.turn_ns()
            .saturating_add(self.burst_ns)
            .saturating_add(late_ns)
            .div_ceil(u64::from(weight.max(1)))
    }

    /// By how much the difference of two tenants' lane time ÷ weight may change over any interval in which both compete:
    /// |W_f/w_f − W_g/w_g|. At one end the one may be ahead by all that it ever is, at the other end the other: so it is the
    /// sum of both leads, and not less. An interval ends where a weight is raised: what that tenant was behind is as much lane
    /// time after it, and so less virtual time. Each is given as its weight and its greatest `late_ns` in that interval; starts
    /// after a failure count in W, at the moment at which they came to something.
    pub fn interval_bound_ns(&self, one: (u32, Nanos), other: (u32, Nanos)) -> Nanos {
        self.lead_bound_ns(one.0, one.1)
            .saturating_add(self.lead_bound_ns(other.0, other.1))
    }

    /// How long a tenant waits for the lane at most, once it competes and nobody who does is behind it: the rest of the
    /// holder's turn, and one turn each, after its burst, of the `tied` that are exactly as far, those included that come
    /// while it waits, as far or with a burst. Whoever had that is beyond it. Who has its weight
    /// raised is less far behind for it, and waits anew. `late_ns`: all of it in that wait.
    pub fn wait_bound_ns(&self, tied: u32, late_ns: Nanos) -> Nanos {
        let bursts_ns = self.burst_ns.saturating_mul(u64::from(tied));
        self.turn_ns()
            .saturating_mul(u64::from(tied) + 1)
            .saturating_add(bursts_ns)
            .saturating_add(late_ns)
    }

    /// The longest that a contended lane stays with who is not behind.
    fn turn_ns(&self) -> Nanos {
        self.quantum_ns.saturating_add(self.release_grace_ns)
    }
}

/// By how much the work of two agents of one tenant may differ over any interval in which both have requests that wait for
/// the same model, in tokens, where each token costs the same: an agent gets a place only where the other has not been
/// charged less, so it is ahead by at most that one request, and by what those in the worker's hands turn out to be
/// beyond, or short of, what was expected of them. `largest`: tokens of the largest request, in and out; `in_hand`: the
/// most that the worker ever had of one agent. Where lengths are as expected that is at most twice `batch_tokens_max`.
///
/// Of others so much as one `batch_tokens_max` may go past a request that does not fit beside what runs, though its agent
/// has been charged less: where there are such the bound is that much more.
pub fn agents_bound_tokens(largest: u64, in_hand: u64) -> u64 {
    largest.saturating_add(in_hand).saturating_mul(2)
}

impl Core {
    /// How far a tenant's virtual time on a device may be ahead of another's: [`Limits::lead_bound_ns`] of the least weight among
    /// those who compete, where nothing was late and nothing restarted. As nanoseconds of virtual time.
    pub fn lead_bound_ns(&self) -> Nanos {
        let competing = self.tenants.values().filter(|tenant| tenant.competes());
        let least = competing.map(|tenant| tenant.weight()).min().unwrap_or(1);
        self.limits.lead_bound_ns(least, 0)
    }

    /// [`Limits::interval_bound_ns`] of two tenants with the weights that they have now, where nothing was late and
    /// nothing restarted; `None` where one is unknown.
    pub fn interval_bound_ns(&self, one: TenantId, other: TenantId) -> Option<Nanos> {
        let weight = |id| self.tenants.get(&id).map(|tenant| tenant.weight());
        let (one, other) = (weight(one)?, weight(other)?);
        Some(self.limits.interval_bound_ns((one, 0), (other, 0)))
    }
}
