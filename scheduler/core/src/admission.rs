//! Admission: whether a request gets a place, and if not, which bound stood in its way.
//!
//! Checked in this order: drain, tenant known, its regions, a worker or a device for one, deadline, size, backoff, the tenant's own
//! bounds, what it and its agent may have a minute, the shared queue memory. Another tenant can only ever fill what is not
//! reserved for this one.

use crate::core::{Core, Request};
use crate::memory::NoRoom;
use crate::places::Bytes;
use crate::rates::Taken;
use crate::tenant::{Flow, Tenant};
use crate::{AgentId, Bound, Effect, ModelId, Nanos, Refusal, Submission, TenantId};

/// Bounds of the hint when to ask again.
const RETRY_AFTER_NS_MIN: Nanos = 10_000_000;
const RETRY_AFTER_NS_MAX: Nanos = 10_000_000_000;

/// An agent that has more requests open counts as one that has its part of the queue memory: nobody waits for a walk
/// through more of them.
const WALKED_MAX: u32 = 256;

impl Core {
    /// Accepts or refuses. A second submission of a request that is still open is ignored: the
    /// first one has been answered, and a refusal would be taken for it.
    pub(crate) fn submit(&mut self, submission: Submission, effects: &mut Vec<Effect>) {
        if self.requests.contains_key(&submission.request) {
            return;
        }
        let request = submission.request;
        match self.admit(&submission) {
            Ok(taken) => {
                effects.push(Effect::Accepted { request });
                self.enqueue(submission, taken);
            }
            Err(refusal) => effects.push(Effect::Refused { request, refusal }),
        }
    }

    /// Reserves queue memory, and a part of what may be had a minute, where all bounds allow it.
    fn admit(&mut self, submission: &Submission) -> Result<Option<Taken>, Refusal> {
        let refusal = |core: &Core, bound| Refusal {
            bound,
            retry_after_ns: core.retry_after(submission, bound),
        };
        if let Err(bound) = self.check(submission) {
            self.turn_away(submission, bound);
            return Err(refusal(self, bound));
        }
        let (agent, now, tokens) = (submission.agent, self.now, could_be(submission));
        if let Some(tenant) = self.tenants.get(&submission.tenant) {
            let may = tenant.meters.check(tenant.rates(), agent, tokens, now);
            may.map_err(|too_fast| Refusal {
                bound: too_fast.bound,
                retry_after_ns: too_fast.retry_after_ns,
            })?;
        }
        if let Err(no_room) = self.take_memory(submission) {
            return Err(match no_room {
                NoRoom::Full => refusal(self, Bound::GlobalQueue),
                NoRoom::TooLarge => refusal(self, Bound::TooLarge),
            });
        }
        Ok(self.tenants.get_mut(&submission.tenant).map(|tenant| {
            let rates = tenant.rates();
            tenant.meters.take(rates, agent, tokens, now)
        }))
    }

    fn check(&self, submission: &Submission) -> Result<(), Bound> {
        if self.draining {
            return Err(Bound::Draining);
        }
        let tenant = self.tenants.get(&submission.tenant).ok_or(Bound::Unknown)?;
        let flow = tenant.flows.get(&submission.model);
        let regions = tenant.settings.regions;
        if !self.is_anywhere(regions) {
            return Err(Bound::Residency);
        }
        let on = flow.and_then(|flow| self.devices.get(&flow.device?));
        let has_worker = on.is_some_and(|device| regions.contains(device.region));
        if !has_worker && !self.is_served(submission.model, regions) {
            return Err(Bound::NoDevice);
        }
        if submission
            .deadline
            .is_some_and(|deadline| deadline <= self.now)
        {
            return Err(Bound::DeadlinePast);
        }
        if self.is_too_soon(submission, flow) {
            return Err(Bound::DeadlineTooSoon);
        }
        if submission.bytes > self.limits.queue_bytes_max {
            return Err(Bound::TooLarge);
        }
        if self.hopeless(submission, flow).is_some() {
            return Err(match flow.is_some_and(|flow| flow.refused) {
                true => Bound::ModelRefused,
                false => Bound::Backoff,
            });
        }
        let own = tenant.open_of(submission.agent);
        for bound in [Bound::TenantOpen, Bound::TenantQueue] {
            let room = tenant.room(bound);
            if room.is_some_and(|room| !tenant.agent_places.may(own, room, self.now)) {
                return Err(bound);
            }
        }
        Ok(())
    }

