//! The pairs for people: one line each, with what it has to keep to.
//!
//! What does not keep its bound is marked and never left out.

use super::{Pair, Seen};
use crate::args;
use comfy_table::{CellAlignment, Table, presets};

/// Share of the other order's throughput that is to be kept.
const THROUGHPUT_MIN: f64 = 0.95;

/// A table for each victim.
pub fn of(args: &args::Noisy, pairs: &[Pair]) -> String {
    let mut text = format!(
        "p99 in ms over {} s (of fewer than 100 requests it is the longest).\n\
         fcfs: everybody shares one identity: order of arrival, batches across all, the same queue bounds (long beside a \
         text is another model: those share no batch, and take turns by the quantum in both).\n\
         bound: p99 alone + longest step of the aggressor's model (metrics bulkhead_step_seconds and its _max) + one \
         switch (bulkhead_dispatch_seconds, p99 of all leases).\n\
         ! is beyond it; ≥ had requests without an answer; tokens/s are of all.\n",
        args.seconds
    );
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header([
        "victim",
        "beside",
        "alone",
        "ours",
        "ratio",
        "step",
        "switch",
        "bound",
        "",
        "fcfs",
        "ratio",
        "tok/s ours",
        "fcfs",
        "ratio",
        "",
        "refused",
        "failed",
    ]);
    for pair in pairs {
        table.add_row(row(pair));
    }
    (2..table.column_count()).for_each(|at| {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    });
    text.push_str(&table.trim_fmt());
    text
}

fn row(pair: &Pair) -> Vec<String> {
    let (ours, arrival) = (&pair.ours.seen, &pair.arrival.seen);
    let mark = |kept: bool| String::from(if kept { "" } else { "!" });
    let kept = ours.victim.latency.p99_ms <= pair.bound_ms();
    let both = |count: fn(&Seen) -> u64| {
        let ours = count(&pair.alone) + count(ours);
        format!("{ours} + {}", count(arrival))
    };
    vec![
        pair.victim.title().to_owned(),
        pair.aggressor.word().to_owned(),
        p99(&pair.alone),
        p99(ours),
        format!("{:.2}", pair.ratio(&pair.ours)),
        format!("{:.1}", pair.foreign_step_ms()),
        format!("{:.2}", pair.switch_ms()),
        format!("{:.1}", pair.bound_ms()),
        mark(kept),
        p99(arrival),
        format!("{:.2}", pair.ratio(&pair.arrival)),
        format!("{:.0}", pair.tokens_s(&pair.ours)),
        format!("{:.0}", pair.tokens_s(&pair.arrival)),
        format!("{:.2}", pair.throughput_ratio()),
        mark(pair.throughput_ratio() >= THROUGHPUT_MIN),
        both(|seen| seen.fate.refused),
        both(|seen| seen.fate.failed),
    ]
}

fn p99(seen: &Seen) -> String {
    let least = if seen.fate.unanswered > 0 { "≥" } else { "" };
    format!("{least}{:.1}", seen.victim.latency.p99_ms)
}
