//! Steps on a machine that takes what it takes: none is over its limit, from the first one on, while a
//! prompt of 8,000 tokens is read beside a sequence that decodes.
//!
//! The machine is simulated: its prices are hidden from what plans for it, each step takes up to so much
//! more or less than they say, and time is a number. So a failure is a seed.

use bulkhead_worker_core::{
    Agent, Arrival, Dirty, Plan, Planner, PlannerLimits, Prices, Room, StepModel, StepWork,
};
use proptest::prelude::*;

const LIMIT_NS: u64 = 25_000_000;
/// What a token is taken to cost before anything was measured, nanoseconds.
const TOKEN_NS_GUESS: u64 = 3_000_000;
const PROMPT_TOKENS: usize = 8000;
/// The longest that a sequence gets here.
const CONTEXT_TOKENS: u64 = 8192;
/// Tokens that the neighbour may write: more than it will.
const NEIGHBOUR_TOKENS: usize = 8000;
const NEIGHBOUR: u64 = 1;
const READER: u64 = 2;

/// A machine: what a step really takes.
#[derive(Clone, Debug)]
struct Machine {
    prices: Prices,
    /// How far a step may be from its price, in shares of it.
    noise: f64,
    /// One step in so many takes as much longer as the limit is; none where it is 0.
    spikes: u64,
    seed: u64,
}

impl Machine {
    fn costs(&self, work: StepWork) -> f64 {
        self.prices.step_ns + self.prices.of(work)
    }

    fn takes(&mut self, work: StepWork) -> u64 {
        // Numerical Recipes' generator; its upper bits are even enough.
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005);
        self.seed = self.seed.wrapping_add(1_442_695_040_888_963_407);
        let even = (self.seed >> 40) as f64 / (1u64 << 24) as f64;
        let spike = self.spikes > 0 && (self.seed >> 20).is_multiple_of(self.spikes);
        let took = self.costs(work) * (1.0 + self.noise * (2.0 * even - 1.0));
        took as u64 + u64::from(spike) * LIMIT_NS
    }

    /// Work of so many tokens of a prompt from `from` on.
    fn piece(from: u64, tokens: u64) -> StepWork {
        StepWork {
            tokens,
            reads: from + tokens,
            positions: from * tokens + tokens * (tokens + 1) / 2,
            answers: 1,
        }
    }

    /// Steps that the prompt takes alone if each is as long as `room_ns` allows.
    fn steps_at_best(&self, room_ns: f64) -> usize {
        let (mut at, mut steps) = (0, 0);
        while at < PROMPT_TOKENS as u64 {
            let fits = |tokens: &u64| self.costs(Machine::piece(at, *tokens)) <= room_ns;
            at += (1..=512).take_while(fits).last().unwrap_or(1);
            steps += 1;
        }
        steps
    }
}

/// Machines on which a token of the longest context takes less than half of the limit, from one on which
/// that is the reading of its past to one on which it is the products.
fn machines() -> impl Strategy<Value = Machine> {
    let shares = (1u32..100, 1u32..100, 1u32..100, 1u32..100, 1u32..20);
    (shares, 0.05..0.45, 0.0..0.06, any::<u64>()).prop_map(|(shares, part, noise, seed)| {
        let (step, token, read, position, answer) = shares;
        let all = f64::from(step + token + read + position + answer);
        let share = |one: u32| LIMIT_NS as f64 * part * f64::from(one) / all;
        let prices = Prices {
            step_ns: share(step),
            token_ns: share(token),
            read_ns: share(read) / CONTEXT_TOKENS as f64,
            position_ns: share(position) / CONTEXT_TOKENS as f64,
            answer_ns: share(answer),
            block_ns: 0.0,
        };
        Machine {
            prices,
            noise,
            spikes: 0,
            seed,
        }
    })
}

/// The planner as the engine drives it.
struct Engine {
    machine: Machine,
    planner: Planner,
    model: StepModel,
    longest_ns: u64,
}

impl Engine {
    fn new(machine: Machine) -> Self {
        let limits = PlannerLimits {
            blocks: 2048,
            sequences_max: 8,
            step_tokens_max: 512,
            prefix_cache: false,
        };
        Engine {
            machine,
            planner: Planner::new(limits),
            model: StepModel::new(TOKEN_NS_GUESS),
            longest_ns: 0,
        }
    }

