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
        let tenants: Vec<TenantId> = self.agents.range(all).map(|(_, of)| *of).collect();
        for tenant in tenants {
            for request in self.requests_of(tenant, agent) {
                self.cancel(request, why, effects);
            }
        }
    }

    /// Open requests of an agent, by id: those that wait, and those in its workers' hands.
    fn requests_of(&self, tenant: TenantId, agent: AgentId) -> Vec<RequestId> {
        let mut requests = Vec::new();
        let flows = self.tenants.get(&tenant).map(|tenant| &tenant.flows);
        for flow in flows.into_iter().flat_map(|flows| flows.values()) {
            requests.extend(flow.queue.of_agent(agent));
            if let Some(worker) = flow.worker.and_then(|worker| self.workers.get(&worker)) {
                let held = worker.assigned.iter();
                let held = held.filter(|(_, held)| held.agent == agent);
                requests.extend(held.map(|(request, _)| *request));
            }
        }
        requests.sort_unstable();
        requests
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
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            if tenant.closed(request.agent) {
                self.agents.remove(&(request.agent, request.tenant));
            }
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
        self.memory.put(request.tenant, request.bytes);
        if let Some(tenant) = self.tenants.get_mut(&request.tenant) {
            tenant.waits_no_longer(id, request);
        }
    }
}
