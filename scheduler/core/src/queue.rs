//! The waiting requests of one tenant for one model.
//!
//! Order: the agent with the least virtual time first; of its requests the interactive ones, then the earliest deadline,
//! then the earliest arrival. A queue belongs to one tenant, so whatever is taken from it is tenant-pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::vtime::VTime;
use crate::{AgentId, Nanos, Priority, RequestId};

/// A waiting request's place among those of its agent: priority, deadline (the end of time where it has
/// none), order of arrival, id.
pub type Slot = (Priority, Nanos, u64, RequestId);

#[derive(Debug)]
struct AgentQueue {
    time: VTime,
    slots: BTreeSet<Slot>,
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    agents: BTreeMap<AgentId, AgentQueue>,
    order: BTreeSet<(VTime, AgentId)>,
    len: usize,
}

impl Queue {
    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a request of an agent whose virtual time is `time`.
    pub fn push(&mut self, agent: AgentId, time: VTime, slot: Slot) {
        self.order.insert((time, agent));
        let queue = self.agents.entry(agent).or_insert_with(|| AgentQueue {
            time,
            slots: BTreeSet::new(),
        });
        debug_assert_eq!(queue.time, time, "an agent has one virtual time");
        self.len += usize::from(queue.slots.insert(slot));
    }

    /// The next request to run.
    pub fn peek(&self) -> Option<RequestId> {
        let (_, agent) = self.order.first()?;
        self.agents.get(agent)?.slots.first().map(|slot| slot.3)
    }

    /// The first request of each agent, in the agents' order, and that agent's virtual time.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (VTime, RequestId)> + '_ {
        self.order.iter().filter_map(|(time, agent)| {
            let first = self.agents.get(agent)?.slots.first()?;
            Some((*time, first.3))
        })
    }

    /// Takes a request out.
    pub fn remove(&mut self, agent: AgentId, slot: Slot) {
        let Some(queue) = self.agents.get_mut(&agent) else {
            return;
        };
        self.len -= usize::from(queue.slots.remove(&slot));
        if queue.slots.is_empty() {
            self.order.remove(&(queue.time, agent));
            self.agents.remove(&agent);
        }
    }

    /// Tells the queue an agent's new virtual time.
    pub fn retime(&mut self, agent: AgentId, time: VTime) {
        if let Some(queue) = self.agents.get_mut(&agent) {
            self.order.remove(&(queue.time, agent));
            queue.time = time;
            self.order.insert((time, agent));
        }
    }

    /// Every waiting request, in no meaningful order but always the same.
    pub fn requests(&self) -> impl Iterator<Item = RequestId> + '_ {
        self.agents
            .values()
            .flat_map(|queue| queue.slots.iter().map(|slot| slot.3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_then_deadline_then_arrival() {
        let mut queue = Queue::default();
        let slot = |deadline, seq| (Priority::Interactive, deadline, seq, RequestId(seq));
        let batch = (Priority::Batch, 100, 9, RequestId(9));
        queue.push(AgentId(1), 5, slot(u64::MAX, 1));
        queue.push(AgentId(1), 5, slot(u64::MAX, 2));
        queue.push(AgentId(1), 5, slot(900, 3));
        queue.push(AgentId(1), 5, batch);
        queue.push(AgentId(2), 9, slot(100, 4));
        assert_eq!(queue.peek(), Some(RequestId(3)));
        queue.remove(AgentId(1), slot(900, 3));
        assert_eq!(queue.peek(), Some(RequestId(1)));
        queue.remove(AgentId(1), batch);
        queue.retime(AgentId(1), 10);
        assert_eq!(queue.peek(), Some(RequestId(4)));
        queue.remove(AgentId(2), slot(100, 4));
        assert_eq!((queue.len(), queue.requests().count()), (2, 2));
    }
}
