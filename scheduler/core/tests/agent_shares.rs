//! Promise: of one tenant's agents that always have requests waiting for the same model, none gets more work done than
//! another, over any interval, by more than a bound (`agents_bound_tokens`), however large their requests are, however
//! wrong the core's guess at their answers, and whatever else they wait for. The tenant shares the lane with another, so
//! leases come and go.

mod sim;

use std::collections::BTreeMap;

use bulkhead_core::*;
use proptest::prelude::*;
use sim::*;

const SECOND_MODEL: ModelId = ModelId(2);

/// An agent, as one that wants a model.
type Wants = (ModelId, AgentId);

/// Tokens that each agent's requests had that were done, by the simulator's own count.
#[derive(Default)]
struct Done {
    wants: BTreeMap<RequestId, Wants>,
    tokens: BTreeMap<Wants, i64>,
    /// Tokens of what the worker has in its hands, and the most that it ever had of one agent.
    in_hand: BTreeMap<Wants, u64>,
    most_in_hand: u64,
    seen: usize,
}

impl Done {
    fn look(&mut self, sim: &Sim) {
        for (_, effect) in &sim.log[self.seen..] {
            match effect {
                Effect::Accepted { request } => {
                    if let Some((submission, _)) = sim.loops.get(request) {
                        let wants = (submission.model, submission.agent);
                        self.wants.insert(*request, wants);
                    }
                }
                Effect::Assign { requests, .. } => {
                    for request in requests {
                        self.take_in(*request, sim.tokens[request]);
                    }
                }
                Effect::Ended { request, .. } => {
                    if let Some(wants) = self.wants.remove(request) {
                        *self.in_hand.entry(wants).or_default() -= sim.tokens[request];
                        *self.tokens.entry(wants).or_default() += sim.tokens[request] as i64;
                    }
                }
                _ => {}
            }
        }
        self.seen = sim.log.len();
    }

    fn take_in(&mut self, request: RequestId, tokens: u64) {
        if let Some(wants) = self.wants.get(&request) {
            let in_hand = self.in_hand.entry(*wants).or_default();
            *in_hand += tokens;
            self.most_in_hand = self.most_in_hand.max(*in_hand);
        }
    }

    fn of(&self, wants: Wants) -> i64 {
        self.tokens.get(&wants).copied().unwrap_or(0)
    }
}

/// By how much every two agents that want one model ever differed, from the first look on.
#[derive(Default)]
struct Spreads {
    spreads: BTreeMap<(Wants, Wants), (i64, i64)>,
    worst: i64,
}

impl Spreads {
    fn look(&mut self, done: &Done, all: &[Wants]) {
        for one in all {
            for other in all.iter().filter(|other| other.0 == one.0 && *other > one) {
                let ahead = done.of(*one) - done.of(*other);
                let spread = self.spreads.entry((*one, *other)).or_insert((ahead, ahead));
                *spread = (spread.0.min(ahead), spread.1.max(ahead));
                self.worst = self.worst.max(spread.1 - spread.0);
            }
        }
    }
}

/// An agent that always has requests waiting: twice what fits into a batch.
fn keeps_asking(sim: &mut Sim, tenant: TenantId, wants: Wants, tokens: (u32, u32)) {
    for _ in 0..2_000 / (tokens.0 + tokens.1) + 3 {
        let mut submission = sim.submission(tenant, tokens.0);
        (submission.model, submission.agent) = wants;
        submission.tokens_out_max = tokens.1;
        sim.loops
            .insert(submission.request, (submission.clone(), 0));
        sim.offer(submission);
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

    /// Fails where what an answer was beyond what was expected of it is not charged, and where an agent is charged with
    /// one model for what it had of another.
    #[test]
    fn agents_stay_within_the_bound(
        sizes in prop_oneof![texts(), answers()],
        want_both in prop::collection::vec(any::<bool>(), 4),
        step_ms in 1u64..10,
    ) {
        let mut sim = Sim::new(limits(), 1, 4);
        let (tenant, rival) = (sim.tenant(1, 1), sim.tenant(2, 1));
        sim.conduct.insert(tenant, Conduct { step_ns: step_ms * MS, ..Conduct::default() });
        let mut all = Vec::new();
        for (n, tokens) in sizes.iter().enumerate() {
            let agent = AgentId(n as u32 + 10);
            all.push((MODEL, agent));
            keeps_asking(&mut sim, tenant, (MODEL, agent), *tokens);
            if want_both[n] {
                all.push((SECOND_MODEL, agent));
                keeps_asking(&mut sim, tenant, (SECOND_MODEL, agent), *tokens);
            }
        }
        sim.closed_loop(rival, 300, 0);
        let largest = sizes.iter().map(|(tokens_in, tokens_out)| tokens_in + tokens_out).max();
        let (mut done, mut spreads) = (Done::default(), Spreads::default());
        // By then the core has learnt what a token costs: what is promised is at one price.
        sim.run_watched(3 * SECOND, |sim| done.look(sim));
        sim.run_watched(10 * SECOND, |sim| {
            done.look(sim);
            spreads.look(&done, &all);
        });
        let bound = agents_bound_tokens(u64::from(largest.unwrap_or(0)), done.most_in_hand) as i64;
        prop_assert!(spreads.worst <= bound, "spread {} tokens, bound {bound}", spreads.worst);
        prop_assert!(all.iter().all(|wants| done.of(*wants) > 0));
    }
}

/// Two agents come after another has worked alone for a while; one of them has waited all along for a model whose worker
/// takes an hour to start. Fails where that holds back the floor to which they are lifted: then both are served before
/// the first until they have had as much.
#[test]
fn who_waits_for_another_model_holds_no_floor_back() {
    let mut sim = Sim::new(limits(), 1, 4);
    let tenant = sim.tenant(1, 1);
    let [busy, parked, new] = [10, 11, 12].map(|agent| (MODEL, AgentId(agent)));
    sim.start_ns = 3_600 * SECOND;
    let mut waits = sim.submission(tenant, 100);
    (waits.model, waits.agent) = (SECOND_MODEL, parked.1);
    sim.offer(waits);
    sim.start_ns = 0;
    let (mut done, mut spreads) = (Done::default(), Spreads::default());
    keeps_asking(&mut sim, tenant, busy, (100, 0));
    sim.run_watched(5 * SECOND, |sim| done.look(sim));
    keeps_asking(&mut sim, tenant, parked, (100, 0));
    keeps_asking(&mut sim, tenant, new, (100, 0));
    sim.run_watched(15 * SECOND, |sim| {
        done.look(sim);
        spreads.look(&done, &[busy, parked, new]);
    });
    let bound = agents_bound_tokens(100, done.most_in_hand) as i64;
    assert!(
        spreads.worst <= bound,
        "spread {} tokens, bound {bound}",
        spreads.worst
    );
    assert!(done.of(new) > 30_000);
}