    /// Remembers that an agent found no place, where that is what stood in its way.
    fn turn_away(&mut self, submission: &Submission, bound: Bound) {
        if let Some(tenant) = self.tenants.get_mut(&submission.tenant)
            && let Some(room) = tenant.room(bound)
        {
            let own = tenant.open_of(submission.agent);
            tenant.agent_places.turned_away(own, room, self.now);
        }
    }

    /// Takes queue memory, but for what is kept for siblings of its agent, and remembers who found none.
    fn take_memory(&mut self, submission: &Submission) -> Result<(), NoRoom> {
        let (id, bytes) = (submission.tenant, submission.bytes);
        if let Some(tenant) = self.tenants.get(&id)
            && let Some(kept) = tenant.agent_places.bytes_kept(self.now)
            && bytes <= self.memory.reachable(id)
            && !self.memory.leaves(id, bytes, kept)
            && !tenant
                .agent_places
                .is_within_part(self.would_have(submission))
        {
            return Err(NoRoom::Full);
        }
        let taken = self.memory.take(id, bytes);
        if taken == Err(NoRoom::Full) {
            let would_have = self.would_have(submission);
            if let Some(tenant) = self.tenants.get_mut(&id) {
                let own = tenant.open_of(submission.agent);
                let places = &mut tenant.agent_places;
                places.found_no_memory(bytes, would_have, own, self.now);
            }
        }
        taken
    }

    /// Queue memory that its agent would have with it.
    fn would_have(&self, submission: &Submission) -> Bytes {
        let tenant = self.tenants.get(&submission.tenant);
        let own = tenant.map_or(0, |tenant| self.waiting_bytes(tenant, submission.agent));
        Bytes {
            own: own.saturating_add(submission.bytes),
            reachable: self.memory.reachable(submission.tenant),
        }
    }

    fn waiting_bytes(&self, tenant: &Tenant, agent: AgentId) -> u64 {
        if tenant.open_of(agent) > WALKED_MAX {
            return u64::MAX;
        }
        let waiting = tenant.flows.values();
        let waiting = waiting.flat_map(|flow| flow.queue.of_agent(agent));
        let waiting = waiting.filter_map(|id| self.requests.get(&id));
        waiting.map(|request| request.bytes).sum()
    }

    /// Whether a deadline could not be met were the lane free now: reading the text and one token of an answer alone take
    /// longer, whatever is doubtful in that. Nobody else's work, nor the tenant's own, has a part in it.
    fn is_too_soon(&self, submission: &Submission, flow: Option<&Flow>) -> bool {
        let device = flow.and_then(|flow| flow.device);
        let (Some(deadline), Some(device)) = (submission.deadline, device) else {
            return false;
        };
        let at = (submission.tenant, submission.model, device);
        let tokens_out = u64::from(submission.tokens_out_max.min(1));
        let tokens_in = u64::from(submission.tokens_read_min.min(submission.tokens_in));
        let least_ns = self.costs.at_least(at, tokens_in, tokens_out);
        deadline.saturating_sub(self.now) < least_ns
    }

