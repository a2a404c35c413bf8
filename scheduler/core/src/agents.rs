//! Fair order among the agents of one tenant that want one model.
//!
//! They share that model's worker, so each model has an order and a floor of its own: whoever waits for a worker that is
//! yet to start holds back no floor but that one's, and what an agent had of one model is no debt with another.
//!
//! An agent is charged the expected cost of a request when it is assigned, what goes beyond that as it
//! comes, and the difference once it is known, however the request ended. Workers serve one tenant, and rates are
//! a tenant's own, so a worker's lie could shift the order inside that tenant only. An idle agent is remembered
//! while it has a debt, that is, while its virtual time is ahead of the floor, and forgotten after.
//!
//! What was charged ahead may turn out too much, after newcomers were lifted to a floor that it had raised: whoever gets
//! it back is ahead of them by at most that, the requests of one batch.

use std::collections::{BTreeMap, BTreeSet};

use crate::fair::FairSet;
use crate::vtime::{self, VTime};
use crate::{AgentId, Nanos};

#[derive(Debug)]
struct Agent {
    time: VTime,
    queued: usize,
}

/// The agents of one tenant that wait for one model, or have a debt with it.
#[derive(Debug, Default)]
pub struct AgentBook {
    agents: BTreeMap<AgentId, Agent>,
    fair: FairSet<AgentId>,
    idle: BTreeSet<(VTime, AgentId)>,
}

impl AgentBook {
    /// One more request of this agent waits. Returns the agent's virtual time.
    pub fn enqueue(&mut self, agent: AgentId) -> VTime {
        let floor = self.fair.floor();
        let state = self.agents.entry(agent).or_insert(Agent {
            time: floor,
            queued: 0,
        });
        if state.queued == 0 {
            self.idle.remove(&(state.time, agent));
            state.time = self.fair.join(agent, state.time, 0);
        }
        state.queued += 1;
        state.time
    }

    /// One request of this agent waits no longer.
    pub fn dequeue(&mut self, agent: AgentId) {
        let Some(state) = self.agents.get_mut(&agent) else {
            return;
        };
        debug_assert!(state.queued > 0, "an agent had nothing queued");
        state.queued = state.queued.saturating_sub(1);
        if state.queued == 0 {
            self.fair.leave(agent);
            self.idle.insert((state.time, agent));
        }
        self.forget();
    }

    /// Charges an agent: nanoseconds of lane time in the core; a simulator may count otherwise. Returns
    /// its new time.
    pub fn charge(&mut self, agent: AgentId, cost_ns: Nanos) -> VTime {
        let time = self
            .time(agent)
            .saturating_add(vtime::from_lane(cost_ns, 1));
        self.set(agent, time);
        time
    }

    /// Gives an agent something back. Returns its new time.
    pub fn refund(&mut self, agent: AgentId, cost_ns: Nanos) -> VTime {
        let time = self
            .time(agent)
            .saturating_sub(vtime::from_lane(cost_ns, 1));
        if self.agents.contains_key(&agent) {
            self.set(agent, time);
        }
        time
    }

    /// How many agents are remembered.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.agents.len()
    }

    fn time(&self, agent: AgentId) -> VTime {
        self.agents
            .get(&agent)
            .map_or(self.fair.floor(), |state| state.time)
    }

    fn set(&mut self, agent: AgentId, time: VTime) {
        let state = self
            .agents
            .entry(agent)
            .or_insert(Agent { time, queued: 0 });
        if state.queued > 0 {
            self.fair.set(agent, time);
        } else {
            self.idle.remove(&(state.time, agent));
            self.idle.insert((time, agent));
        }
        state.time = time;
        self.forget();
    }

    fn forget(&mut self) {
        while let Some(&(time, agent)) = self.idle.first() {
            if time > self.fair.floor() {
                return;
            }
            self.idle.pop_first();
            self.agents.remove(&agent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_debt_is_remembered_until_others_catch_up() {
        let mut book = AgentBook::default();
        let (greedy, modest) = (AgentId(1), AgentId(2));
        book.enqueue(greedy);
        book.enqueue(modest);
        let ahead = book.charge(greedy, 100);
        book.dequeue(greedy);
        assert_eq!(book.enqueue(greedy), ahead, "going idle erased a debt");
        book.dequeue(greedy);
        book.charge(modest, 200);
        assert_eq!(book.len(), 1, "nothing left to remember of the first");
    }
}
