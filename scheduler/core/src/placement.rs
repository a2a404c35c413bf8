//! Placement: which queue gets a worker, on which device, and who makes room for it.
//!
//! A queue with work and no worker asks for one. Start slots go first to the tenant with the fewest
//! workers starting, then to the least virtual time (`standing`: that of the kind of devices), so that nobody's many models keep another
//! tenant out. The device with the most free places gets it, of those of the kind that the model is for (`kinds`):
//! each kind has its places, and who waits for one of them waits for no other.
//!
//! Where all places are taken, the least recently used idle worker is evicted. Where none is idle,
//! the worker of the tenant that is furthest ahead retires: it gets nothing new, ends what it holds
//! and is then evicted. It has been ready for at least as long as it took to start, and for
//! `RESIDENCE_QUANTA`, so that starting costs at most about half of what there is to win.
//!
//! A device that is down has no places, and its workers' ends make none.
//! A start in progress earns no credit: the tenant is lifted to the floor when its worker is ready.

use std::collections::BTreeMap;

use crate::core::Core;
use crate::kinds::KINDS;
use crate::tenant::WantKey;
use crate::vtime::VTime;
use crate::worker::{Life, Worker};
use crate::{DeviceId, DeviceKind, Effect, ModelId, Nanos, RegionId, Regions, WorkerId};

/// A worker keeps its place for at least this many quanta, once it is ready.
const RESIDENCE_QUANTA: u64 = 8;

impl Core {
    pub(crate) fn place(&mut self, effects: &mut Vec<Effect>) {
        self.follow_kinds();
        if self.wanted.is_empty() && self.retiring.is_empty() {
            return;
        }
        for kind in KINDS {
            while let Some((want, device)) = self.next_start(kind) {
                self.start_worker(want, device, effects);
            }
        }
        for kind in KINDS {
            self.make_room(kind, effects);
        }
        // Last, as who was just retired may have nothing left.
        self.stop_retired(effects);
    }

    /// Whose turn it is of those that there is a place for, and the device.
    fn next_start(&self, kind: DeviceKind) -> Option<(WantKey, DeviceId)> {
        let groups = self.wanted.waiting_for(kind);
        let starts = groups.filter_map(|(group, first, _)| {
            Some((first, self.roomiest_device(kind, group.regions)?))
        });
        starts.min_by_key(|(first, _)| *first)
    }

    fn roomiest_device(&self, kind: DeviceKind, regions: Regions) -> Option<DeviceId> {
        let free = self.devices_of(kind, regions);
        let free = free.filter(|(_, device)| device.free() > 0);
        free.max_by_key(|(id, device)| (device.free(), std::cmp::Reverse(*id)))
            .map(|(id, _)| id)
    }

