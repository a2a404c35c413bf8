//! What workers report. A worker's words are data, never trusted: it can only ever
//! speak about its own lease and about requests that it was given.
//!
//! Late is not wrong: a report about a request that was cancelled a moment ago is harmless. A worker that names a request
//! that it never had, or speaks without the lease that it names, is killed.

use crate::core::Core;
use crate::worker::{Life, Spoken};
use crate::{Effect, End, KillReason, LeaseId, Nanos, Outcome, RequestId, WorkerId};

/// Leases in a row that a worker may give back unasked, with work in hand and nothing done. More is
/// a worker that will never run what it holds, and would be granted the lane again for ever.
const FRUITLESS_LEASES_MAX: u32 = 4;

/// What a worker says of a step.
pub(crate) struct Did {
    pub step_ns: Nanos,
    pub tokens: u32,
    pub kv_bytes: u64,
    /// How many output tokens answers have by now.
    pub answers: Vec<(RequestId, u32)>,
}

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

    pub(crate) fn stepped(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        did: Did,
        effects: &mut Vec<Effect>,
    ) {
        if !self.speaks_of_its_lease(id, lease, effects) {
            return;
        }
        let answers = did.answers.into_iter();
        let tokens_out = answers.map(|(request, so_far)| self.answer_grew(id, request, so_far));
        let tokens_out = tokens_out.fold(0, u64::saturating_add);
        let now = self.now;
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        worker.kv_bytes = did.kv_bytes;
        worker.last_used = now;
        if let Some(lease) = worker.lease.as_mut() {
            let (tokens, work) = (u64::from(did.tokens), &mut lease.work);
            work.tokens_out = work.tokens_out.saturating_add(tokens_out);
            let tokens_in = tokens.saturating_sub(tokens_out);
            work.tokens_in = work.tokens_in.saturating_add(tokens_in);
            work.steps += 1;
            lease.progress |= tokens > 0;
            lease.times.stepped(now, did.step_ns);
        }
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
        if worker.lease.is_none() {
            return self.kill(id, KillReason::Protocol, effects);
        }
        let spoken = worker.let_go(request);
        if matches!(spoken, Spoken::NeverGiven) {
            return self.kill(id, KillReason::Protocol, effects);
        }
        worker.last_used = now;
        let tenant = worker.tenant;
        let seen = match &spoken {
            Spoken::Live => self.requests.get(&request).map(|one| one.tokens_out),
            Spoken::Dropped(dropped) => Some(dropped.tokens_out),
            Spoken::Again | Spoken::NeverGiven => None,
        };
        if let Some(lease) = worker.lease.as_mut() {
            lease.progress |= seen.is_some();
            lease.untold |= seen == Some(0) && tokens == (0, 0);
        }
        match spoken {
            Spoken::Live => {
                worker.finished_any = true;
                self.answer_ended(id, request, tokens.1);
                self.settle_agent(request, tokens, outcome);
                self.end(request, End::Worker(outcome), effects);
            }
            Spoken::Dropped(mut dropped) => {
                self.settle_dropped(&mut dropped, tokens);
                self.reindex(tenant);
            }
            Spoken::Again | Spoken::NeverGiven => {}
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
        let Some(lease) = worker.lease.take() else {
            return;
        };
        let lane_ns = self.now.saturating_sub(lease.granted_at);
        // One that was asked back before its first step was nothing else: or turns would stay too short for any step.
        let all_of_it = lease.yield_at.map(|_| lane_ns);
        if let Some(switch_ns) = lease.times.switch_ns(self.now).or(all_of_it) {
            worker.switch.learn(switch_ns);
        }
        worker.last_used = self.now;
        self.leased.remove(&id);
        if let Some(device) = self.devices.get_mut(&worker.device) {
            device.running.remove(&id);
        }
        worker.released_ns = worker.released_ns.saturating_add(lane_ns);
        worker.unpriced_ns = worker.unpriced_ns.saturating_add(lane_ns);
        let (tenant, model) = (worker.tenant, worker.model);
        if lease.untold {
            // Whoever was cut short has paid for it. It is no part of what its siblings' tokens take.
            worker.unpriced_ns = 0;
        } else if !lease.work.is_none() {
            let took_ns = std::mem::take(&mut worker.unpriced_ns);
            let at = (tenant, model, worker.device);
            self.costs.observe(at, lease.work, took_ns);
        }
        effects.push(Effect::Settled {
            tenant,
            model,
            worker: id,
            lease: lease.id,
            lane_ns,
        });
    }

    /// Whether a worker speaks of the lease that it holds. One that names another, be it the one that it has just given
    /// back, would compute while others have the lane.
    fn speaks_of_its_lease(
        &mut self,
        id: WorkerId,
        lease: LeaseId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(worker) = self.workers.get(&id).filter(|worker| !worker.is_leaving()) else {
            return false;
        };
        let holds = worker.lease.as_ref().is_some_and(|held| held.id == lease);
        if !holds {
            self.kill(id, KillReason::Protocol, effects);
        }
        holds
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
