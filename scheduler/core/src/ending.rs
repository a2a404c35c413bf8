//! How requests end: exactly once each, whatever happens and in whatever order.
//!
//! A request is open while it stands in `Core::requests`; `end` takes it out and is the only place
//! that says `Ended`. What a worker still holds of it then is remembered with the worker as dropped
//! and keeps its tokens taken, until the worker says that it let go.

use crate::core::{Core, Request};
use crate::{AgentId, CancelReason, Effect, End, RequestId, TenantId};

impl Core {
    pub(crate) fn cancel(
        &mut self,
        request: RequestId,
        why: CancelReason,
        effects: &mut Vec<Effect>,
    ) {
        self.end_early(request, End::Cancelled(why), effects);
    }

    pub(crate) fn cancel_agent(
        &mut self,
        agent: AgentId,
        why: CancelReason,
        effects: &mut Vec<Effect>,
    ) {
        let all = (agent, TenantId(0))..=(agent, TenantId(u32::MAX));
        let requests: Vec<RequestId> = self
            .agents
            .range(all)
            .flat_map(|(_, open)| open.iter().copied())
            .collect();
        for request in requests {
            self.cancel(request, why, effects);
        }
    }

    /// Ends what is past its deadline.
    pub(crate) fn expire(&mut self, effects: &mut Vec<Effect>) {
        while let Some(&(deadline, request)) = self.deadlines.first() {
            if deadline > self.now {
                return;
            }
            self.deadlines.pop_first();
            self.end_early(request, End::Deadline, effects);
        }
    }

    /// Ends a request that may be running: its worker is told to drop it.
    fn end_early(&mut self, id: RequestId, end: End, effects: &mut Vec<Effect>) {
        let holder = self.requests.get(&id).and_then(|request| request.worker);
        if let Some(worker) = holder.and_then(|worker| self.workers.get(&worker))
            && !worker.is_leaving()
        {
            effects.push(Effect::CancelRunning {
                worker: worker.id,
                request: id,
            });
        }
        let ended = self.end(id, end, effects);
        if let Some(request) = ended
            && let Some(worker) = holder.and_then(|worker| self.workers.get_mut(&worker))
        {
            worker.drop_later(id, request, self.now);
        }
    }

    /// Ends an open request, and returns what it was. Ended and unknown ones are ignored.
    pub(crate) fn end(
        &mut self,
        id: RequestId,
        end: End,
        effects: &mut Vec<Effect>,
    ) -> Option<Request> {
        if self
            .requests
            .get(&id)
            .is_some_and(|request| request.worker.is_none())
        {
            self.give_up_turn(id);
            self.leave_queue(id);
        }
        self.end_unqueued(id, end, effects)
    }

    /// Ends an open request that is in no queue.
    pub(crate) fn end_unqueued(
        &mut self,
        id: RequestId,
        end: End,
        effects: &mut Vec<Effect>,
    ) -> Option<Request> {
        let mut request = self.requests.remove(&id)?;
        if let Some(deadline) = request.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        // One that waits again after its device went bad has run, and keeps what it took in advance.
        let never_ran = request.worker.is_none() && !request.moved;
        let agent = (request.agent, request.tenant);
        let open = self.agents.get_mut(&agent);
        let was_last = open.is_some_and(|open| {
            open.remove(&id);
            open.is_empty()
        });
        if was_last {
            self.agents.remove(&agent);
        }
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            debug_assert!(tenant.open > 0, "a tenant ended more than it had open");
            tenant.open = tenant.open.saturating_sub(1);
            tenant.agent_places.agents -= u32::from(was_last);
            if never_ran {
                tenant.meter(&mut request, 0, self.now);
            }
        }
        effects.push(Effect::Ended { request: id, end });
        self.reindex(request.tenant);
        Some(*request)
    }

    /// Takes a request out of its queue and gives its queue memory back.
    pub(crate) fn leave_queue(&mut self, id: RequestId) {
        let Some(request) = self.requests.get(&id) else {
            return;
        };
        let slot = request.slot(id);
        self.memory.put(request.tenant, request.bytes);
        let Some(tenant) = self.tenants.get_mut(&request.tenant) else {
            return;
        };
        tenant.queued = tenant.queued.saturating_sub(1);
        tenant.queued_cost_ns -= u128::from(request.cost_ns);
        if let Some(flow) = tenant.flows.get_mut(&request.model) {
            flow.dequeue(request.agent, slot);
        }
    }
}
