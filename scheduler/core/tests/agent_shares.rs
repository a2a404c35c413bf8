//! Promise: of one tenant's agents that always have requests waiting for the same model, none gets more work done than
//! another, over any interval, by more than a bound (`Limits::agents_bound_tokens`), however large their requests are and
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
                Effect::Ended { request, .. } => {
                    if let Some(agent) = self.agents.remove(request) {
                        *self.tokens.entry(agent).or_default() += sim.tokens[request] as i64;
                    }
                }
                _ => {}
            }
        }
        self.seen = sim.log.len();
    }

    fn of(&self, agent: AgentId) -> i64 {
        self.tokens.get(&agent).copied().unwrap_or(0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Fails where what an answer was beyond what was expected of it is not charged.
    #[test]
    fn agents_stay_within_the_bound(
        sizes in prop::collection::vec((1u32..700, prop::option::of(1u32..900)), 2..5),
        step_ms in 1u64..10,
    ) {
        let mut sim = Sim::new(limits(), 1, 4);
        let (tenant, rival) = (sim.tenant(1, 1), sim.tenant(2, 1));
        sim.conduct.insert(tenant, Conduct { step_ns: step_ms * MS, ..Conduct::default() });
        let mut largest = 0;
        for (n, (tokens_in, tokens_out)) in sizes.iter().enumerate() {
            let tokens = tokens_in + tokens_out.unwrap_or(0);
            largest = largest.max(u64::from(tokens));
            // Twice what fits into a batch, so that some of them always wait.
            for _ in 0..2_000 / tokens + 3 {
                let mut submission = sim.submission(tenant, *tokens_in);
                submission.agent = AgentId(n as u32 + 10);
                submission.tokens_out_max = tokens_out.unwrap_or(0);
                sim.loops.insert(submission.request, (submission.clone(), 0));
                sim.offer(submission);
            }
        }
        sim.closed_loop(rival, 300, 0);
        let agents: Vec<AgentId> = (0..sizes.len()).map(|n| AgentId(n as u32 + 10)).collect();
        let bound = limits().agents_bound_tokens(largest) as i64;
        let mut done = Done::default();
        let mut spreads: BTreeMap<(AgentId, AgentId), (i64, i64)> = BTreeMap::new();
        let mut worst = 0;
        sim.run_watched(10 * SECOND, |sim| {
            done.look(sim);
            for one in &agents {
                for other in agents.iter().filter(|other| *other > one) {
                    let ahead = done.of(*one) - done.of(*other);
                    let spread = spreads.entry((*one, *other)).or_default();
                    *spread = (spread.0.min(ahead), spread.1.max(ahead));
                    worst = worst.max(spread.1 - spread.0);
                }
            }
        });
        prop_assert!(worst <= bound, "spread {worst} tokens, bound {bound}");
        prop_assert!(agents.iter().all(|agent| done.of(*agent) > 0));
    }
}