    fn add(&mut self, request: u64, prompt_tokens: usize, max_tokens: usize) {
        let arrival = Arrival {
            request,
            agent: Agent(request),
            weight: 1,
            prompt_tokens,
            max_tokens,
            hashes: Vec::new(),
        };
        self.planner.add(arrival).expect("the pool has room");
    }

    /// One step; tells whose sequences got a token.
    fn step(&mut self) -> Vec<u64> {
        let room = Room {
            ns: self.model.room_ns(LIMIT_NS),
            tokens: self.model.tokens_max() as usize,
        };
        let clean = &mut |_: &Dirty| 0;
        let plan: Plan = self.planner.plan(self.model.prices(), room, clean);
        let took = self.machine.takes(plan.work);
        self.model.observe(plan.work, took);
        self.model.missed(plan.expected_ns, took);
        self.longest_ns = self.longest_ns.max(took);
        let answering = plan.parts.iter().filter(|part| part.answers);
        let answered: Vec<u64> = answering.map(|part| part.request).collect();
        answered.iter().for_each(|one| self.planner.push(*one));
        answered
    }

    /// Reads the prompt to its first token. Returns how many steps that took, and how many tokens the
    /// neighbour got meanwhile.
    fn read_prompt(&mut self) -> (usize, usize) {
        self.add(READER, PROMPT_TOKENS, 1);
        let (mut steps, mut beside) = (0, 0);
        loop {
            let answered = self.step();
            steps += 1;
            beside += answered.iter().filter(|one| **one == NEIGHBOUR).count();
            if answered.contains(&READER) {
                self.planner.end(READER);
                return (steps, beside);
            }
            assert!(steps < 100_000, "the prompt is never read");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_step_is_over_the_limit_from_the_first_one_on(machine in machines(), before in 0usize..300) {
        let mut engine = Engine::new(machine);
        engine.add(NEIGHBOUR, 40, NEIGHBOUR_TOKENS);
        for _ in 0..before {
            engine.step();
        }
        let (steps, beside) = engine.read_prompt();
        prop_assert!(engine.longest_ns <= LIMIT_NS, "a step took {} ns", engine.longest_ns);
        prop_assert!(beside * 4 >= steps, "{beside} tokens beside in {steps} steps");
    }

    #[test]
    fn the_limit_is_used(machine in machines()) {
        let best = machine.steps_at_best(LIMIT_NS as f64 * 0.75);
        let mut engine = Engine::new(machine);
        let (first, _) = engine.read_prompt();
        prop_assert!(first <= best * 3 / 2 + 20, "{first} steps instead of {best}");
        let (second, _) = engine.read_prompt();
        prop_assert!(second <= best * 3 / 2 + 8, "{second} steps instead of {best}");
        prop_assert!(engine.longest_ns <= LIMIT_NS, "a step took {} ns", engine.longest_ns);
    }

    #[test]
    fn other_programs_do_not_bring_a_prompt_to_a_halt(machine in machines(), spikes in 10u64..40) {
        let best = machine.steps_at_best(LIMIT_NS as f64 * 0.5);
        let mut engine = Engine::new(Machine { spikes, ..machine });
        let (first, _) = engine.read_prompt();
        prop_assert!(first <= best * 2 + 20, "{first} steps instead of {best}");
    }

    #[test]
    fn where_one_token_takes_more_than_the_limit_a_prompt_still_comes_in_pieces(
        step in 1_000_000.0..6e6, read in 3_500.0..6_000.0, noise in 0.0..0.1, seed in any::<u64>(),
    ) {
        let prices = Prices {
            step_ns: step,
            token_ns: 500_000.0,
            read_ns: read,
            position_ns: 200.0,
            answer_ns: 1_000_000.0,
            block_ns: 0.0,
        };
        let mut engine = Engine::new(Machine { prices, noise, spikes: 0, seed });
        let (steps, _) = engine.read_prompt();
        prop_assert!(steps < PROMPT_TOKENS / 3, "{steps} steps");
    }
}
