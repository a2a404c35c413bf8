//! The price of batches that hold one tenant each, as docs/FAIRNESS.md tells it: the arena trace under the core itself.

use bulkhead_sim::{Engine, Row, Turns, Vtc, run, run_pure, workload};

const SECOND_NS: u64 = 1_000_000_000;

/// Throughput and the greatest difference ÷ throughput, with turns of this length.
fn turns_of(quantum_ns: u64) -> (f64, f64) {
    with(Turns::a10g(quantum_ns, SECOND_NS / 5))
}

fn with(turns: Turns) -> (f64, f64) {
    let arena = workload::arena().unwrap();
    let pure = run_pure(&Engine::a10g(), turns, &arena);
    let row = Row::new(String::new(), &arena, &pure.outcome);
    assert_eq!(row.served, row.offered);
    (row.tok_s, row.max_diff / row.tok_s)
}

#[test]
fn turns_that_are_long_beside_what_a_switch_moves_keep_three_fifths_of_the_shared_batch() {
    let arena = workload::arena().unwrap();
    let shared = run(&Engine::a10g(), &arena, &mut Vtc::plain());
    let shared = Row::new(String::new(), &arena, &shared);
    let (tok_s, diff) = turns_of(5 * SECOND_NS);
    assert!(tok_s >= 0.58 * shared.tok_s, "{tok_s} of {}", shared.tok_s);
    assert!(diff <= 1.4, "{diff}");
}

#[test]
fn turns_that_are_short_beside_it_go_into_moving_caches_and_very_long_ones_are_unfair() {
    let (short, _) = turns_of(SECOND_NS / 4);
    let (middle, fair) = turns_of(5 * SECOND_NS);
    let (_, unfair) = turns_of(20 * SECOND_NS);
    assert!(short < middle / 2.0, "{short} and {middle}");
    assert!(unfair > 2.0 * fair, "{unfair} and {fair}");
}

/// An operator who allows far too long turns. Fails where they are as long as they may be.
#[test]
fn turns_that_may_be_very_long_are_no_longer_than_makes_a_switch_cheap() {
    let longest = Turns::a10g(20 * SECOND_NS, SECOND_NS / 5);
    let (whole, unfair) = with(longest);
    let (short, fair) = with(Turns {
        switch_percent: 3,
        ..longest
    });
    assert!(fair < 0.7 * unfair, "{fair} and {unfair}");
    assert!(short > 0.95 * whole, "{short} and {whole}");
}
