//! Watches how long whoever is not ahead of anybody waits for the lane: at every grant, and at every event until then.
//! Who has no worker that is ready waits for something else and is not looked at; who is charged for a start while it
//! waits is ahead by that, and waits anew once it is not.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_core::*;

use crate::sim::Sim;

struct Wait {
    since: Nanos,
    jumped_ns: Nanos,
    restart_ns: Nanos,
    /// Others that are exactly as far, those that came since included.
    tied: BTreeSet<TenantId>,
}

#[derive(Default)]
pub struct Waits {
    waits: BTreeMap<TenantId, Wait>,
    competing: BTreeSet<TenantId>,
    lease: Option<LeaseId>,
    /// Greatest wait ÷ bound, in thousandths.
    pub worst_milli: u128,
    pub grants: u64,
    pub waited: u64,
}

impl Waits {
    /// Looks at what has happened since the last look: at most one event of the core.
    pub fn look(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        let lease = sim.leases.iter().next();
        let holder = lease.map(|(worker, _)| sim.owners[worker]);
        let granted = lease.map(|(_, (lease, _))| *lease);
        if granted.is_some() && granted != self.lease {
            self.grants += 1;
        }
        self.lease = granted;
        let restarts = |id: &TenantId| sim.restart_ns.get(id).copied().unwrap_or(0);
        self.waits
            .retain(|id, wait| wait.restart_ns == restarts(id));
        self.judge(sim, limits)?;
        let views: Vec<TenantView> = sim.core.tenants().collect();
        let least =
            |view: &TenantView| view.competing && view.lead_ns == 0 && Some(view.tenant) != holder;
        let tied: BTreeSet<TenantId> = views
            .iter()
            .filter(|view| least(view))
            .map(|view| view.tenant)
            .collect();
        for view in &views {
            let id = view.tenant;
            if !view.competing || holder == Some(id) {
                self.waits.remove(&id);
            } else if tied.contains(&id) && !self.waits.contains_key(&id) {
                let wait = Wait {
                    since: sim.now,
                    jumped_ns: sim.jumped_ns,
                    restart_ns: restarts(&id),
                    tied: tied.iter().copied().filter(|other| *other != id).collect(),
                };
                self.waited += 1;
                self.waits.insert(id, wait);
            }
            // Who came just now, and is no further than who waits.
            if view.competing && !self.competing.contains(&id) {
                let times = views.iter().map(|view| (view.tenant, view.vtime_ns));
                let no_further: BTreeSet<TenantId> = times
                    .filter(|(other, time)| *other != id && view.vtime_ns <= *time)
                    .map(|(other, _)| other)
                    .collect();
                let waits = self.waits.iter_mut();
                for (_, wait) in waits.filter(|(other, _)| no_further.contains(other)) {
                    wait.tied.insert(id);
                }
            }
        }
        let competing = views.iter().filter(|view| view.competing);
        self.competing = competing.map(|view| view.tenant).collect();
        Ok(())
    }

    /// Those that got the lane just now are still in the list.
    fn judge(&mut self, sim: &Sim, limits: &Limits) -> Result<(), String> {
        for (id, wait) in &self.waits {
            let waited = sim.now - wait.since;
            let tied = wait.tied.len() as u32;
            let kills_ns = (sim.latency_ns + sim.kill_ns) * (u64::from(tied) + 1);
            let late_ns = sim.jumped_ns - wait.jumped_ns + kills_ns;
            let bound = limits.wait_bound_ns(tied, late_ns);
            let milli = u128::from(waited) * 1000 / u128::from(bound);
            self.worst_milli = self.worst_milli.max(milli);
            if waited > bound {
                return Err(format!(
                    "{id:?} waits for {waited} ns, behind {tied} that are as far, bound {bound} ns"
                ));
            }
        }
        Ok(())
    }
}
