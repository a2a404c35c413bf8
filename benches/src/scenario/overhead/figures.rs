//! What the scenario prints.

use super::{Measured, Paced};
use crate::{Figure, args, span::Span};

/// All figures.
pub fn of(args: &args::Overhead, measured: &Measured) -> Vec<Figure> {
    let Measured { echo, ours, .. } = measured;
    let load = format!(
        "open loop, {} requests/s for {} s, from the intended time of sending; {} agents of {} tenants, a connection each",
        args.rps, args.seconds, args.agents, args.tenants
    );
    let added = |of: fn(&Paced) -> f64| of(ours) - of(echo);
    let mut figures = vec![
        Figure::lower(
            "added_p50_ms",
            added(|side| side.seen.latency.p50_ms),
            "ms",
            "ours less the echo",
        ),
        Figure::lower(
            "added_p99_ms",
            added(|side| side.seen.latency.p99_ms),
            "ms",
            "ours less the echo",
        ),
    ];
    for (name, side) in [("ours", ours), ("echo", echo)] {
        figures.extend(paced(name, side, &load));
    }
    let outstanding = format!("{} outstanding, {} s", args.outstanding, args.seconds);
    figures.push(Figure::higher(
        "most_rps/ours",
        measured.ours_most,
        "requests/s",
        outstanding.clone(),
    ));
    figures.push(Figure::higher(
        "most_rps/echo",
        measured.echo_most,
        "requests/s",
        outstanding,
    ));
    figures.extend(stages("", &measured.span));
    figures.extend(stages("/most", &measured.most_span));
    for (name, us) in measured.most_usage.by_process() {
        figures.push(Figure::lower(
            &format!("cpu_us/most/{name}"),
            us,
            "µs",
            "processor time for each request, as many as there can be",
        ));
    }
    figures
}

fn paced(name: &str, side: &Paced, load: &str) -> Vec<Figure> {
    let latency = &side.seen.latency;
    let unanswered = side.seen.sent - side.seen.answered();
    let mut figures = vec![
        Figure::lower(&format!("p50_ms/{name}"), latency.p50_ms, "ms", load),
        Figure::lower(&format!("p99_ms/{name}"), latency.p99_ms, "ms", load),
        Figure::lower(&format!("max_ms/{name}"), latency.max_ms, "ms", load),
        Figure::higher(
            &format!("answered/{name}"),
            latency.requests as f64,
            "requests",
            format!(
                "{} sent, {} failed",
                side.seen.sent,
                side.seen.failed.total()
            ),
        ),
        Figure::lower(
            &format!("unanswered/{name}"),
            unanswered as f64,
            "requests",
            "they are no latency",
        ),
        Figure::lower(
            &format!("late_p99_ms/{name}"),
            side.seen.late.p99_ms,
            "ms",
            "the load itself, after the intended time; part of the latencies",
        ),
    ];
    figures.extend(side.usage.by_process().map(|(process, us)| {
        Figure::lower(
            &format!("cpu_us/{name}/{process}"),
            us,
            "µs",
            "processor time for each request",
        )
    }));
    figures
}

/// Where a request's time goes, as the server counts it.
fn stages(suffix: &str, span: &Span) -> Vec<Figure> {
    let mean = |figure: &str, metric: &str, what: &'static str| {
        Figure::lower(
            &format!("{figure}{suffix}"),
            span.mean(metric, "") * 1e6,
            "µs",
            what,
        )
    };
    vec![
        mean(
            "stage_queue_us",
            "bulkhead_queue_seconds",
            "mean, from acceptance to its lane",
        ),
        mean(
            "stage_dispatch_us",
            "bulkhead_dispatch_seconds",
            "mean of a lease, to its first step and from its last",
        ),
        mean(
            "stage_step_us",
            "bulkhead_step_seconds",
            "mean of a step, by the workers' clocks",
        ),
        mean(
            "stage_audit_us",
            "bulkhead_audit_seconds",
            "mean until a record is durable; two a request, one after the other",
        ),
        Figure::higher(
            &format!("batch{suffix}"),
            span.mean("bulkhead_batch_sequences", ""),
            "requests",
            "mean of a step, all of one tenant",
        ),
    ]
}
