//! The figures of a pair, by names that stay.
//!
//! `NAME/AGGRESSOR` is under ours; `/alone` and `/fcfs` behind it are the others. Nothing is judged here.

use super::{
    Beside, Pair, Seen,
    aggressors::Aggressor,
    identities::{AGGRESSOR, VICTIM},
};
use crate::{Figure, args};

/// All of them.
pub fn of(args: &args::Noisy, pair: &Pair) -> Vec<Figure> {
    let mut figures = victims(args, pair);
    figures.extend(bound(pair));
    figures.extend(throughput(pair));
    for (seen, suffix) in [
        (&pair.alone, "/alone"),
        (&pair.ours.seen, ""),
        (&pair.arrival.seen, "/fcfs"),
    ] {
        figures.extend(fates(pair, seen, suffix));
    }
    figures.extend(aggressors(pair, &pair.ours, ""));
    figures.extend(aggressors(pair, &pair.arrival, "/fcfs"));
    figures.extend(inside(pair, &pair.ours.seen, ""));
    if pair.aggressor == Aggressor::Flood {
        figures.extend(inside(pair, &pair.alone, "/alone"));
    }
    figures
}

/// `what` of this pair's victim.
fn name(pair: &Pair, what: &str, suffix: &str) -> String {
    let (prefix, word) = (pair.victim.prefix(), pair.aggressor.word());
    format!("{prefix}_{what}/{word}{suffix}")
}

fn victims(args: &args::Noisy, pair: &Pair) -> Vec<Figure> {
    let arrival = match pair.aggressor.model(pair.victim) == pair.victim.model() {
        true => "everybody shares one identity: order of arrival, batches across all",
        false => {
            "everybody shares one identity: order of arrival for each model; two models share no batch and take turns"
        }
    };
    let mut figures = vec![
        Figure::lower(
            &name(pair, "p99_ratio", ""),
            pair.ratio(&pair.ours),
            "ratio",
            "the victim alone, same run",
        ),
        Figure::lower(
            &name(pair, "p99_ratio", "/fcfs"),
            pair.ratio(&pair.arrival),
            "ratio",
            arrival,
        ),
    ];
    for (seen, suffix) in [
        (&pair.alone, "/alone"),
        (&pair.ours.seen, ""),
        (&pair.arrival.seen, "/fcfs"),
    ] {
        let latency = &seen.victim.latency;
        let against = match seen.fate.unanswered {
            0 => format!(
                "open loop, one each {} ms, {} requests, from the intended time of sending",
                pair.victim.every(args).as_millis(),
                latency.requests
            ),
            n => format!("at least: {n} of {} had no answer yet", latency.requests),
        };
        for (what, value) in [
            ("p50_ms", latency.p50_ms),
            ("p99_ms", latency.p99_ms),
            ("max_ms", latency.max_ms),
        ] {
            figures.push(Figure::lower(
                &name(pair, what, suffix),
                value,
                "ms",
                against.clone(),
            ));
        }
    }
    figures
}

/// What the victim's p99 may be, and by how much it is beyond.
fn bound(pair: &Pair) -> [Figure; 4] {
    let p99 = pair.ours.seen.victim.latency.p99_ms;
    [
        Figure::lower(
            &name(pair, "foreign_step_ms", ""),
            pair.foreign_step_ms(),
            "ms",
            "no step of the aggressor's model was longer, by the workers' clocks",
        ),
        Figure::lower(
            &name(pair, "switch_ms", ""),
            pair.switch_ms(),
            "ms",
            "99 % of all leases took no longer beside their steps; a bucket's upper bound",
        ),
        Figure::lower(
            &name(pair, "p99_bound_ms", ""),
            pair.bound_ms(),
            "ms",
            "p99 alone + longest foreign step + one switch",
        ),
        Figure::lower(
            &name(pair, "p99_beyond_bound_ms", ""),
            p99 - pair.bound_ms(),
            "ms",
            "at most 0 where the bound is kept",
        ),
    ]
}

fn throughput(pair: &Pair) -> Vec<Figure> {
    let mut figures = vec![Figure::higher(
        &name(pair, "tokens_ratio", ""),
        pair.throughput_ratio(),
        "ratio",
        "tokens/s of all in the order of arrival, same run",
    )];
    for (beside, suffix) in [(&pair.ours, ""), (&pair.arrival, "/fcfs")] {
        figures.push(Figure::higher(
            &name(pair, "tokens_s", suffix),
            pair.tokens_s(beside),
            "tokens/s",
            "of all, in and out, while the victim sent: answered, or computed where answers are long and nobody hangs up",
        ));
        figures.push(Figure::higher(
            &name(pair, "aggressor_answered_tokens_s", suffix),
            beside.aggressor_tokens as f64 / beside.seen.seconds,
            "tokens/s",
            "of the aggressor's requests that were answered whole meanwhile",
        ));
    }
    figures
}

