//! The state machine: what it holds, and the order in which one event is worked off.
//!
//! Every event goes the same way: time passes (running leases are charged), the event itself, what
//! its time makes due (deadlines, overdue yields), placement, lanes, the next wake-up. The event
//! comes before what is due, so that a result that arrived counts.

use std::collections::BTreeSet;

use crate::cost::CostBook;
use crate::fair::FairSet;
use crate::few::Few;
use crate::kinds::{Group, Wanted};
use crate::lane::Device;
use crate::map::IdMap;
use crate::memory::QueueMemory;
use crate::rates::Taken;
use crate::reports::Did;
use crate::tenant::{Flow, Tenant};
use crate::worker::Worker;
use crate::{
    AgentId, DeviceId, Effect, Event, Limits, ModelId, Nanos, Priority, RequestId, Slot, TenantId,
    TenantSettings, WorkerId,
};

/// The scheduling state machine. See the crate's documentation for its rules.
#[derive(Debug)]
pub struct Core {
    pub(crate) limits: Limits,
    pub(crate) now: Nanos,
    pub(crate) draining: bool,
    pub(crate) next_worker: u64,
    pub(crate) next_lease: u64,
    pub(crate) next_arrival: u64,
    pub(crate) tenants: IdMap<TenantId, Box<Tenant>>,
    pub(crate) devices: Few<DeviceId, Device>,
    pub(crate) workers: IdMap<WorkerId, Box<Worker>>,
    pub(crate) requests: IdMap<RequestId, Box<Request>>,
    /// Agents that have requests open.
    pub(crate) agents: BTreeSet<(AgentId, TenantId)>,
    pub(crate) deadlines: BTreeSet<(Nanos, RequestId)>,
    pub(crate) memory: QueueMemory,
    pub(crate) costs: CostBook,
    /// Order and floor of the tenants that compete on devices of each kind, for their places there.
    pub(crate) places: [FairSet<TenantId>; 2],
    /// Workers that occupy a lane, on any device.
    pub(crate) leased: Few<WorkerId>,
    /// Queues that have work and no worker.
    pub(crate) wanted: Wanted,
    /// Models that run on accelerators.
    pub(crate) accelerated: BTreeSet<ModelId>,
    /// Queues for which nothing is started, and until when.
    pub(crate) backoffs: BTreeSet<(Nanos, TenantId, ModelId)>,
    /// Workers that get nothing new, so that another can have their place.
    pub(crate) retiring: BTreeSet<WorkerId>,
    /// Before this, nobody needs to look for a worker to retire, on devices of each kind.
    pub(crate) retire_at: [Nanos; 2],
    /// The wake-up that the driver was last asked for.
    pub(crate) wake: Option<Nanos>,
}

/// An accepted request that has not ended.
#[derive(Debug)]
pub(crate) struct Request {
    pub tenant: TenantId,
    pub agent: AgentId,
    pub model: ModelId,
    /// As estimated from its bytes.
    pub tokens_in: u32,
    pub tokens_out_max: u32,
    /// Of its answer, as far as its worker has told.
    pub tokens_out: u32,
    /// Expected when it was accepted.
    pub cost_ns: Nanos,
    /// What it took from what its tenant may have a minute, until it is known what it came to.
    pub metered: Option<Taken>,
    /// What its agent has been charged for it so far.
    pub charged_ns: Nanos,
    /// Tokens of requests that went past it while it was first and did not fit, and what they cost.
    pub passed_by: u64,
    pub passed_ns: Nanos,
    pub bytes: u64,
    pub deadline: Option<Nanos>,
    pub priority: Priority,
    pub arrival: u64,
    /// The worker that holds it; `None` while it waits.
    pub worker: Option<WorkerId>,
    /// Lane time that this worker had had by when it was given the request.
    pub lane_ns_before: Nanos,
    /// A piece of its answer has gone out.
    pub answering: bool,
    /// A device has gone bad under it.
    pub moved: bool,
}

impl Request {
    /// Its place among those of its agent.
    pub(crate) fn slot(&self, id: RequestId) -> Slot {
        let deadline = self.deadline.unwrap_or(Nanos::MAX);
        (self.priority, deadline, self.arrival, id)
    }

    /// Tokens in and out of which a worker says that they were computed, as far as that can be: a token of text is at
    /// least one byte, whatever was estimated.
    pub(crate) fn bounded(&self, (tokens_in, tokens_out): (u32, u32)) -> (u64, u64) {
        let tokens_in_max = self.bytes.max(u64::from(self.tokens_in));
        (
            u64::from(tokens_in).min(tokens_in_max),
            u64::from(tokens_out.min(self.tokens_out_max)),
        )
    }
}

impl Core {
    /// An empty core. Limits that would stop everything (a quantum of 0 ns, no attempt to start a
    /// worker) count as 1.
    pub fn new(mut limits: Limits) -> Self {
        limits.quantum_ns = limits.quantum_ns.max(1);
        limits.start_attempts_max = limits.start_attempts_max.max(1);
        let memory = QueueMemory::new(limits.queue_bytes_max, limits.tenant_reserved_bytes);
        Core {
            limits,
            now: 0,
            draining: false,
            next_worker: 1,
            next_lease: 1,
            next_arrival: 0,
            tenants: IdMap::default(),
            devices: Few::default(),
            workers: IdMap::default(),
            requests: IdMap::default(),
            agents: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            memory,
            costs: CostBook::default(),
            places: Default::default(),
            leased: Few::default(),
            wanted: Wanted::default(),
            accelerated: BTreeSet::new(),
            backoffs: BTreeSet::new(),
            retiring: BTreeSet::new(),
            retire_at: [0; 2],
            wake: None,
        }
    }

