//! What the scheduler promises to tenants that compete, as formulas. Nothing here decides anything: `dispatch` keeps
//! these bounds, and the simulations hold it to them.
//!
//! All but the last are for a device with one lane, and for tenants that compete on it: a worker of theirs there is ready and has work,
//! or holds the lane. What they have of other devices is no part of it. Lane time is divided by weight throughout, so a
//! bound is in nanoseconds of lane time at weight 1.
//!
//! `late_ns` is what no scheduler can take back once it has noticed, or what it charges beside lane time: the time from
//! a kill until the process is gone, jumps of the clock while a lease ran, and starts after a failure, which are charged
//! at once as if they had been lane time.

use crate::core::Core;
use crate::{Limits, Nanos};

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

    /// The same of a device with several lanes: how far a tenant, given as its weight and its greatest `late_ns`, is ever ahead of one of
    /// weight `behind` that waits for a lane there. It may have a turn on each lane; as many workers as wait are asked for
    /// theirs, so that its others go on for a grace more each time that somebody else takes the one that has come; and what the
    /// other has reserved on its own lanes counts as had.
    pub(crate) fn lead_on_lanes_ns(&self, lanes: usize, ahead: (u32, Nanos), behind: u32) -> Nanos {
        let lanes = lanes.max(1) as u64;
        let graces = lanes.saturating_mul(lanes + 1) / 2;
        let turns_ns = lanes
            .saturating_mul(self.quantum_ns)
            .saturating_add(graces.saturating_mul(self.release_grace_ns.saturating_add(ahead.1)))
            .saturating_add(self.burst_ns);
        let reserved_ns = (lanes - 1).saturating_mul(self.quantum_ns);
        let of = |ns: Nanos, weight: u32| ns.div_ceil(u64::from(weight.max(1)));
        of(turns_ns, ahead.0).saturating_add(of(reserved_ns, behind))
    }

    /// How far behind a tenant may be that has all lanes of a device that it can use, as lane time at weight 1: as far as another
    /// may have got ahead of it while it waited. With one lane there is no such tenant.
    pub fn claim_ns(&self, lanes: usize) -> Nanos {
        match lanes {
            0 | 1 => 0,
            _ => self.lead_on_lanes_ns(lanes, (1, 0), 1),
        }
    }

    /// By how much more than a tenant another may get of a device with so many lanes, lane time ÷ weight, over any interval in which the
    /// first waits for a lane there all along, whatever it has beside: what the other was behind, and what it is
    /// ahead in the end. Each is given as its weight and its greatest `late_ns`.
    pub fn behind_bound_ns(&self, lanes: usize, waits: (u32, Nanos), other: (u32, Nanos)) -> Nanos {
        self.lead_on_lanes_ns(lanes, other, waits.0)
            .saturating_add(self.lead_on_lanes_ns(lanes, waits, other.0))
            .saturating_add(self.claim_ns(lanes))
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
    /// those who compete, where nothing was late and nothing restarted. As nanoseconds of virtual time. On several lanes
    /// it is ahead of one that has all that it can use by what that one may be behind, too.
    pub fn lead_bound_ns(&self) -> Nanos {
        let competing = self.tenants.values().filter(|tenant| tenant.competes());
        let least = competing.map(|tenant| tenant.weight()).min().unwrap_or(1);
        match self
            .devices
            .values()
            .filter(|one| one.up)
            .map(|device| device.lanes)
            .max()
        {
            Some(lanes @ 2..) => (self.limits.lead_on_lanes_ns(lanes, (least, 0), least))
                .saturating_add(self.limits.claim_ns(lanes)),
            _ => self.limits.lead_bound_ns(least, 0),
        }
    }
}
