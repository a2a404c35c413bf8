//! Promise: a turn is so long that changing hands takes a set part of it, and no longer than a quantum; what a worker says of
//! that changes their length within these bounds, and nobody's share.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::{TENANT, World, X};
use sim::{Conduct, MS, SECOND, Sim, limits};

const PERCENT: u32 = 10;
const QUANTUM_NS: Nanos = 40 * MS;
const STEP_NS: Nanos = MS;

/// Two tenants that always have something to run, with frames that take so long each way. The first behaves so.
fn crowd(switch_percent: u32, latency_ns: Nanos, first: Conduct) -> Sim {
    let limits = Limits {
        quantum_ns: QUANTUM_NS,
        switch_percent,
        batch_tokens_max: 100_000,
        ..limits()
    };
    let mut sim = Sim::new(limits, 1, 2);
    sim.latency_ns = latency_ns;
    let honest = steps();
    for (id, conduct) in [(1, first), (2, honest)] {
        let tenant = sim.tenant(id, 1);
        sim.conduct.insert(tenant, conduct);
        for _ in 0..4 {
            sim.closed_loop(tenant, 20_000, 0);
        }
    }
    sim.run_until(4 * SECOND);
    sim
}

fn steps() -> Conduct {
    Conduct {
        step_ns: STEP_NS,
        ns_per_token: STEP_NS / 100,
        ..Conduct::default()
    }
}

/// What a tenant's later turns took, in the mean.
fn mean_turn_ns(sim: &Sim, of: u32) -> Nanos {
    let turns = sim.log.iter().filter_map(|(at, effect)| match effect {
        Effect::Settled {
            tenant, lane_ns, ..
        } if *tenant == TenantId(of) && *at > SECOND => Some(*lane_ns),
        _ => None,
    });
    let turns: Vec<Nanos> = turns.collect();
    turns.iter().sum::<Nanos>() / turns.len() as u64
}

/// Fails where turns are of one length, and where they are asked back before what they cost is earned.
#[test]
fn turns_are_as_long_as_makes_changing_hands_cheap() {
    for latency_ns in [MS / 10, MS / 4, MS, 3 * MS] {
        let sim = crowd(PERCENT, latency_ns, steps());
        // A frame there, and one back.
        let wanted_ns = (2 * latency_ns * 100 / u64::from(PERCENT)).min(QUANTUM_NS);
        let most_ns = wanted_ns + 2 * (STEP_NS + latency_ns);
        for tenant in [1, 2] {
            let turn_ns = mean_turn_ns(&sim, tenant);
            assert!(
                (wanted_ns..=most_ns).contains(&turn_ns),
                "{turn_ns} with frames of {latency_ns}"
            );
        }
        let whole = mean_turn_ns(&crowd(0, latency_ns, steps()), 1);
        assert!(whole >= QUANTUM_NS, "{whole}");
    }
}

/// A worker whose turns are short comes late to its first step, again and again, and gives the lane back as it is asked to.
/// Fails where nothing is learnt of a lease without a step: it would compute nothing for ever.
#[test]
fn turns_that_are_too_short_for_a_step_do_not_stay_so() {
    const OTHER: TenantId = TenantId(2);
    let mut world = World::new(Limits {
        quantum_ns: QUANTUM_NS,
        switch_percent: PERCENT,
        ..limits()
    });
    for tenant in [TENANT, OTHER] {
        world.tenant(tenant, sim::settings(1));
        let mut submission = world.submission(1, X, (10, 100));
        submission.tenant = tenant;
        world.offer(submission);
    }
    let [late, other] = [TENANT, OTHER].map(|tenant| world.ready_of(tenant, X));
    for _ in 0..20 {
        let holder = world.holder();
        turn(&mut world, holder, Some(MS / 10));
    }
    let mut turns_ns = Vec::new();
    while turns_ns.len() < 4 {
        match world.holder() == late {
            true => turns_ns.push(turn(&mut world, late, None)),
            false => drop(turn(&mut world, other, Some(MS / 10))),
        }
    }
    assert!(turns_ns[0] < 3 * MS, "{turns_ns:?}");
    assert!(turns_ns[3] > 7 * MS, "{turns_ns:?}");
}

/// A turn of the worker that holds the lane: its first step is heard of after so long, or it gives the lane back after 7 ms
/// without any. How long it was until it was asked for that.
fn turn(world: &mut World, holder: WorkerId, there_ns: Option<Nanos>) -> Nanos {
    let since = world.now;
    world.now += there_ns.unwrap_or(0);
    while !world.asked_back.contains_key(&holder) {
        if there_ns.is_some() {
            world.step(holder, 1, vec![]);
        }
        world.now += MS / 10;
        world.tell(Event::Tick);
    }
    match there_ns {
        Some(_) => world.step(holder, 1, vec![]),
        None => world.now = world.now.max(since + 7 * MS),
    }
    let asked = world.asked_back.remove(&holder).expect("it was");
    world.release(holder);
    asked - since
}

/// One says that its steps take all of its time, one that they take next to nothing of it. Turns are as long as the longer of
/// two wants them, since the other catches up. Fails where a claim has no bound, and where it is worth a share.
#[test]
fn what_a_worker_says_of_its_steps_has_bounds_and_is_worth_nothing() {
    let latency_ns = MS / 4;
    let honest_ns = mean_turn_ns(&crowd(PERCENT, latency_ns, steps()), 2);
    let longer = Conduct {
        understates: 1_000,
        ..steps()
    };
    let shorter = Conduct {
        boasts: 1_000,
        ..steps()
    };
    for (conduct, longest) in [(longer, true), (shorter, false)] {
        let sim = crowd(PERCENT, latency_ns, conduct);
        let own_ns = mean_turn_ns(&sim, 1);
        assert!(
            own_ns <= QUANTUM_NS + 2 * (STEP_NS + latency_ns),
            "{own_ns}"
        );
        assert_eq!(own_ns > 2 * honest_ns, longest, "{own_ns}, {honest_ns}");
        let [one, other] = [1, 2].map(|id| sim.lane_ns[&TenantId(id)]);
        assert!(one.abs_diff(other) <= 2 * QUANTUM_NS, "{one} and {other}");
    }
}