    /// Takes one event at time `now` and appends what has to be done to `effects`, in the order in
    /// which it has to be done. A `now` before an earlier one counts as that earlier one.
    pub fn handle(&mut self, now: Nanos, event: Event, effects: &mut Vec<Effect>) {
        self.advance(now);
        self.drop_claims();
        match event {
            Event::DeviceUp {
                device,
                kind,
                region,
                lanes,
                workers_max,
            } => self.device_up(device, || Device::new(kind, region, lanes, workers_max)),
            Event::DeviceRoom { device, workers } => self.device_room(device, workers),
            Event::DeviceDown { device } => self.device_down(device, effects),
            Event::ModelAccelerates { model } => self.model_accelerates(model),
            Event::TenantSet { tenant, settings } => self.tenant_set(tenant, settings, effects),
            Event::Submit(submission) => self.submit(submission, effects),
            Event::Cancel { request, why } => self.cancel(request, why, effects),
            Event::CancelAgent { agent, why } => self.cancel_agent(agent, why, effects),
            Event::WorkerReady { worker } => self.worker_ready(worker),
            Event::WorkerFailed { worker, failure } => self.worker_failed(worker, failure, effects),
            Event::WorkerDied { worker } => self.worker_died(worker, effects),
            Event::Answering { worker, request } => self.answering(worker, request),
            Event::Stepped {
                worker,
                lease,
                step_ns,
                tokens,
                kv_bytes,
                answers,
            } => {
                let did = Did {
                    step_ns,
                    tokens,
                    kv_bytes,
                    answers,
                };
                self.stepped(worker, lease, did, effects);
            }
            Event::Finished {
                worker,
                request,
                tokens_in,
                tokens_out,
                outcome,
            } => {
                self.finished(worker, request, (tokens_in, tokens_out), outcome, effects);
            }
            Event::Released { worker, lease, dry } => self.released(worker, lease, dry, effects),
            Event::RetireModel { model } => self.retire_model(model),
            Event::Drain => self.draining = true,
            Event::Tick => {}
        }
        self.expire(effects);
        self.kill_overdue(effects);
        self.end_backoffs(effects);
        self.place(effects);
        self.dispatch(effects);
        self.unload(effects);
        self.ask_to_be_woken(effects);
    }

    /// Lets time pass: whoever occupies a lane is charged for it, whatever it does there.
    fn advance(&mut self, now: Nanos) {
        let passed = now.saturating_sub(self.now);
        self.now = self.now.max(now);
        if passed == 0 {
            return;
        }
        let mut holders = 0;
        while let Some(worker) = self.leased.nth(holders) {
            self.charge_holder(worker, passed);
            holders += 1;
        }
    }

    /// Charges the tenant of a worker that occupies a lane.
    fn charge_holder(&mut self, worker: WorkerId, passed: Nanos) {
        let Some(holder) = self.workers.get(&worker) else {
            return;
        };
        let (id, on) = (holder.tenant, holder.device);
        let both = self.tenants.get_mut(&id).zip(self.devices.get_mut(&on));
        let Some((tenant, device)) = both else {
            return;
        };
        device.share.advance(passed);
        tenant.charge((on, device.kind), passed);
        // Where no other worker of the tenant, and no queue without one, has a place that follows from its time.
        let alone = tenant
            .flows
            .values()
            .all(|flow| flow.worker == Some(worker));
        match alone {
            true => {
                if let Some(part) = tenant.parts.get_mut(&on) {
                    part.standing.keep_up(&mut device.fair, id);
                }
                let kind = device.kind as usize;
                tenant.places[kind].keep_up(&mut self.places[kind], id);
            }
            false => self.reindex(id),
        }
    }

    fn tenant_set(
        &mut self,
        id: TenantId,
        mut settings: TenantSettings,
        effects: &mut Vec<Effect>,
    ) {
        settings.weight = settings.weight.max(1);
        self.memory.add_tenant(id);
        let tenant = self
            .tenants
            .entry(id)
            .or_insert_with(|| Box::new(Tenant::new(settings.clone())));
        let (before, weight) = (tenant.weight(), settings.weight);
        for (on, part) in tenant.parts.iter_mut() {
            let Some(device) = self.devices.get_mut(&on) else {
                continue;
            };
            let standing = &mut part.standing;
            standing.time = device.fair.reweighed(standing.time, before, weight);
            if standing.competing {
                device.share.reweigh(&mut part.owed, before, weight);
            }
        }
        for (standing, fair) in tenant.places.iter_mut().zip(&self.places) {
            standing.time = fair.reweighed(standing.time, before, weight);
        }
        let (rates, regions) = (tenant.rates(), tenant.settings.regions);
        let moves = regions != settings.regions;
        if moves {
            // Its queues wait in another group from now on.
            for (model, flow) in tenant.flows.iter_mut() {
                let accelerates = self.accelerated.contains(&model);
                let group = Group {
                    accelerates,
                    regions,
                };
                self.wanted.change(group, &mut flow.want, None);
            }
        }
        tenant.settings = settings;
        tenant.meters.change(rates, tenant.rates(), self.now);
        self.reindex(id);
        if moves {
            self.follow_residency(id, effects);
        }
    }

    pub(crate) fn flow(&self, tenant: TenantId, model: ModelId) -> Option<&Flow> {
        self.tenants.get(&tenant)?.flows.get(&model)
    }

    pub(crate) fn flow_mut(&mut self, tenant: TenantId, model: ModelId) -> Option<&mut Flow> {
        self.tenants.get_mut(&tenant)?.flows.get_mut(&model)
    }
}
