//! The waiting requests of one tenant for one model, and the fair order among the agents that share its worker.
//!
//! Order: the agent with the least virtual time first; of its requests the interactive ones, then the earliest deadline,
//! then the earliest arrival. A queue belongs to one tenant, so whatever is taken from it is tenant-pure.
//!
//! Each model has an order and a floor of its own: whoever waits for a worker that is yet to start holds back no floor but
//! that one's, and what an agent had of one model is no debt with another. The floor is as in `fair`, without any credit.
//!
//! An agent is charged the expected cost of a request when it is assigned, what goes beyond that as it
//! comes, and the difference once it is known, however the request ended. Workers serve one tenant, and rates are
//! a tenant's own, so a worker's lie could shift the order inside that tenant only. An idle agent is remembered
//! while it has a debt, that is, while its virtual time is ahead of the floor, and forgotten after.
//!
//! What was charged ahead may turn out too much, after newcomers were lifted to a floor that it had raised: whoever gets
//! it back is ahead of them by at most that, the requests of one batch.

use std::collections::BTreeSet;

use crate::map::IdMap;
use crate::slots::Slots;
use crate::vtime::{self, VTime};
use crate::{AgentId, Nanos, Priority, RequestId};

/// A waiting request's place among those of its agent: priority, deadline (the end of time where it has
/// none), order of arrival, id.
pub type Slot = (Priority, Nanos, u64, RequestId);

#[derive(Debug)]
struct Agent {
    time: VTime,
    slots: Slots,
}

impl Agent {
    fn at(time: VTime) -> Self {
        let slots = Slots::default();
        Agent { time, slots }
    }

    /// Returns its time before, and whether it has requests that wait.
    fn move_to(&mut self, time: VTime) -> (VTime, bool) {
        let old = std::mem::replace(&mut self.time, time);
        (old, !self.slots.is_empty())
    }
}

/// One queue.
#[derive(Debug, Default)]
pub struct Queue {
    /// Those whose requests wait, and those that owe for what they had.
    agents: IdMap<AgentId, Agent>,
    /// The first of these.
    order: BTreeSet<(VTime, AgentId)>,
    /// The others.
    idle: BTreeSet<(VTime, AgentId)>,
    floor: VTime,
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

    /// One more request of this agent waits.
    pub fn push(&mut self, agent: AgentId, slot: Slot) {
        let floor = self.floor;
        let state = self.agents.entry(agent).or_insert_with(|| Agent::at(floor));
        let joins = state.slots.is_empty();
        if joins {
            self.idle.remove(&(state.time, agent));
            state.time = state.time.max(floor);
            self.order.insert((state.time, agent));
        }
        self.len += usize::from(state.slots.insert(slot));
        if joins {
            self.raise_floor();
        }
    }

    /// The next request to run.
    pub fn peek(&self) -> Option<RequestId> {
        self.heads().next().map(|(_, request)| request)
    }