    fn enqueue(&mut self, submission: Submission, metered: Option<Taken>) {
        let (id, model) = (submission.tenant, submission.model);
        let Some(tenant) = self.tenants.get(&id) else {
            return;
        };
        let tokens_out = (tenant.lengths).expect(submission.agent, submission.tokens_out_max);
        let sizes = (u64::from(submission.tokens_in), u64::from(tokens_out));
        let cost_ns = self.predict_for((id, model), tenant.flows.get(&model), sizes);
        let arrival = self.next_arrival;
        self.next_arrival += 1;
        self.lift_idle(submission.tenant);
        let Some(tenant) = self.tenants.get_mut(&submission.tenant) else {
            return;
        };
        tenant.queued += 1;
        tenant.queued_cost_ns += u128::from(cost_ns);
        if tenant.opened(submission.agent) {
            self.agents.insert((submission.agent, submission.tenant));
        }
        if let Some(deadline) = submission.deadline {
            self.deadlines.insert((deadline, submission.request));
        }
        let request = Request {
            tenant: submission.tenant,
            agent: submission.agent,
            model: submission.model,
            tokens_in: submission.tokens_in,
            tokens_out_max: submission.tokens_out_max,
            tokens_out: 0,
            cost_ns,
            metered,
            charged_ns: 0,
            passed_by: 0,
            passed_ns: 0,
            bytes: submission.bytes,
            deadline: submission.deadline,
            priority: submission.priority,
            arrival,
            worker: None,
            lane_ns_before: 0,
            answering: false,
            moved: false,
        };
        let flow = tenant.flow_or_new(submission.model);
        let was_empty = flow.queue.is_empty();
        flow.filled = false;
        flow.queue
            .push(submission.agent, request.slot(submission.request));
        self.requests.insert(submission.request, Box::new(request));
        // No index depends on how long a queue is.
        if was_empty {
            self.reindex(submission.tenant);
        }
    }

    /// Tokens that an answer of this agent is expected to have, of at most so many.
    pub(crate) fn expected_answer(&self, tenant: TenantId, agent: AgentId, most: u32) -> u32 {
        let lengths = self.tenants.get(&tenant).map(|tenant| &tenant.lengths);
        lengths.map_or(most, |book| book.expect(agent, most))
    }

    /// Predicted cost of so many tokens in and out, at least one, on the device of the worker that serves this model for
    /// this tenant, or on the first device where there is none yet.
    pub(crate) fn predict(&self, tenant: TenantId, model: ModelId, sizes: (u64, u64)) -> Nanos {
        self.predict_for((tenant, model), self.flow(tenant, model), sizes)
    }

    fn predict_for(
        &self,
        (tenant, model): (TenantId, ModelId),
        flow: Option<&Flow>,
        (tokens_in, tokens_out): (u64, u64),
    ) -> Nanos {
        let device = flow.and_then(|flow| flow.device);
        let tokens_in = tokens_in.max(u64::from(tokens_out == 0));
        device.or_else(|| self.devices.nth(0)).map_or(0, |device| {
            let at = (tenant, model, device);
            self.costs.predict(at, tokens_in, tokens_out)
        })
    }

    /// When the tenant's own queue should have drained at its share of the lanes, as predicted; or when
    /// its backoff is over. The share is that of one among a power of two of its like: it tells what others have to do
    /// within a factor of two, and no closer whatever the tenant has in its own queue.
    fn retry_after(&self, submission: &Submission, bound: Bound) -> Option<Nanos> {
        match bound {
            Bound::Backoff => {
                let flow = self.flow(submission.tenant, submission.model);
                return self.hopeless(submission, flow);
            }
            Bound::NoDevice => return Some(RETRY_AFTER_NS_MAX),
            _ => {}
        }
        if !matches!(
            bound,
            Bound::TenantQueue | Bound::TenantOpen | Bound::GlobalQueue
        ) {
            return None;
        }
        let tenant = self.tenants.get(&submission.tenant)?;
        let lanes: u128 = self
            .devices
            .values()
            .filter(|device| device.up)
            .map(|device| device.lanes as u128)
            .sum();
        let weight = u128::from(tenant.weight());
        let rivals = self.competing_weights().max(weight);
        let like_it = rivals.div_ceil(weight).next_power_of_two();
        let drain = tenant.queued_cost_ns.saturating_mul(like_it) / lanes.max(1);
        let hint = Nanos::try_from(drain).unwrap_or(Nanos::MAX);
        Some(hint.clamp(RETRY_AFTER_NS_MIN, RETRY_AFTER_NS_MAX))
    }
}

/// Tokens that a request could become, as far as may be told before.
fn could_be(submission: &Submission) -> u64 {
    u64::from(submission.tokens_in) + u64::from(submission.tokens_out_max)
}
