//! Promise: of one tenant's agents that always have requests waiting for the same model, none gets more work done than
//! another, over any interval, by more than a bound (`agents_bound_tokens`), however large their requests are and
//! however wrong the core's guess at their answers. The tenant shares the lane with another, so leases come and go.

mod sim;

use std::collections::BTreeMap;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

/// Tokens that each agent's requests had that were done, by the simulator's own count.
#[derive(Default)]
struct Done {
    agents: BTreeMap<RequestId, AgentId>,
    tokens: BTreeMap<AgentId, i64>,
    /// Tokens of what the worker has in its hands, and the most that it ever had of one agent.
    in_hand: BTreeMap<AgentId, u64>,
    most_in_hand: u64,
    seen: usize,
}

impl Done {
    fn look(&mut self, sim: &Sim) {
        for (_, effect) in &sim.log[self.seen..] {
            match effect {
                Effect::Accepted { request } => {
                    if let Some((submission, _)) = sim.loops.get(request) {
                        self.agents.insert(*request, submission.agent);
                    }
                }
                Effect::Assign { requests, .. } => {
                    for request in requests {
                        self.take_in(*request, sim.tokens[request]);
                    }
                }
                Effect::Ended { request, .. } => {
                    if let Some(agent) = self.agents.remove(request) {
                        *self.in_hand.entry(agent).or_default() -= sim.tokens[request];
                        *self.tokens.entry(agent).or_default() += sim.tokens[request] as i64;
                    }
                }
                _ => {}
            }
        }
        self.seen = sim.log.len();
    }

    fn take_in(&mut self, request: RequestId, tokens: u64) {
        if let Some(agent) = self.agents.get(&request) {
            let in_hand = self.in_hand.entry(*agent).or_default();
            *in_hand += tokens;
            self.most_in_hand = self.most_in_hand.max(*in_hand);
        }
    }

    fn of(&self, agent: AgentId) -> i64 {
        self.tokens.get(&agent).copied().unwrap_or(0)
    }
}

/// Tokens in and out of each agent's requests: nothing but texts, or hardly anything but answers, so that a token costs
/// the same whoever asked for it and whatever the core has learnt of both kinds.
fn texts() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1u32..700).prop_map(|tokens| (tokens, 0)), 2..5)
}

fn answers() -> impl Strategy<Value = Vec<(u32, u32)>> {
    prop::collection::vec((1u32..900).prop_map(|tokens| (0, tokens)), 2..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Fails where what an answer was beyond what was expected of it is not charged.
    #[test]
    fn agents_stay_within_the_bound(
        sizes in prop_oneof![texts(), answers()],
        step_ms in 1u64..10,
    ) {
        let mut sim = Sim::new(limits(), 1, 4);
        let (tenant, rival) = (sim.tenant(1, 1), sim.tenant(2, 1));
        sim.conduct.insert(tenant, Conduct { step_ns: step_ms * MS, ..Conduct::default() });
        let mut largest = 0;
        for (n, (tokens_in, tokens_out)) in sizes.iter().enumerate() {
            let tokens = tokens_in + tokens_out;
            largest = largest.max(u64::from(tokens));
            // Twice what fits into a batch, so that some of them always wait.
            for _ in 0..2_000 / tokens + 3 {
                let mut submission = sim.submission(tenant, *tokens_in);
                submission.agent = AgentId(n as u32 + 10);
                submission.tokens_out_max = *tokens_out;
                sim.loops.insert(submission.request, (submission.clone(), 0));
                sim.offer(submission);
            }
        }
        sim.closed_loop(rival, 300, 0);
        let agents: Vec<AgentId> = (0..sizes.len()).map(|n| AgentId(n as u32 + 10)).collect();
        let mut done = Done::default();
        let mut spreads: BTreeMap<(AgentId, AgentId), (i64, i64)> = BTreeMap::new();
        let mut worst = 0;
        // By then the core has learnt what a token costs: what is promised is at one price.
        sim.run_watched(3 * SECOND, |sim| done.look(sim));
        sim.run_watched(10 * SECOND, |sim| {
            done.look(sim);
            for one in &agents {
                for other in agents.iter().filter(|other| *other > one) {
                    let ahead = done.of(*one) - done.of(*other);
                    let spread = spreads.entry((*one, *other)).or_insert((ahead, ahead));
                    *spread = (spread.0.min(ahead), spread.1.max(ahead));
                    worst = worst.max(spread.1 - spread.0);
                }
            }
        });
        let bound = agents_bound_tokens(largest, done.most_in_hand) as i64;
        prop_assert!(worst <= bound, "spread {worst} tokens, bound {bound}");
        prop_assert!(agents.iter().all(|agent| done.of(*agent) > 0));
    }
}
