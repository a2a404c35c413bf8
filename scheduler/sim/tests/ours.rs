//! Bulkhead's order among agents beside the published ones, in one shared batch on the arena trace.
//!
//! One run says little, since moving arrivals by a second changes VTC's greatest difference by a sixth: so the claims
//! are of means over runs with arrivals moved, and of the trace as it is.

use bulkhead_sim::{Engine, Fcfs, Ours, Policy, Row, Vtc, Workload, run, workload};

/// Runs with arrivals moved.
const RUNS: u64 = 20;

/// What a mean is taken of.
struct Mean {
    max_diff: f64,
    avg_diff: f64,
    tok_s: f64,
    ttft_p99_light_s: f64,
}

fn row(workload: &Workload, mut policy: impl Policy) -> Row {
    let outcome = run(&Engine::a10g(), workload, &mut policy);
    let row = Row::new(policy.name(), workload, &outcome);
    assert_eq!(row.served, row.offered, "{row:?}");
    row
}

fn mean<P: Policy>(policy: impl Fn() -> P) -> Mean {
    let arena = workload::arena().unwrap();
    let runs = (1..=RUNS).map(|seed| row(&arena.moved(seed), policy()));
    let rows: Vec<Row> = runs.collect();
    let of = |value: &dyn Fn(&Row) -> f64| rows.iter().map(value).sum::<f64>() / RUNS as f64;
    Mean {
        max_diff: of(&|row| row.max_diff),
        avg_diff: of(&|row| row.avg_diff),
        tok_s: of(&|row| row.tok_s),
        ttft_p99_light_s: of(&|row| row.ttft_p99_light_s.unwrap_or(f64::MAX)),
    }
}

#[test]
fn agents_share_better_than_under_vtc_and_its_forecasts_on_average() {
    let ours = mean(Ours::default);
    for other in [mean(Vtc::plain), mean(Vtc::predicting), mean(Vtc::oracle)] {
        assert!(
            ours.max_diff < other.max_diff,
            "{} {}",
            ours.max_diff,
            other.max_diff
        );
        assert!(
            ours.avg_diff < other.avg_diff,
            "{} {}",
            ours.avg_diff,
            other.avg_diff
        );
    }
    let (vtc, fcfs) = (mean(Vtc::plain), mean(Fcfs::default));
    assert!(
        ours.tok_s >= 0.99 * fcfs.tok_s,
        "{} {}",
        ours.tok_s,
        fcfs.tok_s
    );
    assert!(
        ours.ttft_p99_light_s <= vtc.ttft_p99_light_s,
        "{} {}",
        ours.ttft_p99_light_s,
        vtc.ttft_p99_light_s
    );
}

#[test]
fn agents_share_better_on_the_trace_as_it_is() {
    let arena = workload::arena().unwrap();
    let ours = row(&arena, Ours::default());
    let (predicting, oracle) = (row(&arena, Vtc::predicting()), row(&arena, Vtc::oracle()));
    for other in [&predicting, &oracle] {
        assert!(ours.max_diff < other.max_diff, "{ours:?} {other:?}");
        assert!(ours.avg_diff < other.avg_diff, "{ours:?} {other:?}");
    }
    let (vtc, fcfs) = (row(&arena, Vtc::plain()), row(&arena, Fcfs::default()));
    assert!(ours.tok_s >= 0.99 * fcfs.tok_s, "{ours:?} {fcfs:?}");
    assert!(
        ours.ttft_p99_light_s <= vtc.ttft_p99_light_s,
        "{ours:?} {vtc:?}"
    );
}
