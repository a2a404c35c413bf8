//! Lanes: who gets one, how much work goes with it, and when it is asked back.
//!
//! A free lane goes to the waiting worker whose tenant has the least effective virtual time on that device. With
//! it go as many of that tenant's requests as `batch_tokens_max` allows, at least one. The lease is
//! open-ended: while nobody else waits, work is topped up and nothing is asked back.
//!
//! Somebody waits: the lane is asked back
//! - at once, where the waiting tenant is behind the running one by more than a turn of either;
//! - else after a turn (`turns`: a quantum at the most), once the running tenant has caught up with the waiting one. Before
//!   that it would get the lane again at once, and the turn would only have cost time;
//! - a waiting worker of the same tenant has its own after that.
//!
//! A worker that is to end is asked after its turn, whoever waits.
//!
//! So of two tenants that both always have something to run on a device with one lane, neither's
//! virtual time is ever ahead by more than (quantum + overrun) ÷ weight, where the overrun is one
//! step of a worker that keeps its word, and the release grace plus the time to kill it of one that
//! does not. A tenant that comes is let in behind by a bounded burst (`fair`). The formulas, over
//! intervals and with faults, are in `bounds`.

use crate::core::{Core, Request};
use crate::cost::Work;
use crate::lane::{Device, Lease, WaitKey};
use crate::lengths::LengthBook;
use crate::turns::LeaseTimes;
use crate::vtime::{self, VTime};
use crate::worker::{Held, Life, Worker};
use crate::{DeviceId, Effect, KillReason, LeaseId, ModelId, Nanos, RequestId, TenantId, WorkerId};

/// So many agents are looked at for one whose request fits.
const HEADS_MAX: usize = 16;

impl Core {
    pub(crate) fn dispatch(&mut self, effects: &mut Vec<Effect>) {
        let mut devices = 0;
        while let Some(device) = self.devices.nth(devices) {
            while let Some(worker) = self.next_for_free_lane(device) {
                self.grant(worker, effects);
            }
            self.drop_claims_on(device);
            self.ask_back(device, effects);
            devices += 1;
        }
        // Each has a queue of its own: what one is given changes nothing for another.
        let mut holders = 0;
        while let Some(worker) = self.leased.nth(holders) {
            self.top_up(worker, effects);
            holders += 1;
        }
    }

    fn next_for_free_lane(&self, device: DeviceId) -> Option<WorkerId> {
        let device = self.devices.get(&device)?;
        let free = device.running.len() < device.lanes;
        free.then(|| device.waiting.first().map(|key| key.3))
            .flatten()
    }

    fn grant(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let batch = self.take_batch(id);
        let lease = LeaseId(self.next_lease);
        self.next_lease += 1;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let turn_ns = worker.switch.turn_ns(&self.limits);
        let reserved_ns = worker.expected_ns().min(turn_ns);
        worker.last_lease = lease.0;
        worker.lease = Some(Lease {
            id: lease,
            granted_at: self.now,
            times: LeaseTimes::new(self.now),
            turn_ns,
            yield_at: None,
            reserved_ns,
            work: Work::default(),
            progress: false,
            untold: false,
            had_work: worker.holds_work(),
        });
        self.leased.insert(id);
        let (tenant, device) = (worker.tenant, worker.device);
        if let Some(device) = self.devices.get_mut(&device) {
            device.running.insert(id);
        }
        let model = worker.model;
        self.reindex(tenant);
        self.filled(tenant, model);
        assign(id, batch, effects);
        effects.push(Effect::Grant { worker: id, lease });
    }

    /// Gives a running worker more of its queue, unless its lane was asked back.
    fn top_up(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let keeps = worker
            .lease
            .as_ref()
            .is_some_and(|lease| lease.yield_at.is_none());
        if !keeps || worker.life != Life::Ready || worker.retiring {
            return;
        }
        let (tenant, model) = (worker.tenant, worker.model);
        if self.flow(tenant, model).is_none_or(|flow| flow.filled) {
            return;
        }
        let batch = self.take_batch(id);
        if !batch.is_empty() {
            self.reindex(tenant);
            assign(id, batch, effects);
        }
        self.filled(tenant, model);
    }

