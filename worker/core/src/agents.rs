//! Fair order among the agents of one tenant: who is served next, and who has had the most.
//!
//! An agent's virtual time is the tokens that were computed for it, divided by its weight. The agent
//! with the least goes first. One that comes back after a pause is lifted to the floor, the least time
//! among those with work (if none has, that of the last to leave): a pause earns nothing. One that was
//! ahead when it left comes back as far ahead: a pause pays no debt. (Virtual token counters, from
//! "Fairness in Serving Large Language Models", OSDI 2024.)

use std::collections::BTreeMap;

/// Virtual time of one token at weight 1.
const TOKEN_TIME: u64 = 1 << 20;

/// Idle agents whose debt is remembered at most.
const IDLE_MAX: usize = 1024;

/// One of a tenant's agents: a number that means nothing here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Agent(pub u64);

#[derive(Debug)]
struct State {
    time: u64,
    weight: u32,
    /// Its sequences, waiting and running.
    sequences: usize,
}

/// The agents that have work, or a debt.
#[derive(Debug, Default)]
pub(crate) struct Agents {
    all: BTreeMap<Agent, State>,
    floor: u64,
}

impl Agents {
    /// One more sequence of this agent.
    pub fn enter(&mut self, agent: Agent, weight: u32) {
        self.raise_floor();
        let floor = self.floor;
        let state = self.all.entry(agent).or_insert(State {
            time: floor,
            weight: 1,
            sequences: 0,
        });
        state.weight = weight.max(1);
        if state.sequences == 0 {
            state.time = state.time.max(floor);
        }
        state.sequences += 1;
    }

    /// One sequence of this agent less.
    pub fn leave(&mut self, agent: Agent) {
        // While it counts among those with work: if it is the last, the floor is its time.
        self.raise_floor();
        if let Some(state) = self.all.get_mut(&agent) {
            state.sequences = state.sequences.saturating_sub(1);
        }
        self.forget();
    }

    /// Bills tokens to an agent.
    pub fn charge(&mut self, agent: Agent, tokens: usize) {
        if let Some(state) = self.all.get_mut(&agent) {
            let time = TOKEN_TIME.saturating_mul(tokens as u64) / u64::from(state.weight);
            state.time = state.time.saturating_add(time);
        }
    }

    /// Its virtual time.
    pub fn time(&self, agent: Agent) -> u64 {
        self.all.get(&agent).map_or(self.floor, |state| state.time)
    }

    fn raise_floor(&mut self) {
        let busy = self.all.values().filter(|state| state.sequences > 0);
        if let Some(least) = busy.map(|state| state.time).min() {
            self.floor = self.floor.max(least);
        }
    }

    /// Drops idle agents without a debt and, of too many with one, those with the least.
    fn forget(&mut self) {
        let floor = self.floor;
        let keep = |state: &State| state.sequences > 0 || state.time > floor;
        self.all.retain(|_, state| keep(state));
        let idle = |all: &BTreeMap<Agent, State>| {
            let idle = all.iter().filter(|(_, state)| state.sequences == 0);
            let least = idle.clone().min_by_key(|(_, state)| state.time);
            (idle.count(), least.map(|(agent, _)| *agent))
        };
        while let (IDLE_MAX.., Some(least)) = idle(&self.all) {
            self.all.remove(&least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Agent = Agent(1);
    const B: Agent = Agent(2);

    #[test]
    fn a_pause_earns_nothing_and_pays_no_debt() {
        let mut agents = Agents::default();
        agents.enter(A, 1);
        agents.enter(B, 1);
        agents.charge(A, 100);
        agents.leave(A);
        agents.charge(B, 40);
        agents.enter(A, 1);
        assert_eq!(agents.time(A), 100 * TOKEN_TIME, "its debt is still there");
        agents.leave(B);
        agents.charge(A, 900);
        agents.enter(B, 1);
        assert_eq!(
            agents.time(B),
            1000 * TOKEN_TIME,
            "it is lifted to the floor"
        );
    }

    #[test]
    fn where_nobody_is_left_the_last_ones_time_is_the_floor() {
        let mut agents = Agents::default();
        agents.enter(A, 1);
        agents.charge(A, 10);
        agents.leave(A);
        agents.enter(B, 1);
        assert_eq!(agents.time(B), 10 * TOKEN_TIME);
    }

    #[test]
    fn an_old_debt_that_others_have_overtaken_is_worth_nothing() {
        let mut agents = Agents::default();
        agents.enter(A, 1);
        agents.enter(B, 1);
        agents.charge(A, 100);
        agents.leave(A);
        agents.charge(B, 900);
        agents.enter(A, 1);
        assert_eq!(
            agents.time(A),
            900 * TOKEN_TIME,
            "it is lifted to the floor"
        );
    }

    #[test]
    fn weight_divides() {
        let mut agents = Agents::default();
        agents.enter(A, 4);
        agents.charge(A, 100);
        assert_eq!(agents.time(A), 25 * TOKEN_TIME);
    }

    #[test]
    fn debts_of_the_idle_are_bounded() {
        let mut agents = Agents::default();
        agents.enter(Agent(0), 1);
        for n in 1..3000 {
            agents.enter(Agent(n), 1);
            agents.charge(Agent(n), n as usize);
            agents.leave(Agent(n));
        }
        assert!(agents.all.len() <= IDLE_MAX + 1);
        assert_eq!(agents.time(Agent(2999)), 2999 * TOKEN_TIME);
    }
}
