//! Watches, on a device with several lanes, that nobody who waits for one gets less than another by more than the bound: W/w of the
//! other less its own, over every interval in which it waits for a lane all along, whatever it has beside. From the simulator's
//! own clock, in exact integers; virtual times of the core are never looked at.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_core::*;

use crate::sim::Sim;

/// Of one nanosecond: each weight from 1 to 8 divides it.
const PARTS: u128 = 840;

#[derive(Default)]
struct Side {
    /// W ÷ w so far, in parts, by the weight that it had at each moment.
    got: u128,
    seen_ns: Nanos,
    weight: u32,
    /// Restarts since the world began.
    restarts_ns: Nanos,
    /// Restarts, and jumps while it had a lane, since it last got one.
    late_ns: Nanos,
}

/// Who waits, and another: by how much that one has got more, at the least since the wait began. The least weight and the greatest
/// lateness of each since then.
struct Gap {
    least: i128,
    sides: [(u32, Nanos); 2],
}

pub struct Gaps {
    lanes: u32,
    sides: BTreeMap<TenantId, Side>,
    gaps: BTreeMap<(TenantId, TenantId), Gap>,
    jumps_seen: Nanos,
    leases: BTreeMap<LeaseId, TenantId>,
    /// Greatest gap ÷ bound, in thousandths.
    pub worst_milli: u128,
    pub intervals: u64,
}

impl Gaps {
    pub fn new(lanes: u32) -> Self {
        Gaps {
            lanes,
            sides: BTreeMap::new(),
            gaps: BTreeMap::new(),
            jumps_seen: 0,
            leases: BTreeMap::new(),
            worst_milli: 0,
            intervals: 0,
        }
    }

    /// Looks at what has happened since the last look: at most one event of the core.
    pub fn look(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        let weights: BTreeMap<TenantId, u32> = (sim.core.tenants())
            .map(|one| (one.tenant, one.weight))
            .collect();
        let jumped = sim.jumped_ns - self.jumps_seen;
        self.jumps_seen = sim.jumped_ns;
        let holders: BTreeSet<TenantId> = self.leases.values().copied().collect();
        for id in weights.keys() {
            let side = self.sides.entry(*id).or_default();
            let restarts_ns: Nanos = (sim.restart_on_ns.iter())
                .filter(|((_, tenant), _)| tenant == id)
                .map(|(_, ns)| *ns)
                .sum();
            let ns = sim.served(*id) + restarts_ns;
            side.got += u128::from(ns - side.seen_ns) * PARTS / u128::from(side.weight.max(1));
            side.late_ns += restarts_ns - side.restarts_ns;
            side.late_ns += jumped * u64::from(holders.contains(id));
            (side.seen_ns, side.restarts_ns) = (ns, restarts_ns);
        }
        self.judge(limits, sim.latency_ns + sim.kill_ns)?;
        let mut raised = BTreeSet::new();
        for (id, weight) in &weights {
            let side = self.sides.entry(*id).or_default();
            if *weight > side.weight {
                raised.insert(*id);
            }
            side.weight = *weight;
        }
        let leases = sim.leases.iter();
        let leases = leases.map(|(worker, (lease, _))| (*lease, sim.owners[worker]));
        let leases: BTreeMap<LeaseId, TenantId> = leases.collect();
        for (lease, holder) in &leases {
            if !self.leases.contains_key(lease)
                && let Some(side) = self.sides.get_mut(holder)
            {
                side.late_ns = 0;
            }
        }
        self.leases = leases;
        let waiting: BTreeSet<TenantId> = (sim.core.workers())
            .filter(|worker| worker.state == WorkerState::Waiting)
            .map(|worker| worker.tenant)
            .collect();
        self.gaps
            .retain(|(f, g), _| waiting.contains(f) && !raised.contains(f) && !raised.contains(g));
        for f in &waiting {
            for g in weights.keys().filter(|g| *g != f) {
                self.open(*f, *g);
            }
        }
        Ok(())
    }

    fn open(&mut self, f: TenantId, g: TenantId) {
        if self.gaps.contains_key(&(f, g)) {
            return;
        }
        self.intervals += 1;
        let (one, other) = (&self.sides[&f], &self.sides[&g]);
        let gap = Gap {
            least: other.got as i128 - one.got as i128,
            sides: [(one.weight, one.late_ns), (other.weight, other.late_ns)],
        };
        self.gaps.insert((f, g), gap);
    }

    /// `kill_ns`: from a kill until the lane is free.
    fn judge(&mut self, limits: &Limits, kill_ns: Nanos) -> Result<(), String> {
        for ((f, g), gap) in &mut self.gaps {
            let (one, other) = (&self.sides[f], &self.sides[g]);
            let ahead = other.got as i128 - one.got as i128;
            gap.least = gap.least.min(ahead);
            for (worst, side) in gap.sides.iter_mut().zip([one, other]) {
                worst.0 = worst.0.min(side.weight);
                worst.1 = worst.1.max(side.late_ns + kill_ns);
            }
            let [waits, other] = gap.sides;
            let bound = limits.behind_bound_ns(self.lanes as usize, waits, other);
            let (more, bound) = ((ahead - gap.least) as u128, u128::from(bound) * PARTS);
            self.worst_milli = self.worst_milli.max(more * 1000 / bound);
            if more > bound {
                return Err(format!(
                    "{f:?} waits for one of {} lanes, and {g:?} got {} ns more by weight meanwhile, bound {} ns, (weight, late) {waits:?} and {other:?}",
                    self.lanes,
                    more / PARTS,
                    bound / PARTS
                ));
            }
        }
        Ok(())
    }
}
