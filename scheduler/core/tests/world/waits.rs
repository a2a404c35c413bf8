//! Watches how long whoever is not ahead of anybody waits for a device's lane: at every grant, and at every event until then.
//! Who has no worker that is ready waits for something else and is not looked at; who is charged for a start while it
//! waits is ahead by that, and waits anew once it is not; and so does who has its weight raised, and is less far behind for it.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_core::*;

use crate::sim::Sim;

struct Wait {
    since: Nanos,
    jumped_ns: Nanos,
    restart_ns: Nanos,
    weight: u32,
    /// Others that are exactly as far, those that came since included.
    tied: BTreeSet<TenantId>,
}

#[derive(Default)]
pub struct Waits {
    waits: BTreeMap<(DeviceId, TenantId), Wait>,
    competing: BTreeSet<(DeviceId, TenantId)>,
    leases: BTreeSet<LeaseId>,
    /// Greatest wait ÷ bound, in thousandths.
    pub worst_milli: u128,
    pub grants: u64,
    pub waited: u64,
}

impl Waits {
    /// Looks at what has happened since the last look: at most one event of the core.
    pub fn look(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        let leases: BTreeSet<LeaseId> = sim.leases.values().map(|(lease, _)| *lease).collect();
        self.grants += leases.difference(&self.leases).count() as u64;
        self.leases = leases;
        let restarts = |at: &(DeviceId, TenantId)| sim.restart_on_ns.get(at).copied().unwrap_or(0);
        let weights: BTreeMap<TenantId, u32> = (sim.core.tenants())
            .map(|one| (one.tenant, one.weight))
            .collect();
        self.waits.retain(|at, wait| {
            let before = std::mem::replace(&mut wait.weight, weights[&at.1]);
            wait.restart_ns == restarts(at) && wait.weight <= before
        });
        self.judge(sim, limits)?;
        let mut on: BTreeMap<DeviceId, Vec<StandingView>> = BTreeMap::new();
        for view in sim.core.standings() {
            on.entry(view.device).or_default().push(view);
        }
        for (device, views) in on {
            self.look_on(device, &views, sim, &weights);
        }
        Ok(())
    }

    /// Those that stand on one device.
    fn look_on(
        &mut self,
        device: DeviceId,
        views: &[StandingView],
        sim: &Sim,
        weights: &BTreeMap<TenantId, u32>,
    ) {
        let mut workers = sim.leases.keys();
        let holder = workers.find(|worker| sim.places[*worker] == device);
        let holder = holder.map(|worker| sim.owners[worker]);
        let least = |view: &&StandingView| {
            view.competing && view.lead_ns == 0 && Some(view.tenant) != holder
        };
        let tied = views.iter().filter(least).map(|view| view.tenant);
        let tied: BTreeSet<TenantId> = tied.collect();
        for view in views {
            let (id, at) = (view.tenant, (device, view.tenant));
            if !view.competing || holder == Some(id) {
                self.waits.remove(&at);
            } else if tied.contains(&id) && !self.waits.contains_key(&at) {
                let wait = Wait {
                    since: sim.now,
                    jumped_ns: sim.jumped_ns,
                    restart_ns: sim.restart_on_ns.get(&at).copied().unwrap_or(0),
                    weight: weights[&id],
                    tied: tied.iter().filter(|other| **other != id).copied().collect(),
                };
                self.waited += 1;
                self.waits.insert(at, wait);
            }
            // Who came just now, and is no further than who waits.
            if view.competing && self.competing.insert(at) {
                let no_further = views.iter().filter(|other| view.vtime_ns <= other.vtime_ns);
                for other in no_further.filter(|other| other.tenant != id) {
                    if let Some(wait) = self.waits.get_mut(&(device, other.tenant)) {
                        wait.tied.insert(id);
                    }
                }
            }
        }
        for view in views.iter().filter(|view| !view.competing) {
            self.competing.remove(&(device, view.tenant));
        }
    }

    /// Those that got the lane just now are still in the list.
    fn judge(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        for ((on, id), wait) in &self.waits {
            let waited = sim.now - wait.since;
            let tied = wait.tied.len() as u32;
            let kills_ns = (sim.latency_ns + sim.kill_ns) * (u64::from(tied) + 1);
            let late_ns = sim.jumped_ns - wait.jumped_ns + kills_ns;
            let bound = limits.wait_bound_ns(tied, late_ns);
            let milli = u128::from(waited) * 1000 / u128::from(bound);
            self.worst_milli = self.worst_milli.max(milli);
            if waited > bound {
                return Err(format!(
                    "{id:?} waits for {waited} ns on {on:?}, behind {tied} that are as far, bound {bound} ns"
                ));
            }
        }
        Ok(())
    }
}
