//! Devices that come, go bad and come back, and what becomes of the work on one that goes bad.
//!
//! A device that is down gets nothing: no worker, no lane. Its workers are killed, and nothing waits for
//! their end, since a process can hang in the driver of a device that is gone: their queues are free to want
//! a worker elsewhere at once. What such a worker held and had not begun to answer goes back to its place in
//! its queue, **once**: a request that met two devices as they went bad may be what spoils them, and is not
//! given a third. An answer that had begun cannot begin again, so it ends.
//!
//! Where no device is left that takes it, what waits ends too, and what comes is refused: both are told when to ask again.

use crate::core::Core;
use crate::lane::Device;
use crate::worker::Life;
use crate::{DeviceId, DeviceKind, Effect, End, KillReason, ModelId, Regions, RequestId, WorkerId};

impl Core {
    /// A new device, or one that was down. One that is there keeps what it came with.
    pub(crate) fn device_up(&mut self, id: DeviceId, new: impl FnOnce() -> Device) {
        self.devices.get_or_insert_with(id, new).up = true;
    }

    /// Nothing new is started on it beyond so many workers; those that run stay.
    pub(crate) fn device_room(&mut self, id: DeviceId, workers: u32) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.room = device.workers_max.min(workers as usize);
        }
    }

    pub(crate) fn device_down(&mut self, id: DeviceId, effects: &mut Vec<Effect>) {
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.up) else {
            return;
        };
        device.up = false;
        let workers: Vec<WorkerId> = device.workers.iter().copied().collect();
        for worker in workers {
            self.abandon(worker, KillReason::DeviceDown, effects);
            self.may_hang(worker);
        }
        self.end_what_waits(effects);
    }

    /// A piece of this request's answer has gone out.
    pub(crate) fn answering(&mut self, worker: WorkerId, request: RequestId) {
        let held = self.requests.get_mut(&request);
        if let Some(request) = held.filter(|request| request.worker == Some(worker)) {
            request.answering = true;
        }
    }

    /// Kills a worker for no fault of its own and takes everything from it but its place, which its process
    /// has until it has died.
    pub(crate) fn abandon(&mut self, id: WorkerId, why: KillReason, effects: &mut Vec<Effect>) {
        self.settle(id, effects);
        // One that it had when it went down before may be there still.
        let worker = self.workers.get(&id).filter(|worker| !worker.abandoned);
        let served_ns = worker.map(|worker| self.served_ns(worker));
        let Some((worker, served_ns)) = self.workers.get_mut(&id).zip(served_ns) else {
            return;
        };
        let (held, dropped) = worker.let_go_of_all();
        worker.abandoned = true;
        let (tenant, model, before) = (worker.tenant, worker.model, worker.life);
        // No failure of its own: no backoff follows.
        worker.life = Life::Stopping;
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.starting -= u32::from(before == Life::Starting);
        }
        if matches!(before, Life::Starting | Life::Ready) {
            self.mark_leaving(id);
            effects.push(Effect::KillWorker { worker: id, why });
        }
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.no_more_by(id);
        }
        if before == Life::Ready {
            self.ended_well(tenant, model, served_ns);
        }
        for mut request in dropped {
            self.settle_dropped(&mut request, (0, 0));
        }
        for request in held {
            self.move_or_end(request, effects);
        }
        self.reindex(tenant);
    }

    /// Nobody counts on the place of a worker whose device went down.
    fn may_hang(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && !std::mem::replace(&mut worker.device_lost, true)
            && let Some(device) = self.devices.get_mut(&worker.device)
        {
            device.abandoned += 1;
        }
    }

    fn move_or_end(&mut self, id: RequestId, effects: &mut Vec<Effect>) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let may = !request.answering && !request.moved;
        let (tenant, bytes) = (request.tenant, request.bytes);
        // Its queue memory was given back when it was assigned, and others may have it by now.
        if may && self.memory.take(tenant, bytes).is_ok() {
            self.wait_again(id);
            effects.push(Effect::Requeued { request: id });
        } else {
            self.settle_lost(id);
            self.end_unqueued(id, End::DeviceLost, effects);
        }
    }

    /// Puts a request where it stood before it was assigned, and gives back what its agent was charged.
    fn wait_again(&mut self, id: RequestId) {
        self.charge_agent(id, 0);
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        request.worker = None;
        request.moved = true;
        request.tokens_out = 0;
        let slot = request.slot(id);
        let Some(tenant) = self.tenants.get_mut(&request.tenant) else {
            return;
        };
        tenant.queued += 1;
        tenant.queued_cost_ns += u128::from(request.cost_ns);
        let flow = tenant.flow_or_new(request.model);
        flow.queue.push(request.agent, slot);
    }

    /// Ends what waits and for which no device is left.
    pub(crate) fn end_what_waits(&mut self, effects: &mut Vec<Effect>) {
        let waiting = (self.requests.iter()).filter(|(_, one)| one.worker.is_none());
        let ended = waiting.filter_map(|(id, request)| {
            let regions = self.tenants.get(&request.tenant)?.settings.regions;
            match self.is_taken(request.model, regions) {
                true => None,
                false if self.is_anywhere(regions) => Some((*id, End::NoDevice)),
                false => Some((*id, End::Residency)),
            }
        });
        let mut ended: Vec<(RequestId, End)> = ended.collect();
        ended.sort_unstable_by_key(|(id, _)| *id);
        for (request, end) in ended {
            self.end(request, end, effects);
        }
    }

    /// Whether a device that is up takes this model in any of these regions.
    fn is_taken(&self, model: ModelId, regions: Regions) -> bool {
        let up = |kind| (self.devices_of(kind, regions)).any(|(_, device)| device.up);
        up(DeviceKind::Processor) || self.accelerates(model) && up(DeviceKind::Accelerator)
    }
}
