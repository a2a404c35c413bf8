//! Several lanes of one device, and what nobody is owed there.
//!
//! With one lane, whoever competes has it or waits for it. With several, a tenant can have all that it can use: a worker
//! computes on one lane, so a tenant with one worker has one, whatever its weight (such weights are called infeasible: Chandra,
//! Adler, Goyal and Shenoy, *Surplus Fair Scheduling*, OSDI 2000). Others get ahead of it by weight meanwhile and take nothing
//! from it. Were that a claim, it would grow for as long as this lasts, and the tenant, once it can use more, would have all lanes
//! for as long again; and newcomers, who are lifted to the time of whoever is furthest behind, would too.
//!
//! So who has lanes and waits for none is never further behind than it was when it stopped waiting, and then not by more than
//! `Limits::claim_ns`: behind the first of those that wait, or, where nobody waits, behind whoever is furthest ahead. What it was behind by
//! then is its claim, as others may have got ahead while it waited.

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
        let Some(then) = self.reference(on) else {
            return;
        };
        for id in self.satisfied(on) {
            let most = self.claim_max(on);
            let part = self.tenants.get_mut(&id);
            let Some(part) = part.and_then(|tenant| tenant.parts.get_mut(&on)) else {
                continue;
            };
            let behind = then.saturating_sub(part.standing.time);
            let claim = *part.claim.get_or_insert(behind.min(most));
            if behind > claim {
                part.standing.time = then - claim;
                self.reindex(id);
            }
        }
    }

    /// Whether nobody who has all that it can use is further behind than its claim. For tests.
    pub(crate) fn claims_are_dropped(&self, on: DeviceId) -> bool {
        let Some(then) = self.reference(on) else {
            return true;
        };
        self.satisfied(on).into_iter().all(|id| {
            let part = (self.tenants.get(&id)).and_then(|tenant| tenant.parts.get(&on));
            part.is_none_or(|part| {
                let behind = then.saturating_sub(part.standing.time);
                part.claim.is_some_and(|claim| behind <= claim)
            })
        })
    }

    fn claim_max(&self, on: DeviceId) -> VTime {
        let lanes = self.devices.get(&on).map_or(1, |device| device.lanes);
        vtime::from_lane(self.limits.claim_ns(lanes), 1)
    }

    /// What those are behind of that have all that they can use. None on a device with one lane, where there are none, and on one
    /// that nobody uses.
    fn reference(&self, on: DeviceId) -> Option<VTime> {
        let device = self.devices.get(&on).filter(|device| device.lanes > 1)?;
        let time = |id: TenantId| (self.tenants.get(&id)).map_or(0, |tenant| tenant.time_on(on));
        let first = device.waiting.first().map(|key| time(key.1));
        first.or_else(|| self.holders(on).into_iter().map(time).max())
    }

    /// The tenants that have lanes of a device, each once.
    fn holders(&self, on: DeviceId) -> Vec<TenantId> {
        let running = self.devices.get(&on).map(|device| device.running.keys());
        let workers = (running.into_iter().flatten()).filter_map(|id| self.workers.get(&id));
        let mut holders: Vec<TenantId> = workers.map(|worker| worker.tenant).collect();
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// Those of them that wait for no other.
    fn satisfied(&self, on: DeviceId) -> Vec<TenantId> {
        let mut holders = self.holders(on);
        holders.retain(|id| !self.waits_on(*id, on));
        holders
    }

    /// Whether a worker of this tenant waits for a lane of this device.
    fn waits_on(&self, id: TenantId, on: DeviceId) -> bool {
        let flows = self.tenants.get(&id).map(|tenant| tenant.flows.values());
        let workers = (flows.into_iter().flatten()).filter_map(|flow| flow.worker);
        let mut workers = workers.filter_map(|worker| self.workers.get(&worker));
        workers.any(|worker| worker.device == on && worker.wait.is_some())
    }
}
