//! Keeps every index that depends on a tenant in step with it.
//!
//! Who waits, who is idle, who wants a worker, who competes, and in which order: all of it follows
//! from the tenant's queues, workers and virtual time, and is derived here and nowhere else. The
//! price is O(queues of the tenant × log n) for each event, never a walk over all tenants.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::vtime::{self, VTime};
use crate::worker::{Class, Worker};
use crate::{ModelId, TenantId};

impl Core {
    /// Brings the indexes in step with a tenant. To be called after any change to it, once the
    /// change is complete: a state that is true only in between must not let it leave and rejoin.
    pub(crate) fn reindex(&mut self, id: TenantId) {
        let competes = self.competes(id);
        let Some(tenant) = self.tenants.get_mut(&id) else {
            return;
        };
        let weight = tenant.weight();
        let credit = vtime::from_lane(self.limits.burst_ns, weight);
        match (tenant.competing, competes) {
            (false, true) => {
                tenant.time = self.fair.join(id, tenant.time, credit);
                self.share.join(&mut tenant.owed, weight);
            }
            (true, true) => self.fair.set(id, tenant.time),
            (true, false) => {
                self.fair.set(id, tenant.time);
                self.fair.leave(id);
                self.share.leave(&mut tenant.owed, weight);
            }
            (false, false) => {}
        }
        tenant.competing = competes;
        let (time, starting) = (tenant.time, tenant.starting);
        let effective = self.effective_time(id);
        let models: Vec<ModelId> = self
            .tenants
            .get(&id)
            .map(|t| t.flows.keys().copied().collect())
            .unwrap_or_default();
        for model in models {
            self.reindex_flow(id, model, time, effective, starting);
        }
    }

    /// Virtual time plus what running leases have reserved and not used: what decides who is next.
    pub(crate) fn effective_time(&self, id: TenantId) -> VTime {
        let Some(tenant) = self.tenants.get(&id) else {
            return 0;
        };
        let reserved: u64 = self
            .workers_of(id)
            .filter_map(|worker| worker.lease.as_ref())
            .map(|lease| lease.reserved_left(self.now))
            .fold(0, u64::saturating_add);
        tenant
            .time
            .saturating_add(vtime::from_lane(reserved, tenant.weight()))
    }

    pub(crate) fn workers_of(&self, id: TenantId) -> impl Iterator<Item = &Worker> {
        let flows = self
            .tenants
            .get(&id)
            .into_iter()
            .flat_map(|tenant| tenant.flows.values());
        flows.filter_map(|flow| self.workers.get(&flow.worker?).map(Box::as_ref))
    }

    fn competes(&self, id: TenantId) -> bool {
        let Some(tenant) = self.tenants.get(&id) else {
            return false;
        };
        tenant.flows.values().any(|flow| {
            let worker = flow.worker.and_then(|worker| self.workers.get(&worker));
            worker.is_some_and(|worker| {
                matches!(
                    worker.class(!flow.queue.is_empty()),
                    Class::Waiting | Class::Leased
                )
            })
        })
    }

    fn reindex_flow(
        &mut self,
        id: TenantId,
        model: ModelId,
        time: VTime,
        effective: VTime,
        starting: u32,
    ) {
        let Some(flow) = self
            .tenants
            .get_mut(&id)
            .and_then(|t| t.flows.get_mut(&model))
        else {
            return;
        };
        let queued = !flow.queue.is_empty();
        let wants = flow.wants_worker(self.now);
        let accelerates = self.accelerated.contains(&model);
        replace(
            self.wanted.of(accelerates),
            &mut flow.want,
            wants.then_some((starting, time, id, model)),
        );

        let Some(worker) = flow.worker.and_then(|worker| self.workers.get_mut(&worker)) else {
            return;
        };
        let Some(device) = self.devices.get_mut(&worker.device) else {
            return;
        };
        let class = worker.class(queued);
        let wait =
            (class == Class::Waiting).then_some((effective, id, worker.last_lease, worker.id));
        let idle = (class == Class::Idle).then_some((worker.last_used, worker.id));
        replace(&mut device.waiting, &mut worker.wait, wait);
        replace(&mut device.idle, &mut worker.idle, idle);
    }
}

fn replace<K: Copy + Ord>(set: &mut BTreeSet<K>, held: &mut Option<K>, new: Option<K>) {
    if *held == new {
        return;
    }
    if let Some(old) = held.take() {
        set.remove(&old);
    }
    if let Some(key) = new {
        set.insert(key);
    }
    *held = new;
}
