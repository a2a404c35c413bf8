//! Several lanes of one device, and what nobody is owed there.
//!
//! With one lane, whoever competes has it or waits for it. With several, a tenant can have all that it can use: a worker
//! computes on one lane, so a tenant with one worker has one, whatever its weight (such weights are called infeasible: Chandra,
//! Adler, Goyal and Shenoy, *Surplus Fair Scheduling*, OSDI 2000). Others get ahead of it by weight meanwhile and take nothing
//! from it. Were that a claim, it would grow for as long as this lasts, and the tenant, once it can use more, would have all lanes
//! for as long again; and newcomers, who are lifted to the time of whoever is furthest behind, would too.
//!
//! So who has lanes and waits for none is never further behind than `Limits::claim_ns`: behind the first of those that wait, or,
//! where nobody waits, behind whoever is furthest ahead. It may be so far behind, since it may have waited before.

use crate::core::Core;
use crate::vtime::{self, VTime};
use crate::{DeviceId, TenantId};

impl Core {
    /// To be called whenever time has passed, before anything else happens, and once it is known who has lanes and who waits.
    pub(crate) fn drop_claims(&mut self) {
        let mut devices = 0;
        while let Some(on) = self.devices.nth(devices) {
            self.drop_claims_on(on);
            devices += 1;
        }
    }

    pub(crate) fn drop_claims_on(&mut self, on: DeviceId) {
        for (id, least) in self.claims(on) {
            if let Some(tenant) = self.tenants.get_mut(&id)
                && let Some(part) = tenant.parts.get_mut(&on)
            {
                part.standing.time = part.standing.time.max(least);
            }
            self.reindex(id);
        }
    }

    /// Who is further behind than it may be, and the least that its time may be.
    fn claims(&self, on: DeviceId) -> Vec<(TenantId, VTime)> {
        let Some(device) = self.devices.get(&on).filter(|device| device.lanes > 1) else {
            return Vec::new();
        };
        let time = |id: TenantId| (self.tenants.get(&id)).map_or(0, |tenant| tenant.time_on(on));
        let holders = || {
            let workers = device.running.keys().filter_map(|id| self.workers.get(&id));
            workers.map(|worker| worker.tenant)
        };
        let first = device.waiting.first().map(|key| time(key.1));
        let Some(then) = first.or_else(|| holders().map(time).max()) else {
            return Vec::new();
        };
        let least = then.saturating_sub(vtime::from_lane(self.limits.claim_ns(device.lanes), 1));
        let behind = holders().filter(|id| time(*id) < least && !self.waits_on(*id, on));
        behind.map(|id| (id, least)).collect()
    }

    /// Whether a worker of this tenant waits for a lane of this device.
    fn waits_on(&self, id: TenantId, on: DeviceId) -> bool {
        let flows = self.tenants.get(&id).map(|tenant| tenant.flows.values());
        let workers = (flows.into_iter().flatten()).filter_map(|flow| flow.worker);
        let mut workers = workers.filter_map(|worker| self.workers.get(&worker));
        workers.any(|worker| worker.device == on && worker.wait.is_some())
    }
}
