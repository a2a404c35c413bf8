//! Fairness between agents that always have work.
//!
//! The bound: once one of two agents is ahead, it is let in no more until the other caught up; so its
//! lead is at most what its running sequences can still use, S sequences of at most L tokens, divided by
//! its weight, and the two passes of a step. The same holds the other way round.

use crate::world::{Job, World};
use bulkhead_worker_core::PlannerLimits;
use proptest::prelude::*;

const SEQUENCES: usize = 4;
const LIMITS: PlannerLimits = PlannerLimits {
    blocks: 40,
    sequences_max: SEQUENCES,
    step_tokens_max: 64,
    prefix_cache: false,
};

/// Runs two agents that each always have three requests waiting; returns the tokens that each got.
fn compete(a: &Job, b: &Job, room: usize, steps: u32, mut check: impl FnMut(u64, u64)) {
    let mut world = World::new(LIMITS);
    let mut request = 0;
    for _ in 0..steps {
        for job in [a, b] {
            let open = (0..request).filter(|open| world.lives_on(*open) && open % 2 == job.agent);
            for _ in open.count()..SEQUENCES + 3 {
                while request % 2 != job.agent {
                    request += 1;
                }
                world.add(request, job).expect("it fits");
                request += 1;
            }
        }
        world.step(room);
        let served = |agent| world.served.get(&agent).copied().unwrap_or(0);
        check(served(0), served(1));
    }
}

fn job(agent: u64, weight: u32, prompt: usize, answer: usize) -> Job {
    Job {
        agent,
        weight,
        family: agent,
        prompt,
        answer,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn no_agent_gets_further_ahead_than_the_bound(
        (pa, aa, wa) in (1usize..200, 1usize..80, 1u32..5),
        (pb, ab, wb) in (1usize..200, 1usize..80, 1u32..5),
        room in 4usize..64,
    ) {
        let (a, b) = (job(0, wa, pa, aa), job(1, wb, pb, ab));
        let lead = |prompt: usize, answer: usize, weight: u32| {
            (SEQUENCES * (prompt + answer) + 2 * room) as f64 / f64::from(weight)
        };
        let (bound_a, bound_b) = (lead(pa, aa, wa), lead(pb, ab, wb));
        compete(&a, &b, room, 400, |got_a, got_b| {
            let ahead = got_a as f64 / f64::from(wa) - got_b as f64 / f64::from(wb);
            assert!(ahead <= bound_a && -ahead <= bound_b, "{ahead}: {bound_a}, {bound_b}");
        });
    }
}

#[test]
fn weights_divide_the_work() {
    let (mut got_a, mut got_b) = (0, 0);
    compete(&job(0, 3, 40, 20), &job(1, 1, 40, 20), 32, 4000, |a, b| {
        (got_a, got_b) = (a, b)
    });
    let ratio = got_a as f64 / got_b as f64;
    assert!((2.9..3.1).contains(&ratio), "{got_a} to {got_b}");
}

#[test]
fn one_request_does_not_wait_behind_a_neighbours_hundred() {
    let mut world = World::new(LIMITS);
    for request in 0..100 {
        world.add(request, &job(0, 1, 60, 20)).expect("it fits");
    }
    (0..10).for_each(|_| world.step(32));
    world.add(1000, &job(1, 1, 60, 20)).expect("it fits");
    let before = world.steps;
    while world.lives_on(1000) {
        world.step(32);
    }
    // A place gets free, its prompt is read in two steps, its answer is 20 tokens: well before what
    // the other agent asked for first, 8,000 tokens.
    assert!(world.steps - before < 60, "{} steps", world.steps - before);
}
