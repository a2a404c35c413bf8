//! Watches what every two tenants got of a device over every interval in which both compete for it: W_f/w_f − W_g/w_g, from
//! the simulator's own clock, in exact integers. Virtual times of the core are never looked at.
//!
//! W is lane time, and starts after a failure: they are charged like lane time, in one piece, when they come to
//! something. The simulator measures both and has compared them with the bill.

use std::collections::BTreeMap;

use bulkhead_core::*;

use crate::sim::Sim;

/// Of one nanosecond: each weight from 1 to 8 divides it.
const PARTS: u128 = 840;

struct Side {
    /// W ÷ w so far, in parts, by the weight that it had at each moment.
    got: u128,
    lane_seen: Nanos,
    restarts_seen: Nanos,
    weight: u32,
    /// Least since it last got the lane.
    weight_least: u32,
    /// Restarts, and jumps under its lease, since it last got the lane.
    late_ns: Nanos,
    competing: bool,
}

/// An interval in which two tenants compete, from its begin to now.
#[derive(Clone, Copy)]
struct Joint {
    least: i128,
    most: i128,
    since: Nanos,
    sides: [(u32, Nanos); 2],
}

#[derive(Default)]
pub struct Shares {
    sides: BTreeMap<(DeviceId, TenantId), Side>,
    joint: BTreeMap<(DeviceId, TenantId, TenantId), Joint>,
    jumps_seen: Nanos,
    leases: BTreeMap<DeviceId, (LeaseId, TenantId)>,
    /// Greatest difference ÷ bound, in thousandths.
    pub worst_milli: u128,
    pub intervals: u64,
    pub longest_ns: Nanos,
}

impl Shares {
    /// Looks at what has happened since the last look: at most one event of the core.
    pub fn look(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        let jumped = sim.jumped_ns - self.jumps_seen;
        self.jumps_seen = sim.jumped_ns;
        for (device, (_, holder)) in &self.leases {
            if let Some(side) = self.sides.get_mut(&(*device, *holder)) {
                side.late_ns += jumped;
            }
        }
        let tenants = sim.core.tenants();
        let weights: BTreeMap<TenantId, u32> =
            tenants.map(|one| (one.tenant, one.weight)).collect();
        let views: Vec<StandingView> = sim.core.standings().collect();
        for view in &views {
            let (at, weight) = ((view.device, view.tenant), weights[&view.tenant]);
            let side = self.sides.entry(at).or_insert(Side {
                got: 0,
                lane_seen: 0,
                restarts_seen: 0,
                weight,
                weight_least: weight,
                late_ns: 0,
                competing: false,
            });
            let lane_ns = sim.served_on(view.device, view.tenant);
            let restart_ns = sim.restart_on_ns.get(&at).copied().unwrap_or(0);
            let (lane, restarts) = (lane_ns - side.lane_seen, restart_ns - side.restarts_seen);
            side.got += u128::from(lane + restarts) * PARTS / u128::from(side.weight);
            side.late_ns += restarts;
            (side.lane_seen, side.restarts_seen) = (lane_ns, restart_ns);
        }
        self.judge(limits, sim.now, sim.latency_ns + sim.kill_ns)?;
        for view in &views {
            if let Some(side) = self.sides.get_mut(&(view.device, view.tenant)) {
                if weights[&view.tenant] > side.weight {
                    let (on, id) = (view.device, view.tenant);
                    self.joint
                        .retain(|(at, f, g), _| *at != on || (*f != id && *g != id));
                }
                side.weight = weights[&view.tenant];
                side.weight_least = side.weight_least.min(side.weight);
                side.competing = view.competing;
            }
        }
        let leases = sim.leases.iter();
        let leases =
            leases.map(|(worker, (lease, _))| (sim.places[worker], (*lease, sim.owners[worker])));
        let leases: BTreeMap<DeviceId, (LeaseId, TenantId)> = leases.collect();
        for (device, lease) in &leases {
            if self.leases.get(device) != Some(lease)
                && let Some(side) = self.sides.get_mut(&(*device, lease.1))
            {
                (side.late_ns, side.weight_least) = (0, side.weight);
            }
        }
        self.leases = leases;
        self.open_and_close(&views, sim.now);
        Ok(())
    }

    /// `kill_ns`: from a kill until the lane is free.
    fn judge(&mut self, limits: &Limits, now: Nanos, kill_ns: Nanos) -> Result<(), String> {
        for ((on, f, g), joint) in &mut self.joint {
            let (one, other) = (&self.sides[&(*on, *f)], &self.sides[&(*on, *g)]);
            let ahead = one.got as i128 - other.got as i128;
            self.longest_ns = self.longest_ns.max(now - joint.since);
            joint.least = joint.least.min(ahead);
            joint.most = joint.most.max(ahead);
            for (worst, side) in joint.sides.iter_mut().zip([one, other]) {
                worst.0 = worst.0.min(side.weight_least);
                worst.1 = worst.1.max(side.late_ns + kill_ns);
            }
            let bound = limits.interval_bound_ns(joint.sides[0], joint.sides[1]);
            let (spread, bound) = (
                (joint.most - joint.least) as u128,
                u128::from(bound) * PARTS,
            );
            self.worst_milli = self.worst_milli.max(spread * 1000 / bound);
            if spread > bound {
                let sides = joint.sides;
                return Err(format!(
                    "{f:?} and {g:?} on {on:?}: W/w differ by {} ns over an interval, bound {} ns, sides (weight, late) {sides:?}",
                    spread / PARTS,
                    bound / PARTS
                ));
            }
        }
        Ok(())
    }

    fn open_and_close(&mut self, views: &[StandingView], now: Nanos) {
        for (n, one) in views.iter().enumerate() {
            let on = one.device;
            for other in views[n + 1..].iter().filter(|other| other.device == on) {
                let key = (on, one.tenant, other.tenant);
                if !(one.competing && other.competing) {
                    self.joint.remove(&key);
                } else if !self.joint.contains_key(&key) {
                    self.intervals += 1;
                    let (f, g) = (&self.sides[&(on, key.1)], &self.sides[&(on, key.2)]);
                    let ahead = f.got as i128 - g.got as i128;
                    let sides = [(f.weight_least, f.late_ns), (g.weight_least, g.late_ns)];
                    let joint = Joint {
                        least: ahead,
                        most: ahead,
                        since: now,
                        sides,
                    };
                    self.joint.insert(key, joint);
                }
            }
        }
    }
}