    /// A worker has all of its queue that fits, until something of its tenant changes.
    fn filled(&mut self, tenant: TenantId, model: ModelId) {
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.filled = true;
        }
    }

    /// Moves requests from a worker's queue into its hands, as far as its token budget goes.
    fn take_batch(&mut self, id: WorkerId) -> Vec<RequestId> {
        let mut batch = Vec::new();
        while let Some((request, passes)) = self.next_fitting(id) {
            if let Some(first) = passes {
                self.pass(first, request);
            }
            self.assign_one(id, request);
            batch.push(request);
        }
        batch
    }

    /// The next request for a worker, and the one that it goes past. Of those whose turn it is alike, the first that fits.
    /// An agent of whose the worker has nothing may go beyond the budget, up to twice, so that long answers do not keep their
    /// siblings out; of those whose turn it is alike, it is first.
    ///
    /// One of an agent of whose the worker has nothing, or that is larger than any budget, and that does not fit all the
    /// same, has to wait until there is less beside it. So it does not hold up those behind it at once, but others go past it,
    /// whoever's they are, as many as one budget has room for, and none whose agent has had a budget's worth more. Then none
    /// does, or a large one would never run. Where it is hung up instead, what went past it was its turn (`give_up_turn`).
    pub(crate) fn next_fitting(&self, id: WorkerId) -> Option<(RequestId, Option<RequestId>)> {
        let worker = self.workers.get(&id)?;
        let budget = u64::from(self.limits.batch_tokens_max);
        let full = worker.holds_work() && worker.tokens() >= 2 * budget;
        if worker.retiring || full {
            return None;
        }
        let tenant = self.tenants.get(&worker.tenant)?;
        let queue = &tenant.flows.get(&worker.model)?.queue;
        // Beyond the budget goes who has nothing there. Where all do there is no need to look at what they have.
        let mut agents = queue.agents().take(HEADS_MAX);
        let met = worker.holds_work() && worker.tokens() >= budget;
        if met && agents.all(|agent| worker.holds_of(agent)) {
            return None;
        }
        let heads = queue.heads();
        let mut least: Option<VTime> = None;
        let mut waits: Option<(RequestId, u64)> = None;
        for (time, next) in heads.take(HEADS_MAX) {
            let least = *least.get_or_insert(time);
            if waits.is_none() && time > least {
                return None;
            }
            let request = self.requests.get(&next)?;
            let counted = self.counted_by(&tenant.lengths, request);
            let tokens = worker.tokens().saturating_add(counted);
            let first_of_agent = !worker.holds_of(request.agent);
            let fits =
                tokens <= budget || !worker.holds_work() || first_of_agent && tokens <= 2 * budget;
            match waits {
                None if fits => return Some((next, None)),
                None if first_of_agent || counted > budget => {
                    waits = Some((next, request.passed_by));
                }
                Some((first, by))
                    if fits
                        && by.saturating_add(counted) <= budget
                        && time <= least.saturating_add(self.budget_time(worker)) =>
                {
                    return Some((next, Some(first)));
                }
                None | Some(_) => {}
            }
        }
        None
    }

    /// What a whole budget costs an agent of this worker's, at the most.
    fn budget_time(&self, worker: &Worker) -> VTime {
        let budget = u64::from(self.limits.batch_tokens_max);
        let costs = [(budget, 0), (0, budget)];
        let costs = costs.map(|sizes| self.predict(worker.tenant, worker.model, sizes));
        vtime::from_lane(costs[0].max(costs[1]), 1)
    }

    /// A request goes past one that is first and does not fit.
    fn pass(&mut self, first: RequestId, by: RequestId) {
        let Some(request) = self.requests.get(&by) else {
            return;
        };
        let (tokens, cost_ns) = (self.counted(request), self.in_advance_ns(request));
        if let Some(first) = self.requests.get_mut(&first) {
            first.passed_by = first.passed_by.saturating_add(tokens);
            first.passed_ns = first.passed_ns.saturating_add(cost_ns);
        }
    }

    /// What a request counts for in a batch: its tokens in, and those that its answer has or is expected to have, at most
    /// a quarter of the budget. At least 1, or empty requests would fill a batch without end.
    pub(crate) fn counted(&self, request: &Request) -> u64 {
        let tenant = self.tenants.get(&request.tenant);
        tenant.map_or(1, |tenant| self.counted_by(&tenant.lengths, request))
    }

    fn counted_by(&self, lengths: &LengthBook, request: &Request) -> u64 {
        let expected = lengths.expect(request.agent, request.tokens_out_max);
        let tokens_out = expected.max(request.tokens_out);
        let tokens_out = tokens_out.min(self.answer_counted_max());
        (u64::from(request.tokens_in) + u64::from(tokens_out)).max(1)
    }

    /// The most tokens of an answer that count in a batch.
    pub(crate) fn answer_counted_max(&self) -> u32 {
        self.limits.batch_tokens_max / 4
    }

    fn assign_one(&mut self, id: WorkerId, request_id: RequestId) {
        let Some(request) = self.requests.get(&request_id) else {
            return;
        };
        // Anew: answers that have ended since it was accepted tell of this one.
        let tokens = self.counted(request);
        let cost_ns = self.in_advance_ns(request);
        let (Some(request), Some(worker)) = (
            self.requests.get_mut(&request_id),
            self.workers.get_mut(&id),
        ) else {
            return;
        };
        debug_assert_eq!(
            worker.tenant, request.tenant,
            "a worker only ever gets its own tenant's requests"
        );
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            // While it waits: an agent of which nothing else does would be forgotten before, and charged from the floor.
            tenant.charge_agent(request, cost_ns);
            tenant.waits_no_longer(request_id, request);
        }
        self.memory.put(request.tenant, request.bytes);
        request.worker = Some(id);
        request.lane_ns_before = worker.lane_ns(self.now);
        let held = Held {
            agent: request.agent,
            tokens,
            cost_ns,
        };
        worker.take_in(request_id, held);
    }

    /// Asks for the lanes of a device that are due, and notes when the next will be.
    fn ask_back(&mut self, on: DeviceId, effects: &mut Vec<Effect>) {
        loop {
            let (due, next) = self.due_lanes(on);
            // Who gives way next is another once somebody has to.
            for id in &due {
                self.ask(*id, effects);
            }
            if due.is_empty() {
                if let Some(device) = self.devices.get_mut(&on) {
                    device.next_yield = next;
                }
                return;
            }
        }
    }

    /// The workers whose lanes are due now, and when the next is.
    fn due_lanes(&self, on: DeviceId) -> (Vec<WorkerId>, Option<Nanos>) {
        let (mut due, mut next) = (Vec::new(), None::<Nanos>);
        let Some(device) = self.devices.get(&on) else {
            return (due, next);
        };
        for (at, id) in self.yields(on, device) {
            match at <= self.now {
                true if due.contains(&id) => {}
                true => due.push(id),
                false => next = Some(next.map_or(at, |next| next.min(at))),
            }
        }
        (due, next)
    }

    fn ask(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let worker = self.workers.get_mut(&id);
        if let Some(lease) = worker.and_then(|worker| worker.lease.as_mut()) {
            lease.yield_at = Some(self.now);
            effects.push(Effect::Yield {
                worker: id,
                lease: lease.id,
            });
        }
    }

    /// When the next lane of a device has to be asked for.
    pub(crate) fn next_yield(&self, on: DeviceId) -> Option<Nanos> {
        let device = self.devices.get(&on)?;
        self.yields(on, device).map(|(at, _)| at).min()
    }

    /// The running workers of a device that have to yield, and when: those whose lanes are wanted, and those that are to end,
    /// whoever waits, so that one that hangs is found out.
    fn yields<'a>(
        &'a self,
        on: DeviceId,
        device: &'a Device,
    ) -> impl Iterator<Item = (Nanos, WorkerId)> + 'a {
        let keeping = device.running.keys().filter_map(|id| self.keeping(id));
        let ending = keeping.filter(|(worker, _)| worker.retiring);
        let ending = ending.map(|(worker, lease)| (lease.turn_end(), worker.id));
        self.wanted_lanes(on, device).chain(ending)
    }

    /// The running workers of a contended device that have to yield, and when: as many as there are
    /// waiting workers without a lane on its way to them.
    fn wanted_lanes<'a>(
        &'a self,
        on: DeviceId,
        device: &'a Device,
    ) -> impl Iterator<Item = (Nanos, WorkerId)> + 'a {
        let keeping = || device.running.keys().filter_map(|id| self.keeping(id));
        // Of one that was killed nobody knows when it is gone.
        let asked = |id: WorkerId| {
            let worker = self.workers.get(&id);
            worker.is_some_and(|worker| worker.life == Life::Ready && self.keeping(id).is_none())
        };
        let coming = device.running.keys().filter(|id| asked(*id)).count();
        let mut waiting = device.waiting.iter().skip(coming).take(device.lanes);
        let mut taken = Vec::new();
        std::iter::from_fn(move || {
            let waiting = waiting.next()?;
            let left = keeping().filter(|(worker, _)| !taken.contains(&worker.id));
            let due = left.map(|(worker, lease)| {
                let at = self.yield_due(on, *waiting, worker.tenant, lease);
                (at, worker.id)
            });
            let pair = due.min()?;
            // Of one lane there is no next.
            if device.lanes > 1 {
                taken.push(pair.1);
            }
            Some(pair)
        })
    }

    /// A running worker that has not been asked for its lane, nor is it ending.
    pub(crate) fn keeping(&self, id: WorkerId) -> Option<(&Worker, &Lease)> {
        let worker = self.workers.get(&id)?;
        let lease = worker.lease.as_ref()?;
        let keeps = lease.yield_at.is_none() && worker.life == Life::Ready;
        keeps.then_some((worker, lease))
    }

    /// When a lease has to give way to a waiting worker.
    fn yield_due(&self, on: DeviceId, waiting: WaitKey, holder: TenantId, lease: &Lease) -> Nanos {
        let (waiting_time, waiting_tenant, ..) = waiting;
        let turn_end = lease.turn_end();
        let (Some(waiter), Some(runner)) =
            (self.tenants.get(&waiting_tenant), self.tenants.get(&holder))
        else {
            return turn_end;
        };
        if waiting_tenant == holder {
            return turn_end;
        }
        let lag = vtime::from_lane(lease.turn_ns, waiter.weight().min(runner.weight()));
        let running_time = runner.time_on(on);
        if waiting_time.saturating_add(lag) < running_time {
            return self.now;
        }
        let behind = waiting_time.saturating_sub(running_time);
        let runner = (self.lanes_of(on, holder), runner.weight());
        let waiter = (self.lanes_of(on, waiting_tenant), waiter.weight());
        let catches_up = self
            .now
            .saturating_add(vtime::closes_in(behind, runner, waiter));
        turn_end.max(catches_up)
    }

    /// How many lanes of a device a tenant has.
    fn lanes_of(&self, on: DeviceId, id: TenantId) -> u32 {
        let running = self.devices.get(&on).map(|device| device.running.keys());
        let workers = (running.into_iter().flatten()).filter_map(|id| self.workers.get(&id));
        workers.filter(|worker| worker.tenant == id).count() as u32
    }

    /// Kills workers that kept their lane past a yield and its grace, or a request for as long after it had ended: a place
    /// that somebody else may be waiting for.
    pub(crate) fn kill_overdue(&mut self, effects: &mut Vec<Effect>) {
        let overdue = self.grace_ends().filter(|(at, ..)| *at <= self.now);
        let overdue: Vec<(WorkerId, KillReason)> = overdue.map(|(_, id, why)| (id, why)).collect();
        for (id, why) in overdue {
            self.kill(id, why, effects);
        }
    }

    fn grace_ends(&self) -> impl Iterator<Item = (Nanos, WorkerId, KillReason)> {
        self.leased.keys().filter_map(|id| {
            let worker = self
                .workers
                .get(&id)
                .filter(|worker| worker.life == Life::Ready)?;
            let grace_ns = self.limits.release_grace_ns;
            let asked = worker.lease.as_ref()?.yield_at;
            let keeps = asked.map(|at| (at.saturating_add(grace_ns), KillReason::HeldLane));
            let ended = worker.let_go_by(grace_ns);
            let ended = ended.map(|at| (at, KillReason::HeldRequest));
            let (at, why) = [keeps, ended]
                .into_iter()
                .flatten()
                .min_by_key(|(at, _)| *at)?;
            Some((at, id, why))
        })
    }

    /// Asks for a tick at the next time at which something becomes due, unless that was asked for.
    pub(crate) fn ask_to_be_woken(&mut self, effects: &mut Vec<Effect>) {
        let yields = self.devices.values().filter_map(|device| device.next_yield);
        let graces = self.grace_ends().map(|(at, ..)| at);
        let next = [
            self.deadlines.first().map(|(at, _)| *at),
            self.backoffs.first().map(|(at, ..)| *at),
            self.retire_wake(),
            self.unload_wake(),
            yields.min(),
            graces.min(),
        ];
        let next = next.into_iter().flatten().min();
        let next = next.map(|at| at.max(self.now.saturating_add(1)));
        if let Some(at) = next.filter(|_| next != self.wake) {
            effects.push(Effect::WakeAt { at });
        }
        if next.is_some() || self.wake.is_some_and(|at| at <= self.now) {
            self.wake = next;
        }
    }
}

fn assign(worker: WorkerId, requests: Vec<RequestId>, effects: &mut Vec<Effect>) {
    if !requests.is_empty() {
        effects.push(Effect::Assign { worker, requests });
    }
}
