//! What agents are charged for their requests: as answers grow, once they have ended, and where they ended early.
//!
//! Between tenants nothing follows from it: they are charged lane time, by the driver's clock.

use crate::core::{Core, Request};
use crate::{Nanos, Outcome, RequestId, WorkerId};

impl Core {
    /// Charges an agent for an answer that has become longer than was expected, if this worker holds it. Returns by
    /// how many tokens it grew.
    pub(crate) fn answer_grew(&mut self, worker: WorkerId, id: RequestId, tokens_out: u32) -> u64 {
        let request = self.requests.get_mut(&id);
        let Some(request) = request.filter(|request| request.worker == Some(worker)) else {
            return 0;
        };
        let tokens_out = tokens_out.min(request.tokens_out_max);
        let before = request.tokens_out;
        request.tokens_out = tokens_out.max(before);
        let (tenant, model, charged_ns) = (request.tenant, request.model, request.charged_ns);
        let sizes = (u64::from(request.tokens_in), u64::from(request.tokens_out));
        let counted = self.requests.get(&id).map(|request| self.counted(request));
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.grew(id, counted.unwrap_or_default());
        }
        let so_far_ns = self.predict(tenant, model, sizes);
        if so_far_ns > charged_ns {
            self.charge_agent(id, so_far_ns);
        }
        u64::from(tokens_out.saturating_sub(before))
    }

    /// Tokens of an answer that ended in the step that was told last, and of which nothing was told before, were computed
    /// as output.
    pub(crate) fn answer_ended(&mut self, worker: WorkerId, id: RequestId, tokens_out: u32) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let untold = tokens_out
            .min(request.tokens_out_max)
            .saturating_sub(request.tokens_out);
        let worker = self.workers.get_mut(&worker);
        if let Some(lease) = worker.and_then(|worker| worker.lease.as_mut()) {
            let moved = u64::from(untold).min(lease.work.tokens_in);
            lease.work.tokens_in -= moved;
            lease.work.tokens_out = lease.work.tokens_out.saturating_add(moved);
        }
    }

    /// Settles the difference between what an agent was charged and what its request turned out to
    /// be, in predicted cost, and learns from its length. A worker can claim no more than the request could be. What it
    /// refused costs as if it had been served, up to a whole batch: it held a place before its siblings' requests, and
    /// if it cost nothing its agent would be first again.
    pub(crate) fn settle_agent(&mut self, id: RequestId, tokens: (u32, u32), outcome: Outcome) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (tenant, agent, model) = (request.tenant, request.agent, request.model);
        let answers = request.tokens_out_max > 0 && outcome == Outcome::Ok;
        let sizes = match outcome {
            Outcome::Invalid | Outcome::OverQuota => {
                let batch = self.limits.batch_tokens_max;
                let tokens_in = request.tokens_in.min(batch);
                let tokens_out = request.tokens_out_max.min(batch - tokens_in);
                (u64::from(tokens_in), u64::from(tokens_out))
            }
            Outcome::Ok | Outcome::Cancelled | Outcome::Internal => request.bounded(tokens),
        };
        let cost_ns = self.predict(tenant, model, sizes);
        if let Some(tenant) = self.tenants.get_mut(&tenant)
            && let Some(request) = self.requests.get_mut(&id)
        {
            if answers {
                tenant.lengths.learn(agent, tokens.1);
            }
            tenant.charge_agent(request, cost_ns);
            tenant.meter(request, sizes.0 + sizes.1, self.now);
        }
    }

    /// The same of a request that had ended before its worker let go of it: what was seen of its answer is not undone by
    /// what its worker says in the end.
    pub(crate) fn settle_dropped(&mut self, request: &mut Request, tokens: (u32, u32)) {
        let (tokens_in, tokens_out) = request.bounded(tokens);
        let seen = u64::from(request.tokens_out);
        let read = u64::from(request.tokens_in) * u64::from(seen > 0);
        let sizes = (tokens_in.max(read), tokens_out.max(seen));
        let cost_ns = match sizes {
            (0, 0) => 0,
            _ => self.predict(request.tenant, request.model, sizes),
        };
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            tenant.charge_agent(request, cost_ns);
            tenant.meter(request, sizes.0 + sizes.1, self.now);
        }
    }

    /// The same of a request whose worker died under it: its agent pays for what was seen.
    pub(crate) fn settle_unheard(&mut self, id: RequestId) {
        if let Some(mut request) = self.requests.remove(&id) {
            self.settle_dropped(&mut request, (0, 0));
            self.requests.insert(id, request);
        }
    }

    /// From now on an agent has been charged so much for a request.
    pub(crate) fn charge_agent(&mut self, id: RequestId, cost_ns: Nanos) {
        if let Some(request) = self.requests.get_mut(&id)
            && let Some(tenant) = self.tenants.get_mut(&request.tenant)
        {
            tenant.charge_agent(request, cost_ns);
        }
    }
}
