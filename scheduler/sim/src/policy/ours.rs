//! Bulkhead's own order inside one tenant: the very code of the core, with each client of the workload as an agent.
//!
//! What the core does with nanoseconds of lane time is counted here in the paper's cost, so that the rows of one table are
//! of one kind. It is never told how long an answer will be.

use std::collections::BTreeMap;

use bulkhead_core::{AgentId, LengthBook, Priority, Queue, RequestId, Slot};

use super::{Policy, Request, Verdict};
use crate::cost::cost;
use crate::workload::Arrival;

/// The order among the agents of one tenant.
#[derive(Debug, Default)]
pub struct Ours {
    lengths: LengthBook,
    queue: Queue,
    waiting: BTreeMap<RequestId, Request>,
    /// What the agent of each running request was charged for it, by its index.
    charged: BTreeMap<usize, u64>,
}

impl Ours {
    /// From now on an agent has been charged so much for a request.
    fn charge(&mut self, request: &Request, cost: u64) {
        let agent = AgentId(request.arrival.tenant);
        let before = self.charged.insert(request.index, cost).unwrap_or(0);
        match cost.checked_sub(before) {
            Some(more) => self.queue.charge(agent, more),
            None => self.queue.refund(agent, before - cost),
        }
    }
}

/// In order of arrival.
fn slot(id: RequestId) -> Slot {
    (Priority::Interactive, u64::MAX, id.0, id)
}

impl Policy for Ours {
    fn name(&self) -> String {
        "Bulkhead".to_owned()
    }

    fn arrive(&mut self, request: Request) -> Verdict {
        let agent = AgentId(request.arrival.tenant);
        let id = RequestId(request.index as u64);
        self.queue.push(agent, slot(id));
        self.waiting.insert(id, request);
        Verdict::Waits
    }

    fn admit(&mut self, fits: &dyn Fn(&Arrival) -> bool) -> Option<Request> {
        let id = self.queue.peek()?;
        let request = *self.waiting.get(&id)?;
        if !fits(&request.arrival) {
            return None;
        }
        let agent = AgentId(request.arrival.tenant);
        let expected = self.lengths.expect(agent, u32::MAX);
        self.charge(&request, cost(request.arrival.input, expected));
        self.waiting.remove(&id);
        self.queue.remove(agent, slot(id));
        Some(request)
    }

    fn produced(&mut self, request: &Request, nth: u32) {
        let so_far = cost(request.arrival.input, nth);
        let charged = self.charged.get(&request.index).copied();
        if charged.is_none_or(|charged| so_far > charged) {
            self.charge(request, so_far);
        }
    }

    fn finished(&mut self, request: &Request) {
        let Arrival {
            tenant,
            input,
            output,
            ..
        } = request.arrival;
        self.lengths.learn(AgentId(tenant), output);
        self.charge(request, cost(input, output));
        self.charged.remove(&request.index);
    }
}
