//! What agents are charged for their requests: as answers grow, once they have ended, and where they ended early. The same
//! counts against what they may have a minute.
//!
//! Between tenants nothing follows from it: they are charged lane time, by the driver's clock. And no end is free for what
//! was in a worker's hands: an agent whose requests end so would always have the least time, and be first for ever.

use crate::core::{Core, Request};
use crate::tenant::Tenant;
use crate::{Nanos, Outcome, RequestId, WorkerId};

/// What a request came to.
#[derive(Clone, Copy)]
struct Came {
    cost_ns: Nanos,
    tokens: u64,
}

impl Came {
    fn at_least(self, least: Came) -> Came {
        Came {
            cost_ns: self.cost_ns.max(least.cost_ns),
            tokens: self.tokens.max(least.tokens),
        }
    }
}

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
        if let Some(flow) = self.flow_mut(tenant, model) {
            flow.filled = false;
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
    /// be, in predicted cost, and learns from its length. A worker can claim no more than the request could be, and no less
    /// than was seen of its answer. What it refused costs as if it had been served, up to a whole batch: it held a place
    /// before its siblings' requests.
    pub(crate) fn settle_agent(&mut self, id: RequestId, tokens: (u32, u32), outcome: Outcome) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let (tokens_in, tokens_out) = request.bounded(tokens);
        let tokens_out = tokens_out.max(u64::from(request.tokens_out));
        let came = match outcome {
            Outcome::Ok => self.came(request, (tokens_in, tokens_out)),
            Outcome::Cancelled | Outcome::Internal => self.cut_short(request, tokens),
            Outcome::Invalid | Outcome::OverQuota => self
                .as_if_served(request, request.tokens_out_max)
                .at_least(self.cut_short(request, tokens)),
        };
        if request.tokens_out_max > 0
            && outcome == Outcome::Ok
            && let Some(tenant) = self.tenants.get_mut(&request.tenant)
        {
            let answer = u32::try_from(tokens_out).unwrap_or(u32::MAX);
            tenant.lengths.learn(request.agent, answer);
        }
        self.settle_open(id, came);
    }

    /// The same of an open request whose device went bad under it.
    pub(crate) fn settle_lost(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(&id) {
            let came = self.cut_short(request, (0, 0));
            self.settle_open(id, came);
        }
    }

    /// The same of an open request whose worker died under it.
    pub(crate) fn settle_unheard(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(&id) {
            let came = self.unheard(request);
            self.settle_open(id, came);
        }
    }

    /// The same of one that had ended before: hanging up in time is no way out.
    pub(crate) fn settle_dropped_unheard(&mut self, request: &mut Request) {
        let came = self.unheard(request);
        self.settle_ended(request, came);
    }

    /// The same of a request that had ended before its worker let go of it: what was seen of its answer is not undone by
    /// what its worker says in the end.
    pub(crate) fn settle_dropped(&mut self, request: &mut Request, tokens: (u32, u32)) {
        let came = self.cut_short(request, tokens);
        self.settle_ended(request, came);
    }

    fn settle_open(&mut self, id: RequestId, came: Came) {
        if let Some(request) = self.requests.get_mut(&id)
            && let Some(tenant) = self.tenants.get_mut(&request.tenant)
        {
            settle(tenant, request, came, self.now);
        }
    }

    fn settle_ended(&mut self, request: &mut Request, came: Came) {
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            settle(tenant, request, came, self.now);
        }
    }

    /// What a request of a worker that died came to: as if it had been served with the answer that was expected. Which of those
    /// in its hands a worker died of, if any, nobody can tell, so it is the same for all: who has nothing to do with it pays
    /// about what it would have anyway; who ends worker after worker pays for each turn that it takes, and those of whom
    /// nothing was there are before it.
    fn unheard(&self, request: &Request) -> Came {
        let answer = self.expected_answer(request.tenant, request.agent, request.tokens_out_max);
        self.as_if_served(request, answer)
            .at_least(self.cut_short(request, (0, 0)))
    }

    /// What an agent is charged when a request is given to its worker. No more than was a whole batch: texts are cut at what
    /// their model reads, and what was charged beyond that would hold siblings back until it was given back. And no more of
    /// its answer than counts in that batch; what is beyond is charged as it comes.
    pub(crate) fn in_advance_ns(&self, request: &Request) -> Nanos {
        let answer = self.expected_answer(request.tenant, request.agent, request.tokens_out_max);
        let answer = answer.min(self.answer_counted_max());
        self.as_if_served(request, answer).cost_ns
    }

    /// A request ends that was first, and did not fit, and that others went past. They had the turn that it gives up, so
    /// it costs as much: or its agent would be as far behind as ever, with siblings that owe it all that they had. But no more
    /// than it would have cost: what went past may have been hung up since, and have paid for less.
    pub(crate) fn give_up_turn(&mut self, id: RequestId) {
        if let Some(request) = self.requests.get(&id)
            && request.passed_ns > 0
        {
            let turn_ns = request.passed_ns.min(self.in_advance_ns(request));
            let so_far_ns = request.charged_ns.saturating_add(turn_ns);
            self.charge_agent(id, so_far_ns);
        }
    }

    /// What a request would have come to with such an answer, up to a whole batch: texts may be cut, so that a large one may
    /// not be what its bytes let expect.
    fn as_if_served(&self, request: &Request, tokens_out: u32) -> Came {
        let batch = self.limits.batch_tokens_max;
        let tokens_in = request.tokens_in.min(batch);
        let tokens_out = tokens_out.min(batch - tokens_in);
        self.came(request, (u64::from(tokens_in), u64::from(tokens_out)))
    }

    /// What a request came to that was not served: what its worker says of it, and no less than was seen of its answer, nor
    /// than it occupied. A text is not told of until all of it was read, so that by a worker's word there was nothing.
    fn cut_short(&self, request: &Request, tokens: (u32, u32)) -> Came {
        let (tokens_in, tokens_out) = request.bounded(tokens);
        let seen = u64::from(request.tokens_out);
        let read = u64::from(request.tokens_in) * u64::from(seen > 0);
        let sizes = (tokens_in.max(read), tokens_out.max(seen));
        match sizes {
            (0, 0) => self.occupied(request),
            _ => self.came(request, sizes).at_least(self.occupied(request)),
        }
    }

    /// The lane time that its worker had while it held a request, up to what was expected of that. Others may have had some
    /// of it, but it held a place beside them. And as large a part of its text: of an answer all is told as it grows.
    fn occupied(&self, request: &Request) -> Came {
        let worker = request.worker.and_then(|worker| self.workers.get(&worker));
        let lane_ns = worker.map_or(0, |worker| worker.lane_ns(self.now));
        let expected = self.expected(request);
        let cost_ns = lane_ns.saturating_sub(request.lane_ns_before);
        let cost_ns = cost_ns.min(expected.cost_ns);
        let tokens = u128::from(request.tokens_in) * u128::from(cost_ns);
        let tokens = tokens / u128::from(expected.cost_ns.max(1));
        Came {
            cost_ns,
            tokens: u64::try_from(tokens).unwrap_or(u64::MAX),
        }
    }

    /// What is expected of a request, its answer no shorter than it is by now.
    fn expected(&self, request: &Request) -> Came {
        let answer = self.expected_answer(request.tenant, request.agent, request.tokens_out_max);
        let tokens_out = answer.max(request.tokens_out);
        self.came(
            request,
            (u64::from(request.tokens_in), u64::from(tokens_out)),
        )
    }

    fn came(&self, request: &Request, (tokens_in, tokens_out): (u64, u64)) -> Came {
        Came {
            cost_ns: self.predict(request.tenant, request.model, (tokens_in, tokens_out)),
            tokens: tokens_in.saturating_add(tokens_out),
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

fn settle(tenant: &mut Tenant, request: &mut Request, came: Came, now: Nanos) {
    tenant.charge_agent(request, came.cost_ns);
    tenant.meter(request, came.tokens, now);
}