    fn start_worker(&mut self, want: WantKey, on: DeviceId, effects: &mut Vec<Effect>) {
        let (_, _, tenant, model) = want;
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        let mut worker = Worker::new(id, tenant, model, on, self.now);
        worker.restart = (self.flow(tenant, model)).is_some_and(|flow| flow.backoff.failures() > 0);
        self.workers.insert(id, Box::new(worker));
        if let Some(device) = self.devices.get_mut(&on) {
            device.workers.insert(id);
        }
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.serve_by(id, on);
        }
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.starting += 1;
        }
        self.take_part(tenant, on);
        self.reindex(tenant);
        effects.push(Effect::StartWorker {
            worker: id,
            tenant,
            model,
            device: on,
        });
    }

    /// Ends workers that were retiring and have nothing left.
    fn stop_retired(&mut self, effects: &mut Vec<Effect>) {
        let done: Vec<WorkerId> = self
            .retiring
            .iter()
            .filter(|id| {
                self.workers
                    .get(id)
                    .is_some_and(|w| w.lease.is_none() && !w.holds_work())
            })
            .copied()
            .collect();
        for worker in done {
            self.stop_worker(worker, effects);
        }
    }

    /// Evicts or retires one worker for each queue that wants a worker and finds no place where it may be.
    fn make_room(&mut self, kind: DeviceKind, effects: &mut Vec<Effect>) {
        // Whoever retires may take its time, and an idle one takes none.
        while let Some(worker) = self.idle_in_the_way(kind) {
            self.stop_worker(worker, effects);
        }
        if self.now < self.retire_at[kind as usize] {
            return;
        }
        for (regions, first) in self.short_of(kind, self.places_coming(kind)) {
            self.retire_one(kind, regions, first);
        }
    }

    /// The worker that has been idle for longest, of those whose place is of use to a queue that will find none.
    fn idle_in_the_way(&self, kind: DeviceKind) -> Option<WorkerId> {
        let short = self.short_of(kind, self.places_leaving(kind));
        short.into_iter().find_map(|(regions, _)| {
            let devices = self.devices_of(kind, regions);
            let devices = devices.filter(|(_, device)| device.may_start());
            let idle = devices.filter_map(|(_, device)| device.idle.first()).min();
            idle.map(|(_, worker)| *worker)
        })
    }

    /// The groups of queues for which these places that become free are not enough, each with whose turn it is. Those that may
    /// be in fewer regions have them first.
    fn short_of(
        &self,
        kind: DeviceKind,
        mut places: BTreeMap<RegionId, usize>,
    ) -> Vec<(Regions, WantKey)> {
        let mut groups: Vec<_> = self.wanted.waiting_for(kind).collect();
        groups.sort_by_key(|(group, first, _)| (group.regions.count(), *first));
        let short = groups.into_iter().filter_map(|(group, first, mut queues)| {
            let of_use = (places.iter_mut()).filter(|(region, _)| group.regions.contains(**region));
            for (_, free) in of_use {
                let taken = queues.min(*free);
                *free -= taken;
                queues -= taken;
            }
            (queues > 0).then_some((group.regions, first))
        });
        short.collect()
    }

    /// Has the worker of whoever is furthest ahead retire for a queue that wants one.
    fn retire_one(&mut self, kind: DeviceKind, regions: Regions, (_, wanting, ..): WantKey) {
        self.retire_at[kind as usize] = self.now.saturating_add(self.limits.quantum_ns);
        let ahead = self
            .workers
            .values()
            .filter(|worker| self.is_on(worker, kind, regions))
            .filter_map(|worker| self.seniority(worker, wanting))
            .max();
        if let Some((_, id)) = ahead {
            self.retire(id);
        }
    }

    /// Has the workers that a model has now end once they have finished what they hold. One that is
    /// only starting is left: nobody has asked it anything yet, and it is unloaded like any other.
    pub(crate) fn retire_model(&mut self, model: ModelId) {
        let workers = self.workers.values();
        let of_model = workers.filter(|one| one.model == model && one.life == Life::Ready);
        let mut workers: Vec<WorkerId> = of_model.map(|worker| worker.id).collect();
        workers.sort_unstable();
        for worker in workers {
            self.retire(worker);
        }
    }

    pub(crate) fn retire(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.retiring = true;
        let tenant = worker.tenant;
        self.retiring.insert(id);
        self.reindex(tenant);
    }

    /// Whether a worker may be retired for somebody at `wanting`, and how far ahead its tenant is.
    fn seniority(&self, worker: &Worker, wanting: VTime) -> Option<(VTime, WorkerId)> {
        let tenant = self.tenants.get(&worker.tenant)?;
        let residence = RESIDENCE_QUANTA.saturating_mul(self.limits.quantum_ns);
        let stay = residence.max(worker.ready_at.saturating_sub(worker.started_at));
        let settled_in = self.now.saturating_sub(worker.ready_at) >= stay;
        let device = self.devices.get(&worker.device)?;
        let time = tenant.places[device.kind as usize].time;
        let may = worker.life == Life::Ready
            && !worker.retiring
            && settled_in
            && time >= wanting
            && device.may_start();
        may.then_some((time, worker.id))
    }

    /// Ends an idle worker in good order.
    fn stop_worker(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        debug_assert!(
            worker.lease.is_none() && !worker.holds_work(),
            "only idle workers are stopped"
        );
        worker.life = Life::Stopping;
        self.mark_leaving(id);
        effects.push(Effect::StopWorker { worker: id });
    }

    /// Ends workers that have had nothing to do for `unload_after_ns`. Only idle ones are looked at:
    /// one that holds work, or whose queue has some, is none.
    pub(crate) fn unload(&mut self, effects: &mut Vec<Effect>) {
        while let Some((at, worker)) = self.next_to_unload()
            && at <= self.now
        {
            self.stop_worker(worker, effects);
        }
    }

    /// When somebody has to look again whether a worker is to be unloaded.
    pub(crate) fn unload_wake(&self) -> Option<Nanos> {
        self.next_to_unload().map(|(at, _)| at)
    }

    /// The worker that has been idle for longest, and when that is long enough.
    fn next_to_unload(&self) -> Option<(Nanos, WorkerId)> {
        let after = self.limits.unload_after_ns;
        if after == 0 {
            return None;
        }
        let (used, worker) = *(self.devices.values())
            .filter_map(|d| d.idle.first())
            .min()?;
        Some((used.saturating_add(after), worker))
    }

    /// Books a worker as ending. It keeps its place until it has died.
    pub(crate) fn mark_leaving(&mut self, id: WorkerId) {
        self.retiring.remove(&id);
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let tenant = worker.tenant;
        if let Some(device) = self.devices.get_mut(&worker.device) {
            device.leaving += 1;
        }
        self.reindex(tenant);
    }

    /// Takes a worker that is no more off the books.
    pub(crate) fn forget_worker(&mut self, id: WorkerId) -> Option<Worker> {
        let mut worker = self.workers.remove(&id)?;
        self.retiring.remove(&id);
        self.leased.remove(&id);
        if let Some(device) = self.devices.get_mut(&worker.device) {
            device.workers.remove(&id);
            device.running.remove(&id);
            device.leaving -= usize::from(worker.is_leaving());
            device.abandoned -= usize::from(worker.device_lost);
            if let Some(key) = worker.wait.take() {
                device.waiting.remove(&key);
            }
            if let Some(key) = worker.idle.take() {
                device.idle.remove(&key);
            }
        }
        if let Some(tenant) = self.tenants.get_mut(&worker.tenant) {
            tenant.starting -= u32::from(worker.life == Life::Starting);
            if let Some(flow) = tenant.flows.get_mut(&worker.model) {
                flow.no_more_by(id);
            }
        }
        Some(*worker)
    }

    /// When somebody has to look again whether a worker may retire.
    pub(crate) fn retire_wake(&self) -> Option<Nanos> {
        if self.wanted.is_empty() {
            return None;
        }
        let short = |kind: &DeviceKind| !self.short_of(*kind, self.places_coming(*kind)).is_empty();
        let at = KINDS.into_iter().filter(short);
        at.map(|kind| self.retire_at[kind as usize]).min()
    }

    /// Places of workers that were told to end.
    fn places_leaving(&self, kind: DeviceKind) -> BTreeMap<RegionId, usize> {
        let mut places = BTreeMap::new();
        for (_, device) in self.devices_of(kind, Regions::ANY) {
            *places.entry(device.region).or_default() += device.coming();
        }
        places
    }

    /// Those, and the places of workers that will be told so once they have done what they hold.
    fn places_coming(&self, kind: DeviceKind) -> BTreeMap<RegionId, usize> {
        let mut places = self.places_leaving(kind);
        let retiring = self.retiring.iter().filter_map(|id| self.workers.get(id));
        let devices = retiring.filter_map(|worker| self.devices.get(&worker.device));
        for device in devices.filter(|device| device.kind == kind) {
            *places.entry(device.region).or_default() += 1;
        }
        places
    }
}