    /// The first request of each agent, in the agents' order, and that agent's virtual time.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (VTime, RequestId)> + '_ {
        self.order.iter().filter_map(|(time, agent)| {
            let first = self.agents.get(agent)?.slots.first()?;
            Some((*time, first.3))
        })
    }

    /// Agents whose requests wait, in their order.
    pub(crate) fn agents(&self) -> impl Iterator<Item = AgentId> + '_ {
        self.order.iter().map(|(_, agent)| *agent)
    }

    /// A request of this agent waits no longer.
    pub fn remove(&mut self, agent: AgentId, slot: Slot) {
        let Some(state) = self.agents.get_mut(&agent) else {
            return;
        };
        self.len -= usize::from(state.slots.remove(&slot));
        let time = state.time;
        if state.slots.is_empty() && self.order.remove(&(time, agent)) {
            self.idle.insert((time, agent));
            // The last to leave leaves its time behind as the floor.
            if self.order.is_empty() {
                self.floor = self.floor.max(time);
            }
            self.raise_floor();
        }
        self.forget();
    }

    /// Charges an agent: nanoseconds of lane time in the core; a simulator may count otherwise.
    pub fn charge(&mut self, agent: AgentId, cost_ns: Nanos) {
        let floor = self.floor;
        let state = self.agents.entry(agent).or_insert_with(|| Agent::at(floor));
        let time = state.time.saturating_add(vtime::from_lane(cost_ns, 1));
        let (old, waits) = state.move_to(time);
        self.moved(agent, old, time, waits);
    }

    /// Gives an agent something back. One that is forgotten owes nothing.
    pub fn refund(&mut self, agent: AgentId, cost_ns: Nanos) {
        let Some(state) = self.agents.get_mut(&agent) else {
            return;
        };
        let time = state.time.saturating_sub(vtime::from_lane(cost_ns, 1));
        let (old, waits) = state.move_to(time);
        self.moved(agent, old, time, waits);
    }

    /// Requests of this agent that wait.
    pub(crate) fn of_agent(&self, agent: AgentId) -> impl Iterator<Item = RequestId> + '_ {
        let slots = self.agents.get(&agent).map(|state| &state.slots);
        slots.into_iter().flat_map(Slots::iter).map(|slot| slot.3)
    }

    /// Every waiting request, by agent and in its order.
    pub(crate) fn requests(&self) -> Vec<RequestId> {
        let mut agents: Vec<AgentId> = self.order.iter().map(|(_, agent)| *agent).collect();
        agents.sort_unstable();
        let requests = agents.into_iter().flat_map(|agent| self.of_agent(agent));
        requests.collect()
    }

    fn moved(&mut self, agent: AgentId, old: VTime, new: VTime, waits: bool) {
        let set = match waits {
            true => &mut self.order,
            false => &mut self.idle,
        };
        set.remove(&(old, agent));
        set.insert((new, agent));
        self.raise_floor();
        self.forget();
    }

    fn raise_floor(&mut self) {
        let least = self.order.first().map_or(0, |(time, _)| *time);
        self.floor = self.floor.max(least);
    }

    fn forget(&mut self) {
        while let Some(&(time, agent)) = self.idle.first() {
            if time > self.floor {
                return;
            }
            self.idle.pop_first();
            self.agents.remove(&agent);
        }
    }

    /// Says what is wrong with the books, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (agent, state) in &self.agents {
            state.slots.check()?;
            let key = (state.time, *agent);
            let (waits, owes) = (self.order.contains(&key), self.idle.contains(&key));
            if waits == state.slots.is_empty() || waits == owes {
                return Err(format!("{agent:?}: not in its order"));
            }
        }
        let slots: usize = self.agents.values().map(|state| state.slots.len()).sum();
        let listed = self.order.len() + self.idle.len();
        match slots == self.len && listed == self.agents.len() {
            true => Ok(()),
            false => Err(format!("{slots} requests of {} wait", self.len)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(deadline: Nanos, seq: u64) -> Slot {
        (Priority::Interactive, deadline, seq, RequestId(seq))
    }

    #[test]
    fn agent_then_deadline_then_arrival() {
        let mut queue = Queue::default();
        let batch = (Priority::Batch, 100, 9, RequestId(9));
        queue.push(AgentId(1), slot(u64::MAX, 1));
        queue.push(AgentId(1), slot(u64::MAX, 2));
        queue.push(AgentId(1), slot(900, 3));
        queue.push(AgentId(1), batch);
        queue.push(AgentId(2), slot(100, 4));
        queue.charge(AgentId(2), 4);
        assert_eq!(queue.peek(), Some(RequestId(3)));
        queue.remove(AgentId(1), slot(900, 3));
        assert_eq!(queue.peek(), Some(RequestId(1)));
        queue.remove(AgentId(1), batch);
        queue.charge(AgentId(1), 5);
        assert_eq!(queue.peek(), Some(RequestId(4)));
        queue.remove(AgentId(2), slot(100, 4));
        assert_eq!((queue.len(), queue.requests().len()), (2, 2));
        assert_eq!(queue.check(), Ok(()));
    }

    #[test]
    fn a_debt_is_remembered_until_others_catch_up() {
        let mut queue = Queue::default();
        let (greedy, modest) = (AgentId(1), AgentId(2));
        queue.push(greedy, slot(0, 1));
        queue.push(modest, slot(0, 2));
        queue.charge(greedy, 100);
        let ahead = queue.agents[&greedy].time;
        queue.remove(greedy, slot(0, 1));
        queue.push(greedy, slot(0, 3));
        assert_eq!(
            queue.agents[&greedy].time, ahead,
            "going idle erased a debt"
        );
        queue.remove(greedy, slot(0, 3));
        queue.charge(modest, 200);
        assert_eq!(
            queue.agents.len(),
            1,
            "nothing left to remember of the first"
        );
        assert_eq!(queue.check(), Ok(()));
    }
}
