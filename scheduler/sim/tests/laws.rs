//! What holds for every policy and workload: nothing is lost, nothing overflows, nothing varies.
//!
//! Workloads are drawn from a seed, which is printed before each run, so that a failure of any kind
//! names it.

mod support;

use bulkhead_sim::{Arrival, Draw, Engine, Outcome, Turns, Workload, run, run_pure};
use support::policies;

const SEEDS: u64 = 25;

/// Bursts and silences; some requests that no engine of this size can hold, and some of no length.
fn drawn(seed: u64) -> Workload {
    let mut draw = Draw::new(seed);
    let tenants = 1 + draw.below(6);
    let gap_ns_max = 1 + draw.below(2_000_000_000);
    let mut at_ns = 0;
    let arrivals = (0..20 + draw.below(60)).map(|_| {
        at_ns += draw.below(4) / 2 * draw.below(gap_ns_max);
        let scale = [1, 1, 1, 30][draw.below(4) as usize];
        Arrival {
            at_ns,
            tenant: draw.below(tenants) as u32,
            input: (scale * draw.below(300)) as u32,
            output: (scale * draw.below(400)) as u32,
        }
    });
    Workload::new("drawn", arrivals.collect())
}

/// Served and rejected together, as they arrived.
fn accounted(outcome: &Outcome) -> Vec<Arrival> {
    let served = outcome.served.iter().map(|served| Arrival {
        at_ns: served.arrived_ns,
        tenant: served.tenant,
        input: served.input,
        output: served.output,
    });
    sorted(served.chain(outcome.rejected.iter().copied()).collect())
}

fn sorted(mut arrivals: Vec<Arrival>) -> Vec<Arrival> {
    arrivals.sort_by_key(|a| (a.at_ns, a.tenant, a.input, a.output));
    arrivals
}

#[test]
fn every_arrival_is_served_or_rejected_once_and_the_pool_holds() {
    let engine = Engine::a10g();
    for seed in 0..SEEDS {
        let workload = drawn(seed);
        let wanted = sorted(workload.arrivals.clone());
        for mut policy in policies() {
            println!("seed {seed}, {}", policy.name());
            let outcome = run(&engine, &workload, policy.as_mut());
            assert_eq!(accounted(&outcome), wanted);
            assert!(outcome.kv_held_max <= engine.kv_tokens_max);
            check_times(&engine, &outcome);
        }
    }
}

/// The same where no batch holds two tenants. What a cache holds beyond the pool lies in the host's memory.
#[test]
fn nothing_is_lost_and_the_pool_holds_where_tenants_take_turns() {
    let engine = Engine::a10g();
    for seed in 0..SEEDS / 3 {
        let workload = drawn(seed);
        for quantum_ms in [100, 5_000] {
            println!("seed {seed}, turns of {quantum_ms} ms");
            let turns = Turns::a10g(quantum_ms * 1_000_000, 0);
            let pure = run_pure(&engine, turns, &workload);
            assert_eq!(accounted(&pure.outcome), sorted(workload.arrivals.clone()));
            let cannot = workload.arrivals.iter().filter(|a| !engine.can_run(a));
            assert!(pure.outcome.rejected.iter().eq(cannot));
            assert!(pure.outcome.kv_held_max <= engine.kv_tokens_max);
            assert_eq!(pure.pauses_ns.len(), pure.outcome.served.len());
            check_times(&engine, &pure.outcome);
            assert_eq!(pure, run_pure(&engine, turns, &workload), "the same again");
        }
    }
}

/// No request is faster than it would be alone.
fn check_times(engine: &Engine, outcome: &Outcome) {
    for served in &outcome.served {
        let prefill_ns = engine.prefill_ns(u64::from(served.input));
        assert!(served.first_token_ns >= served.arrived_ns + prefill_ns);
        let steps = u64::from(served.output) - 1;
        assert!(served.finished_ns >= served.first_token_ns + steps * engine.step_ns);
    }
}

#[test]
fn only_what_can_never_run_is_rejected_by_who_rejects_nobody() {
    let engine = Engine::a10g();
    for seed in 0..SEEDS {
        println!("seed {seed}");
        let workload = drawn(seed);
        let wont_run = workload.arrivals.iter().filter(|a| !engine.can_run(a));
        let outcome = run(&engine, &workload, policies()[2].as_mut());
        assert!(outcome.rejected.iter().eq(wont_run));
    }
}

#[test]
fn the_same_workload_gives_the_same_outcome() {
    for seed in 0..SEEDS {
        println!("seed {seed}");
        for (mut one, mut other) in policies().into_iter().zip(policies()) {
            let first = run(&Engine::a10g(), &drawn(seed), one.as_mut());
            let second = run(&Engine::a10g(), &drawn(seed), other.as_mut());
            assert_eq!(first, second, "{}", one.name());
        }
    }
}

#[test]
fn times_at_the_end_of_time_are_no_panic() {
    let arrival = Arrival {
        at_ns: u64::MAX,
        tenant: u32::MAX,
        input: 3_072,
        output: 3,
    };
    let workload = Workload::new("late", vec![arrival]);
    for mut policy in policies() {
        let outcome = run(&Engine::a10g(), &workload, policy.as_mut());
        assert_eq!(outcome.served.len(), 1);
    }
}
