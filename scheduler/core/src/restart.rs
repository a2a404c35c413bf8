//! Restarts: what follows when a worker could not be started or died, and who pays for the next.
//!
//! A tenant's queue for one model whose workers keep failing is in backoff: nothing is started for it
//! until its wait is over, and the wait doubles each time. So what one tenant's worker does at its start
//! costs everybody else's processor a bounded number of starts, whatever that tenant sends.
//!
//! Requests meet a backoff in one of two ways. A short one (`Limits::backoff_patience_ns`) they wait
//! out in their queue: that is what a crash costs whose cause has passed. In a longer one, or one that
//! their deadline does not outlast, they fail at once and are told when it ends: waiting would hold queue
//! memory for an answer that is not likely to come, and keep the caller from going elsewhere.
//!
//! The first start of a worker is overhead: who is evicted so that others find room must not pay for
//! that. A start that follows a failure is charged to its tenant as lane time, from when it was asked
//! for until it came to something. That is what the scheduler's own clock can say of it; where several
//! tenants wait for one load, each pays for it.
//!
//! No other tenant's queue is touched here.

use crate::backoff::mix;
use crate::core::Core;
use crate::tenant::Flow;
use crate::worker::{Life, Worker};
use crate::{
    BackoffCause, Effect, End, ModelId, Nanos, StartFailure, Submission, TenantId, WorkerId,
};

impl Core {
    /// Only a worker that is starting can fail to start; of any other it says that it is gone.
    pub(crate) fn worker_failed(
        &mut self,
        id: WorkerId,
        failure: StartFailure,
        effects: &mut Vec<Effect>,
    ) {
        match self.workers.get(&id).map(|worker| worker.life) {
            Some(Life::Starting) => {}
            Some(Life::Ready | Life::Killed | Life::Stopping) => {
                return self.worker_died(id, effects);
            }
            None => return,
        }
        self.charge_restart(id);
        let Some(worker) = self.forget_worker(id) else {
            return;
        };
        let (tenant, model) = (worker.tenant, worker.model);
        match failure {
            StartFailure::Refused => self.give_up(tenant, model, None, effects),
            StartFailure::Waiting { for_ns } => {
                let for_ns = for_ns.min(self.limits.restarts.longest_ns);
                self.begin_backoff(tenant, model, for_ns, BackoffCause::Model, effects);
                self.end_what_cannot_wait(tenant, model, false, effects);
            }
            StartFailure::Tried { permanent } => {
                self.back_off(&worker, 0, BackoffCause::Start, effects);
                let attempts_max = self.limits.start_attempts_max;
                let often = self.flow_mut(tenant, model).is_some_and(|flow| {
                    flow.refused = permanent;
                    flow.failures += 1;
                    flow.failures >= attempts_max
                });
                match permanent {
                    true => self.give_up(tenant, model, None, effects),
                    false => self.end_what_cannot_wait(tenant, model, often, effects),
                }
            }
        }
        self.reindex(tenant);
    }

    /// The worker is gone and with it everything that it held. Its queue stays, unless its workers
    /// keep dying without finishing anything: then some request in it may be what kills them.
    pub(crate) fn worker_died(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(life) = self.workers.get(&id).map(|worker| worker.life) else {
            return;
        };
        if life == Life::Starting {
            let failure = StartFailure::Tried { permanent: false };
            return self.worker_failed(id, failure, effects);
        }
        self.settle(id, effects);
        let all = self.workers.get_mut(&id).map(|one| one.let_go_of_all());
        let (held, mut dropped) = all.unwrap_or_default();
        for request in &held {
            self.settle_unheard(*request);
        }
        for request in &mut dropped {
            self.settle_dropped_unheard(request);
        }
        let Some(worker) = self.forget_worker(id) else {
            return;
        };
        for request in held {
            self.end(request, End::WorkerLost, effects);
        }
        self.after_life(&worker, life, effects);
        self.reindex(worker.tenant);
    }

    fn after_life(&mut self, worker: &Worker, life: Life, effects: &mut Vec<Effect>) {
        let (tenant, model) = (worker.tenant, worker.model);
        if life == Life::Stopping {
            // One whose device went down ended then: what has failed since is not forgiven for it.
            if !worker.abandoned {
                self.ended_well(worker.tenant, worker.model, self.served_ns(worker));
            }
            return;
        }
        let served_ns = self.served_ns(worker);
        let cause = match life {
            Life::Killed => BackoffCause::Killed,
            _ => BackoffCause::Death,
        };
        self.back_off(worker, served_ns, cause, effects);
        let attempts_max = self.limits.start_attempts_max;
        let often = self.flow_mut(tenant, model).is_some_and(|flow| {
            flow.deaths = if worker.finished_any {
                0
            } else {
                flow.deaths + 1
            };
            flow.deaths >= attempts_max
        });
        self.end_what_cannot_wait(tenant, model, often, effects);
    }

