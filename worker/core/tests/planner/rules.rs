//! What holds whatever comes: no block of two owners, none lost or dirty, each sequence ends, and no
//! step over its room.

use crate::world::{Job, World};
use bulkhead_worker_core::{Agent, Arrival, Planner, PlannerLimits};
use proptest::prelude::*;

fn limits(blocks: u32, prefix_cache: bool) -> PlannerLimits {
    PlannerLimits {
        blocks,
        sequences_max: 6,
        step_tokens_max: 64,
        prefix_cache,
    }
}

fn job() -> impl Strategy<Value = Job> {
    (0u64..4, 1u32..4, 0u64..3, 1usize..150, 1usize..60).prop_map(
        |(agent, weight, family, prompt, answer)| Job {
            agent,
            weight,
            family,
            prompt,
            answer,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// The device checks every block that is read or written.
    #[test]
    fn every_sequence_ends_and_every_block_is_clean_again(
        jobs in proptest::collection::vec((job(), 0usize..30, proptest::bool::weighted(0.1)), 1..25),
        blocks in 4u32..30,
        rooms in proptest::collection::vec(0usize..80, 1..8),
        cache in any::<bool>(),
        idle in 0u64..40,
        lengths in proptest::collection::vec(1usize..6, 1..6),
    ) {
        let mut world = World::new(limits(blocks, cache));
        world.lengths = lengths;
        let mut rooms = rooms.iter().cycle();
        let mut expected = 0;
        let mut cancelled = Vec::new();
        let mut total = 0;
        for (request, (job, steps, cancel)) in jobs.iter().enumerate() {
            let request = request as u64;
            let fits = (job.prompt + job.answer - 1).div_ceil(16) <= blocks as usize;
            prop_assert_eq!(world.add(request, job).is_ok(), fits);
            if fits {
                total += job.prompt + job.answer;
                expected += 1;
            }
            for _ in 0..*steps {
                world.step(*rooms.next().expect("endless"));
                world.expire(idle);
            }
            if *cancel && world.lives_on(request / 2) {
                world.end(request / 2);
                cancelled.push(request / 2);
                world.planner.forget(Agent(job.agent));
            }
        }
        let before = world.steps;
        while world.lives() {
            world.step(*rooms.next().expect("endless"));
            prop_assert!(world.steps - before <= 100 * total as u64 + 100, "it never ends");
        }
        prop_assert_eq!(world.done.len() + cancelled.len(), expected);
        world.clean_all();
        prop_assert_eq!(world.planner.held_blocks(), 0);
        prop_assert_eq!(world.device.written(), world.planner.cached_blocks());
        let tally = world.planner.tally();
        prop_assert_eq!(tally.blocks_cleaned, world.device.cleaned);
        let billed: u64 = world.served.values().sum();
        prop_assert_eq!(tally.tokens_computed - tally.tokens_recomputed, billed);
        if !cache {
            prop_assert_eq!(tally.tokens_cached, 0);
            prop_assert_eq!(world.planner.cached_blocks(), 0);
        }
    }
}

#[test]
fn the_agent_that_had_most_makes_room_and_its_tokens_are_overhead() {
    let mut world = World::new(limits(8, false));
    let job = |agent| Job {
        agent,
        weight: 1,
        family: agent,
        prompt: 30,
        answer: 60,
    };
    world.add(1, &job(1)).expect("it fits alone");
    (0..20).for_each(|_| world.step(64));
    world.add(2, &job(1)).expect("it fits alone");
    (0..2).for_each(|_| world.step(64));
    world.add(3, &job(2)).expect("it fits alone");
    while world.lives() {
        world.step(64);
    }
    let tally = world.planner.tally();
    assert!(
        tally.preemptions > 0 && tally.tokens_recomputed > 0,
        "{tally:?}"
    );
    assert_eq!(
        world.done[0], 1,
        "the oldest is never the one that makes room"
    );
    // Each is billed its prompt and all of its answer but the last token, and nothing twice.
    assert_eq!(world.served[&1], 2 * (30 + 60 - 1));
    assert_eq!(world.served[&2], 30 + 60 - 1);
}

#[test]
fn one_that_ended_is_clean_once_its_last_block_is() {
    let mut world = World::new(limits(8, false));
    let job = Job {
        agent: 1,
        weight: 1,
        family: 1,
        prompt: 30,
        answer: 9,
    };
    world.add(1, &job).expect("it fits");
    world.step(64);
    world.end(1);
    assert_eq!(world.planner.dirty_blocks(), 2);
    for _ in 0..2 {
        assert!(!world.planner.is_clean(1));
        let device = &mut world.device;
        world.planner.clean_one(&mut |block| device.clean(block));
    }
    assert!(world.planner.is_clean(1));
}

#[test]
fn what_could_never_fit_is_refused_at_once() {
    let mut planner = Planner::new(limits(4, false));
    let mut arrival = Arrival {
        request: 1,
        agent: Agent(1),
        weight: 1,
        prompt_tokens: 40,
        max_tokens: 26,
        hashes: Vec::new(),
    };
    let error = planner
        .add(arrival.clone())
        .expect_err("65 tokens in 64 places");
    assert_eq!((error.needed, error.capacity), (5, 4));
    arrival.max_tokens = 25;
    planner.add(arrival).expect("64 tokens");
}

#[test]
fn streams_flow_while_a_prompt_is_read_and_cannot_hold_it_up() {
    let mut world = World::new(PlannerLimits {
        sequences_max: 20,
        ..limits(200, false)
    });
    let stream = Job {
        agent: 1,
        weight: 1,
        family: 0,
        prompt: 1,
        answer: 500,
    };
    for request in 0..12 {
        world.add(request, &stream).expect("it fits");
    }
    world.step(64);
    let prompt = Job {
        agent: 1,
        family: 1,
        prompt: 200,
        answer: 1,
        ..stream
    };
    world.add(99, &prompt).expect("it fits");
    let before = world.served[&1];
    let mut steps = 0;
    while world.lives_on(99) {
        world.step(8);
        steps += 1;
    }
    assert_eq!(
        steps, 25,
        "a pass of eight tokens of the prompt in each step"
    );
    let streams = world.served[&1] - before - 200;
    assert_eq!(
        streams,
        25 * 6,
        "a quarter of a step is kept for the prompt"
    );
}

/// Time is the steps' number. What runs again in between is not dropped, and what goes is clean.
#[test]
fn what_nobody_used_for_a_time_goes_clean_and_no_sooner() {
    let mut world = World::new(limits(20, true));
    let job = Job {
        agent: 1,
        weight: 1,
        family: 1,
        prompt: 96,
        answer: 1,
    };
    let run = |world: &mut World, request| {
        world.add(request, &job).expect("it fits");
        while world.lives() {
            world.step(64);
        }
        world.clean_all();
        world.planner.cached_blocks()
    };
    assert_eq!(run(&mut world, 1), 6);
    world.pass(99);
    world.expire(100);
    assert_eq!(world.planner.cached_blocks(), 6, "not yet");
    assert_eq!(run(&mut world, 2), 6);
    world.pass(99);
    world.expire(100);
    assert_eq!(
        world.planner.cached_blocks(),
        5,
        "its last block was not used again"
    );
    world.pass(2);
    world.expire(100);
    assert_eq!(
        (world.planner.cached_blocks(), world.device.written()),
        (0, 0)
    );
}

/// What nobody but the cache needs never stands in the way: with all blocks cached, a sequence that needs
/// all of them runs at once.
#[test]
fn a_full_cache_refuses_nothing_that_would_fit_without_it() {
    let mut world = World::new(limits(8, true));
    let job = |family| Job {
        agent: 1,
        weight: 1,
        family,
        prompt: 128,
        answer: 1,
    };
    for family in 0..4 {
        world.add(family, &job(family)).expect("it fits");
        world.step(64);
        assert_eq!(world.planner.running(), 1, "it is let in at once");
        while world.lives() {
            world.step(64);
        }
        assert_eq!(
            world.planner.cached_blocks(),
            8,
            "and fills the cache again"
        );
        assert_eq!(world.planner.tally().preemptions, 0);
    }
}

/// The same prompt again costs one block at most, and blocks that nobody uses make room, cleaned.
#[test]
fn what_is_cached_is_not_computed_again_and_makes_room_when_needed() {
    let mut world = World::new(limits(10, true));
    let job = |family, prompt| Job {
        agent: 1,
        weight: 1,
        family,
        prompt,
        answer: 1,
    };
    let run = |world: &mut World, request, job: &Job| {
        let before = world.planner.tally();
        world.add(request, job).expect("it fits");
        while world.lives() {
            world.step(64);
        }
        world.clean_all();
        let now = world.planner.tally();
        now.tokens_computed - before.tokens_computed
    };
    assert_eq!(run(&mut world, 1, &job(1, 96)), 96);
    assert_eq!(world.planner.cached_blocks(), 6);
    assert_eq!(
        run(&mut world, 2, &job(1, 96)),
        16,
        "its last block is computed"
    );
    assert_eq!(run(&mut world, 3, &job(1, 100)), 4);
    assert_eq!(world.planner.tally().tokens_cached, 80 + 96);
    // Others need the room: its end is given up first, and cleaned.
    let before = world.device.cleaned;
    assert_eq!(run(&mut world, 4, &job(2, 100)), 100);
    assert!(world.device.cleaned >= before + 3);
    assert_eq!(
        run(&mut world, 5, &job(1, 64)),
        64 - 48,
        "its beginning is still there"
    );
}

/// A pass takes three steps, and in the second one of its two sequences is cancelled: its block is cleaned and
/// used again at once, and the other goes on undisturbed.
#[test]
fn what_ends_is_taken_out_of_its_pass_and_the_others_go_on() {
    let mut world = World::new(limits(4, false));
    world.lengths = vec![3];
    let job = |agent, prompt| Job {
        agent,
        weight: 1,
        family: agent,
        prompt,
        answer: 1,
    };
    world.add(1, &job(1, 16)).expect("it fits");
    world.add(2, &job(2, 30)).expect("it fits");
    world.step(64);
    world.end(1);
    // It needs the block that the first one had.
    world.add(3, &job(3, 32)).expect("it fits");
    while world.lives() {
        world.step(64);
    }
    assert_eq!((world.done.as_slice(), world.withdrawn), (&[2, 3][..], 1));
    let tally = world.planner.tally();
    assert_eq!(
        (tally.tokens_computed, tally.tokens_recomputed),
        (16 + 30 + 32, 0)
    );
}

/// Its blocks are not the cache's before everything in them is computed.
#[test]
fn what_a_pass_on_its_way_reads_is_cached_only_at_its_end() {
    let mut world = World::new(limits(20, true));
    world.lengths = vec![3];
    let job = Job {
        agent: 1,
        weight: 1,
        family: 1,
        prompt: 48,
        answer: 1,
    };
    world.add(1, &job).expect("it fits");
    world.step(64);
    world.add(2, &job).expect("it fits");
    world.step(64);
    assert_eq!(world.planner.tally().tokens_cached, 0);
    while world.lives() {
        world.step(64);
    }
    world.add(3, &job).expect("it fits");
    world.step(64);
    assert_eq!(world.planner.tally().tokens_cached, 32);
}
