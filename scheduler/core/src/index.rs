//! Keeps every index that depends on a tenant in step with it.
//!
//! Who waits, who is idle, who wants a worker, who competes, and in which order: all of it follows
//! from the tenant's queues, workers and virtual times, and is derived here and nowhere else. The
//! price is O(queues of the tenant × log n) for each event, never a walk over all tenants.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::kinds::Group;
use crate::vtime::{self, VTime};
use crate::worker::Class;
use crate::{DeviceId, Nanos, TenantId};

/// A device on which a tenant has workers.
pub(crate) struct Seat {
    pub device: DeviceId,
    /// One of them runs, or could run if it had a lane.
    pub competes: bool,
    /// What their running leases have reserved and not used.
    reserved_ns: Nanos,
}

impl Core {
    /// Brings the indexes in step with a tenant. To be called after any change to it, once the
    /// change is complete: a state that is true only in between must not let it leave and rejoin.
    pub(crate) fn reindex(&mut self, id: TenantId) {
        let seats = self.seats(id);
        let competes_on = |on| seats.iter().any(|seat| seat.device == on && seat.competes);
        self.follow_standings(id, competes_on);
        self.reindex_flows(id, &seats);
    }

    /// The devices on which a tenant has workers that serve a queue.
    pub(crate) fn seats(&self, id: TenantId) -> Vec<Seat> {
        let mut seats: Vec<Seat> = Vec::new();
        let Some(tenant) = self.tenants.get(&id) else {
            return seats;
        };
        for flow in tenant.flows.values() {
            let Some(worker) = flow.worker.and_then(|worker| self.workers.get(&worker)) else {
                continue;
            };
            let class = worker.class(!flow.queue.is_empty());
            let competes = matches!(class, Class::Waiting | Class::Leased);
            let lease = worker.lease.as_ref();
            let reserved_ns = lease.map_or(0, |lease| lease.reserved_left(self.now));
            match seats.iter_mut().find(|seat| seat.device == worker.device) {
                Some(seat) => {
                    seat.competes |= competes;
                    seat.reserved_ns = seat.reserved_ns.saturating_add(reserved_ns);
                }
                None => seats.push(Seat {
                    device: worker.device,
                    competes,
                    reserved_ns,
                }),
            }
        }
        seats
    }

    /// Virtual time on a device plus what running leases there have reserved and not used: what decides who is next.
    pub(crate) fn effective_time(&self, id: TenantId, on: DeviceId) -> VTime {
        let tenant = self.tenants.get(&id);
        tenant.map_or(0, |tenant| {
            effective(tenant.time_on(on), tenant.weight(), &self.seats(id), on)
        })
    }

    fn reindex_flows(&mut self, id: TenantId, seats: &[Seat]) {
        let Some(tenant) = self.tenants.get_mut(&id) else {
            return;
        };
        let (starting, weight, regions) =
            (tenant.starting, tenant.weight(), tenant.settings.regions);
        for (model, flow) in tenant.flows.iter_mut() {
            let accelerates = self.accelerated.contains(&model);
            let group = Group {
                accelerates,
                regions,
            };
            let kind = self.wanted.kind_for(group);
            let wants = flow.wants_worker(self.now);
            let time = tenant.places[kind as usize].time;
            let want = wants.then_some((starting, time, id, model));
            self.wanted.change(group, &mut flow.want, want);
            flow.filled = false;

            let Some(worker) = flow.worker.and_then(|worker| self.workers.get_mut(&worker)) else {
                continue;
            };
            let on = worker.device;
            let Some(device) = self.devices.get_mut(&on) else {
                continue;
            };
            let class = worker.class(!flow.queue.is_empty());
            let wait = (class == Class::Waiting).then(|| {
                let time = tenant.parts.get(&on).map_or(0, |part| part.standing.time);
                let effective = effective(time, weight, seats, on);
                (effective, id, worker.last_lease, worker.id)
            });
            if wait.is_some()
                && let Some(part) = tenant.parts.get_mut(&on)
            {
                part.claim = None;
            }
            let idle = (class == Class::Idle).then_some((worker.last_used, worker.id));
            replace(&mut device.waiting, &mut worker.wait, wait);
            replace(&mut device.idle, &mut worker.idle, idle);
        }
    }
}

fn effective(time: VTime, weight: u32, seats: &[Seat], on: DeviceId) -> VTime {
    let seat = seats.iter().find(|seat| seat.device == on);
    let reserved_ns = seat.map_or(0, |seat| seat.reserved_ns);
    time.saturating_add(vtime::from_lane(reserved_ns, weight))
}

pub(crate) fn replace<K: Copy + Ord>(set: &mut BTreeSet<K>, held: &mut Option<K>, new: Option<K>) {
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