    /// For how long it served, if it ever did.
    pub(crate) fn served_ns(&self, worker: &Worker) -> Nanos {
        match worker.finished_any {
            true => self.now.saturating_sub(worker.ready_at),
            false => 0,
        }
    }

    /// A worker that had served for `served_ns` ended through no fault of its own.
    pub(crate) fn ended_well(&mut self, tenant: TenantId, model: ModelId, served_ns: Nanos) {
        let pace = self.limits.restarts.clone();
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.backoff.ended(&pace, served_ns);
        }
    }

    /// A worker that had served for `served_ns` failed: its queue waits before the next.
    fn back_off(
        &mut self,
        worker: &Worker,
        served_ns: Nanos,
        cause: BackoffCause,
        effects: &mut Vec<Effect>,
    ) {
        let (tenant, model) = (worker.tenant, worker.model);
        let flow_seed = (u64::from(tenant.0) << 32) | u64::from(model.0);
        let seed = mix(self.limits.seed ^ flow_seed);
        let pace = self.limits.restarts.clone();
        let Some(flow) = self.flow_mut(tenant, model) else {
            return;
        };
        let for_ns = flow.backoff.failed(&pace, served_ns, Some(seed));
        self.begin_backoff(tenant, model, for_ns, cause, effects);
    }

    /// Nothing is started for this queue for so long.
    fn begin_backoff(
        &mut self,
        tenant: TenantId,
        model: ModelId,
        for_ns: Nanos,
        cause: BackoffCause,
        effects: &mut Vec<Effect>,
    ) {
        let until = self.now.saturating_add(for_ns);
        let Some(flow) = self.flow_mut(tenant, model) else {
            return;
        };
        let before = std::mem::replace(&mut flow.not_before, until);
        let failures = flow.backoff.failures();
        self.backoffs.remove(&(before, tenant, model));
        self.backoffs.insert((until, tenant, model));
        effects.push(Effect::BackoffBegan {
            tenant,
            model,
            cause,
            failures,
            for_ns,
        });
    }

    /// Ends what waits in a queue whose backoff has just begun, unless it is short and not one of too
    /// many in a row.
    fn end_what_cannot_wait(
        &mut self,
        tenant: TenantId,
        model: ModelId,
        often: bool,
        effects: &mut Vec<Effect>,
    ) {
        let left = self.backoff_left(tenant, model);
        if often || left > self.limits.backoff_patience_ns {
            self.give_up(tenant, model, Some(left), effects);
        }
    }

    /// How long nothing will be started for this queue; 0 where that is not so.
    fn backoff_left(&self, tenant: TenantId, model: ModelId) -> Nanos {
        let flow = self.flow(tenant, model);
        flow.map_or(0, |flow| flow.not_before.saturating_sub(self.now))
    }

    /// How long a request that came now would be in a backoff that it is not to wait out, if it would.
    pub(crate) fn hopeless(&self, submission: &Submission, flow: Option<&Flow>) -> Option<Nanos> {
        let left = flow.map_or(0, |flow| flow.not_before.saturating_sub(self.now));
        let deadline = submission.deadline;
        let ends = self.now.saturating_add(left);
        let refused = flow.is_some_and(|flow| flow.refused);
        let too_long = refused || left > self.limits.backoff_patience_ns;
        (left > 0 && (too_long || deadline.is_some_and(|at| at <= ends))).then_some(left)
    }

    /// Lets queues whose wait is over want a worker again.
    pub(crate) fn end_backoffs(&mut self, effects: &mut Vec<Effect>) {
        while let Some(&(until, tenant, model)) = self.backoffs.first()
            && until <= self.now
        {
            self.backoffs.pop_first();
            effects.push(Effect::BackoffOver { tenant, model });
            self.reindex(tenant);
        }
    }

    /// Charges the start that has just come to something, where it followed a failure. Its worker is
    /// still on the books.
    pub(crate) fn charge_restart(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get(&id).filter(|worker| worker.restart) else {
            return;
        };
        let took_ns = self.now.saturating_sub(worker.started_at);
        let (on, device) = (worker.device, self.devices.get(&worker.device));
        if let Some((tenant, device)) = self.tenants.get_mut(&worker.tenant).zip(device) {
            tenant.charge_restart((on, device.kind), took_ns);
        }
    }

    /// Ends every waiting request of a queue that no worker could be had for, and says when one may
    /// be; `None`: trying again will not help.
    fn give_up(
        &mut self,
        tenant: TenantId,
        model: ModelId,
        retry_after_ns: Option<Nanos>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(flow) = self.flow_mut(tenant, model) else {
            return;
        };
        flow.failures = 0;
        flow.deaths = 0;
        for request in flow.queue.requests() {
            self.end(request, End::NoWorker { retry_after_ns }, effects);
        }
    }
}
