//! What workers report. A worker's words are data, never trusted: it can only ever
//! speak about its own lease and about requests that it was given.
//!
//! Late is not wrong: a report about a request that was cancelled a moment ago, or about a lease that
//! has just ended, is harmless and ignored. Naming what it never had gets a worker killed.

use crate::core::Core;
use crate::worker::{Life, Spoken};
use crate::{Effect, End, KillReason, LeaseId, Nanos, Outcome, RequestId, WorkerId};

/// Leases in a row that a worker may give back unasked, with work in hand and nothing done. More is
/// a worker that will never run what it holds, and would be granted the lane again for ever.
const FRUITLESS_LEASES_MAX: u32 = 4;

impl Core {
    pub(crate) fn worker_ready(&mut self, id: WorkerId) {
        let Some(worker) = self
            .workers
            .get_mut(&id)
            .filter(|worker| worker.life == Life::Starting)
        else {
            return;
        };
        worker.life = Life::Ready;
        worker.ready_at = self.now;
        worker.last_used = self.now;
        let (tenant, model) = (worker.tenant, worker.model);
        if let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.starting -= 1;
        }
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.failures = 0;
            flow.refused = false;
        }
        self.charge_restart(id);
        self.reindex(tenant);
    }

    /// False where the worker spoke of a lease that it does not hold: nothing else that it said with it counts.
    pub(crate) fn stepped(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        tokens: u32,
        kv_bytes: u64,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if !self.speaks_of_its_lease(id, lease, effects) {
            return false;
        }
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return false;
        };
        worker.kv_bytes = kv_bytes;
        worker.last_used = now;
        if let Some(lease) = worker.lease.as_mut() {
            lease.tokens = lease.tokens.saturating_add(u64::from(tokens));
            lease.progress |= tokens > 0;
        }
        true
    }

    pub(crate) fn finished(
        &mut self,
        id: WorkerId,
        request: RequestId,
        tokens: (u32, u32),
        outcome: Outcome,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        if worker.is_leaving() {
            return;
        }
        let spoken = worker.let_go(request);
        if spoken == Spoken::NeverGiven {
            return self.kill(id, KillReason::Protocol, effects);
        }
        worker.last_used = now;
        if let Some(lease) = worker.lease.as_mut().filter(|_| spoken != Spoken::Again) {
            lease.progress = true;
        }
        let tenant = worker.tenant;
        if spoken == Spoken::Live {
            worker.finished_any = true;
            self.correct_agent(request, tokens, outcome);
            self.end(request, End::Worker(outcome), effects);
        }
        self.reindex(tenant);
    }

    /// Charges agents for answers that have become longer than was expected of them, by requests that this worker holds.
    pub(crate) fn answers_grew(&mut self, id: WorkerId, answers: &[(RequestId, u32)]) {
        for &(id_of_request, tokens_out) in answers {
            let request = self.requests.get(&id_of_request);
            let Some(request) = request.filter(|request| request.worker == Some(id)) else {
                continue;
            };
            let tokens = u64::from(request.tokens_in) + u64::from(tokens_out);
            let so_far = self.predict(request.tenant, request.model, tokens.min(request.tokens));
            if so_far > request.charged_ns {
                self.charge_agent(id_of_request, so_far);
            }
        }
    }

    /// Settles the difference between what an agent was charged and what its request turned out to
    /// be, in predicted cost, and learns from its length. A worker can claim no more than the request could be. What it
    /// refused costs as if it had been served, up to a whole batch: it held a place before its siblings' requests, and
    /// if it cost nothing its agent would be first again.
    fn correct_agent(
        &mut self,
        id: RequestId,
        (tokens_in, tokens_out): (u32, u32),
        outcome: Outcome,
    ) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (tenant, agent) = (request.tenant, request.agent);
        let answers = request.tokens_out_max > 0 && outcome == Outcome::Ok;
        let tokens = match outcome {
            Outcome::Invalid | Outcome::OverQuota => u64::from(self.limits.batch_tokens_max),
            Outcome::Ok | Outcome::Cancelled | Outcome::Internal => {
                u64::from(tokens_in) + u64::from(tokens_out)
            }
        };
        let actual_ns = self.predict(tenant, request.model, tokens.min(request.tokens));
        if answers && let Some(tenant) = self.tenants.get_mut(&tenant) {
            tenant.agents.learn(agent, tokens_out);
        }
        self.charge_agent(id, actual_ns);
    }

    /// From now on an agent has been charged so much for a request: it is charged what it was not, and refunded
    /// what it was beyond that.
    pub(crate) fn charge_agent(&mut self, id: RequestId, cost_ns: Nanos) {
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        let before_ns = std::mem::replace(&mut request.charged_ns, cost_ns);
        let agent = request.agent;
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            let time = match cost_ns.checked_sub(before_ns) {
                Some(more_ns) => tenant.agents.charge(agent, more_ns),
                None => tenant.agents.refund(agent, before_ns - cost_ns),
            };
            tenant
                .flows
                .values_mut()
                .for_each(|flow| flow.queue.retime(agent, time));
        }
    }

    pub(crate) fn released(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        dry: bool,
        effects: &mut Vec<Effect>,
    ) {
        if !self.speaks_of_its_lease(id, lease, effects) {
            return;
        }
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let idled = worker
            .lease
            .as_ref()
            .is_some_and(|l| l.had_work && !l.progress && l.yield_at.is_none());
        worker.fruitless = if idled { worker.fruitless + 1 } else { 0 };
        let (fruitless, tenant) = (worker.fruitless, worker.tenant);
        if dry && !worker.holds_work() {
            worker.kv_bytes = 0;
        }
        self.settle(id, effects);
        if fruitless >= FRUITLESS_LEASES_MAX {
            return self.kill(id, KillReason::Protocol, effects);
        }
        self.reindex(tenant);
    }

    /// Ends a lease and says what it came to. The tenant was charged as the time passed; what was
    /// reserved beyond that is free again.
    pub(crate) fn settle(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        let Some(lease) = worker.end_lease() else {
            return;
        };
        let lane_ns = self.now.saturating_sub(lease.granted_at);
        worker.last_used = self.now;
        self.leased.remove(&id);
        if let Some(device) = self.devices.get_mut(&worker.device) {
            device.running.remove(&id);
        }
        worker.unpriced_ns = worker.unpriced_ns.saturating_add(lane_ns);
        if lease.tokens > 0 {
            let took_ns = std::mem::take(&mut worker.unpriced_ns);
            self.costs
                .observe(worker.model, worker.device, lease.tokens, took_ns);
        }
        let (tenant, model) = (worker.tenant, worker.model);
        effects.push(Effect::Settled {
            tenant,
            model,
            worker: id,
            lease: lease.id,
            lane_ns,
        });
    }

    /// Whether a worker speaks of the lease that it holds. One that it held before is ignored, any
    /// other is not its own.
    fn speaks_of_its_lease(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|worker| !worker.is_leaving()) else {
            return false;
        };
        if worker.lease.as_ref().is_some_and(|held| held.id == lease) {
            return true;
        }
        if !worker.knew(lease) {
            self.kill(id, KillReason::Protocol, effects);
        }
        false
    }

    /// Has a worker killed. It occupies its lane and its place until `WorkerDied`.
    pub(crate) fn kill(&mut self, id: WorkerId, why: KillReason, effects: &mut Vec<Effect>) {
        let Some(worker) = self
            .workers
            .get_mut(&id)
            .filter(|worker| !worker.is_leaving())
        else {
            return;
        };
        if worker.life == Life::Starting
            && let Some(tenant) = self.tenants.get_mut(&worker.tenant)
        {
            tenant.starting -= 1;
        }
        worker.life = Life::Killed;
        self.mark_leaving(id);
        effects.push(Effect::KillWorker { worker: id, why });
    }
}
