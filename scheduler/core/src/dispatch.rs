//! Lanes: who gets one, how much work goes with it, and when it is asked back.
//!
//! A free lane goes to the waiting worker whose tenant has the least effective virtual time. With
//! it go as many of that tenant's requests as `batch_tokens_max` allows, at least one. The lease is
//! open-ended: while nobody else waits, work is topped up and nothing is asked back.
//!
//! Somebody waits: the lane is asked back
//! - at once, where the waiting tenant is behind the running one by more than a quantum of either;
//! - else after the quantum, once the running tenant has caught up with the waiting one. Before
//!   that it would get the lane again at once, and the turn would only have cost time;
//! - a waiting worker of the same tenant gets its turn after the quantum.
//!
//! So of two tenants that both always have something to run on a device with one lane, neither's
//! virtual time is ever ahead by more than (quantum + overrun) ÷ weight, where the overrun is one
//! step of a worker that keeps its word, and the release grace plus the time to kill it of one that
//! does not. A newcomer beside one such tenant waits for at most a quantum and an overrun.

use crate::core::Core;
use crate::lane::{Lease, WaitKey};
use crate::vtime;
use crate::worker::Life;
use crate::{DeviceId, Effect, KillReason, LeaseId, Nanos, RequestId, WorkerId};

impl Core {
    pub(crate) fn dispatch(&mut self, effects: &mut Vec<Effect>) {
        let devices: Vec<DeviceId> = self.devices.keys().copied().collect();
        for device in devices {
            while let Some(worker) = self.next_for_free_lane(device) {
                self.grant(worker, effects);
            }
            self.ask_back(device, effects);
        }
        let leased: Vec<WorkerId> = self.leased.iter().copied().collect();
        for worker in leased {
            self.top_up(worker, effects);
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
        let Some(worker) = self.workers.get(&id) else {
            return;
        };
        let predicted = self
            .costs
            .predict(worker.model, worker.device, worker.tokens);
        let reserved_ns = predicted.min(self.limits.quantum_ns);
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.last_lease = lease.0;
        worker.lease = Some(Lease {
            id: lease,
            granted_at: self.now,
            yield_at: None,
            reserved_ns,
            tokens: 0,
            progress: false,
            had_work: worker.holds_work(),
        });
        self.leased.insert(id);
        let (tenant, device) = (worker.tenant, worker.device);
        if let Some(device) = self.devices.get_mut(&device) {
            device.running.insert(id);
        }
        self.reindex(tenant);
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
        if keeps && worker.life == Life::Ready && !worker.retiring {
            let tenant = worker.tenant;
            let batch = self.take_batch(id);
            if !batch.is_empty() {
                self.reindex(tenant);
            }
            assign(id, batch, effects);
        }
    }

    /// Moves requests from a worker's queue into its hands, as far as its token budget goes. A
    /// request that does not fit holds up those behind it, or a large one would never run.
    fn take_batch(&mut self, id: WorkerId) -> Vec<RequestId> {
        let mut batch = Vec::new();
        while let Some(request) = self.next_fitting(id) {
            self.assign_one(id, request);
            batch.push(request);
        }
        batch
    }

    fn next_fitting(&self, id: WorkerId) -> Option<RequestId> {
        let worker = self.workers.get(&id)?;
        if worker.retiring {
            return None;
        }
        let next = self.flow(worker.tenant, worker.model)?.queue.peek()?;
        let tokens = worker
            .tokens
            .saturating_add(self.requests.get(&next)?.tokens);
        let fits = tokens <= u64::from(self.limits.batch_tokens_max) || !worker.holds_work();
        fits.then_some(next)
    }

    fn assign_one(&mut self, id: WorkerId, request_id: RequestId) {
        self.leave_queue(request_id);
        let Some(request) = self.requests.get_mut(&request_id) else {
            return;
        };
        request.worker = Some(id);
        let (tenant, agent, tokens) = (request.tenant, request.agent, request.tokens);
        let sizes = (request.tokens_in, request.tokens_out_max);
        let model = request.model;
        // Anew: answers that have ended since it was accepted tell of this one.
        let cost_ns = self.expected_cost(tenant, agent, model, sizes);
        if let Some(worker) = self.workers.get_mut(&id) {
            debug_assert_eq!(
                worker.tenant, tenant,
                "a worker only ever gets its own tenant's requests"
            );
            worker.take_in(request_id, tokens);
        }
        self.charge_agent(request_id, cost_ns);
    }

    fn ask_back(&mut self, device: DeviceId, effects: &mut Vec<Effect>) {
        let due: Vec<WorkerId> = self
            .yields(device)
            .filter(|(at, _)| *at <= self.now)
            .map(|(_, id)| id)
            .collect();
        for id in due {
            let now = self.now;
            let Some(lease) = self
                .workers
                .get_mut(&id)
                .and_then(|worker| worker.lease.as_mut())
            else {
                continue;
            };
            lease.yield_at = Some(now);
            effects.push(Effect::Yield {
                worker: id,
                lease: lease.id,
            });
        }
    }

    /// The running workers of a contended device that have to yield, and when: as many as there are
    /// waiting workers without a lane on its way to them.
    fn yields(&self, device: DeviceId) -> impl Iterator<Item = (Nanos, WorkerId)> {
        let mut pairs = Vec::new();
        if let Some(device) = self
            .devices
            .get(&device)
            .filter(|device| !device.waiting.is_empty())
        {
            let (mut keeping, mut coming) = (Vec::new(), 0);
            for id in &device.running {
                let Some(worker) = self.workers.get(id) else {
                    continue;
                };
                let lease = worker
                    .lease
                    .as_ref()
                    .filter(|l| l.yield_at.is_none() && worker.life == Life::Ready);
                match lease {
                    Some(lease) => keeping.push((*id, worker.tenant, lease)),
                    None => coming += 1,
                }
            }
            for waiting in device.waiting.iter().skip(coming).take(device.lanes) {
                let due = keeping.iter().enumerate().map(|(n, (id, tenant, lease))| {
                    (self.yield_due(*waiting, *tenant, lease), *id, n)
                });
                let Some((at, id, n)) = due.min() else { break };
                keeping.swap_remove(n);
                pairs.push((at, id));
            }
        }
        pairs.into_iter()
    }

    /// When a lease has to give way to a waiting worker.
    fn yield_due(&self, waiting: WaitKey, holder: crate::TenantId, lease: &Lease) -> Nanos {
        let (waiting_time, waiting_tenant, ..) = waiting;
        let quantum_ns = self.limits.quantum_ns;
        let quantum_end = lease.granted_at.saturating_add(quantum_ns);
        let (Some(waiter), Some(runner)) =
            (self.tenants.get(&waiting_tenant), self.tenants.get(&holder))
        else {
            return quantum_end;
        };
        if waiting_tenant == holder {
            return quantum_end;
        }
        let lag = vtime::from_lane(quantum_ns, waiter.weight().min(runner.weight()));
        if waiting_time.saturating_add(lag) < runner.time {
            return self.now;
        }
        let behind = waiting_time.saturating_sub(runner.time);
        let catches_up = self
            .now
            .saturating_add(vtime::to_lane(behind, runner.weight()));
        quantum_end.max(catches_up)
    }

    /// Kills workers that kept their lane past a yield and its grace.
    pub(crate) fn kill_overdue(&mut self, effects: &mut Vec<Effect>) {
        let overdue: Vec<WorkerId> = self
            .grace_ends()
            .filter(|(at, _)| *at <= self.now)
            .map(|(_, id)| id)
            .collect();
        for id in overdue {
            self.kill(id, KillReason::HeldLane, effects);
        }
    }

    fn grace_ends(&self) -> impl Iterator<Item = (Nanos, WorkerId)> {
        self.leased.iter().filter_map(|id| {
            let worker = self
                .workers
                .get(id)
                .filter(|worker| worker.life == Life::Ready)?;
            let asked = worker.lease.as_ref()?.yield_at?;
            Some((asked.saturating_add(self.limits.release_grace_ns), *id))
        })
    }

    /// Asks for a tick at the next time at which something becomes due, unless that was asked for.
    pub(crate) fn ask_to_be_woken(&mut self, effects: &mut Vec<Effect>) {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let yields = self
            .devices
            .keys()
            .flat_map(|device| self.yields(*device))
            .map(|(at, _)| at);
        let graces = self.grace_ends().map(|(at, _)| at);
        let next = deadline
            .into_iter()
            .chain(self.retire_wake())
            .chain(self.unload_wake())
            .chain(self.backoffs.first().map(|(at, ..)| *at))
            .chain(yields)
            .chain(graces)
            .min();
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