/// What became of the victim's requests.
fn fates(pair: &Pair, seen: &Seen, suffix: &str) -> Vec<Figure> {
    let fate = &seen.fate;
    let sent = format!("{} sent, {} answered", fate.sent(), fate.answered);
    let mut figures = vec![Figure::higher(
        &name(pair, "answered", suffix),
        fate.answered as f64,
        "requests",
        sent.clone(),
    )];
    for (what, count) in [
        ("refused", fate.refused),
        ("failed", fate.failed),
        ("unanswered", fate.unanswered),
    ] {
        figures.push(Figure::lower(
            &name(pair, what, suffix),
            count as f64,
            "requests",
            sent.clone(),
        ));
    }
    figures
}

/// That the aggressor did what its name says.
fn aggressors(pair: &Pair, beside: &Beside, suffix: &str) -> Vec<Figure> {
    let (deeds, span) = (&beside.deeds, &beside.seen.span);
    let counts = [
        ("sent", deeds.sent, "requests"),
        ("answered", deeds.answered, "requests"),
        ("hung_up", deeds.hung_up, "requests"),
        ("refused", deeds.refused_total(), "requests"),
        ("connections", deeds.connections, "connections"),
        ("abandoned", deeds.abandoned, "handshakes"),
    ];
    let told = deeds.line();
    let mut figures: Vec<Figure> = counts
        .iter()
        .map(|(what, count, unit)| {
            let name = name(pair, &format!("aggressor_{what}"), suffix);
            Figure::higher(&name, *count as f64, unit, told.clone())
        })
        .collect();
    let server = "by the server's count, while the victim sent";
    for (what, count) in [
        ("ended_cancelled", span.ended("cancelled")),
        ("ended_at_deadline", span.ended("deadline")),
        ("deadlines_past", span.refused("DEADLINE_PAST")),
        ("handshakes_failed", span.refused("TLS_HANDSHAKE")),
    ] {
        let name = name(pair, &format!("server_{what}"), suffix);
        figures.push(Figure::higher(&name, count, "requests", server));
    }
    figures
}

/// Where the time goes, by the server's own clock: before the lane, on it, and for the records.
fn inside(pair: &Pair, seen: &Seen, suffix: &str) -> Vec<Figure> {
    let span = &seen.span;
    let lower = |what: &str, value: f64, unit: &'static str, against: &str| {
        Figure::lower(&name(pair, what, suffix), value, unit, against)
    };
    vec![
        lower(
            "lane_share",
            span.lane_share(VICTIM),
            "ratio",
            "lane time of both tenants; its fair share is 0.5",
        ),
        lower(
            "queue_mean_ms",
            span.queue_mean_ms(VICTIM),
            "ms",
            "from acceptance to its lane",
        ),
        lower(
            "lane_mean_ms",
            span.lane_mean_ms(VICTIM),
            "ms",
            "from grant to release, for each request",
        ),
        lower(
            "step_mean_ms",
            span.step_mean_ms(),
            "ms",
            "all tenants' steps, the workers' own clocks",
        ),
        lower(
            "audit_mean_ms",
            span.audit_mean_ms(),
            "ms",
            "until a record is durable; two a request",
        ),
        lower(
            "dispatch_p50_us",
            span.dispatch_us(VICTIM, 0.5),
            "µs",
            "the victim's leases, to their first step and from their last; a bucket's upper bound",
        ),
        lower(
            "dispatch_p99_us",
            span.dispatch_us(VICTIM, 0.99),
            "µs",
            "the same",
        ),
        lower(
            "between_steps_p50_us",
            span.between_steps_us(VICTIM, 0.5),
            "µs",
            "the victim's, from a step's end to the next one's beginning; 0 where leases have one",
        ),
        lower(
            "between_steps_p99_us",
            span.between_steps_us(VICTIM, 0.99),
            "µs",
            "the same",
        ),
        lower(
            "aggressor_dispatch_p99_us",
            span.dispatch_us(AGGRESSOR, 0.99),
            "µs",
            "the aggressor's leases",
        ),
    ]
}
