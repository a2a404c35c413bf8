//! The noisy neighbour: what a victim's latency becomes while another tenant floods the same model.
//!
//! The victim sends one text at a time in an open loop, alone and then beside the flood. Both tenants'
//! workers are warm before anything is measured; what the first request of a tenant costs is a figure
//! of its own. The flood is measured alone too, so that what the victim's isolation costs it shows.

mod span;

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    server::Server,
    workload::{self, TOKENS_PER_TEXT},
};
use bulkhead_client::{
    AgentClient, ClientError, Metrics,
    load::{Flood, OpenLoop, Schedule, Served, ms, open_loop},
};
use span::Span;
use std::time::{Duration, Instant};

/// The flood is under way this long before anything beside it is measured.
const FLOOD_RISES_FOR: Duration = Duration::from_secs(2);
/// How long the victim's last answers are awaited.
const PATIENCE: Duration = Duration::from_secs(30);

const VICTIM: &str = "victim";
const AGGRESSOR: &str = "aggressor";

/// Everything measured in one run.
struct Measured {
    cold_start: Duration,
    victim_alone: OpenLoop,
    victim_beside: OpenLoop,
    /// The flood's texts a second.
    flood_alone: f64,
    flood_beside: f64,
    flood: Served,
    /// The server's own view of the two runs.
    alone: Span,
    beside: Span,
    longest_step_ms: f64,
}

/// Runs the scenario.
pub async fn measure(args: &args::Noisy, server: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let server = Server::start(server).await?;
    let victim = server.tenant(VICTIM).await?;
    let aggressor = server.tenant(AGGRESSOR).await?;
    let measured = run(args, &server, &victim, &aggressor).await?;
    server.stop().await?;
    Ok(figures(args, &measured))
}

async fn run(
    args: &args::Noisy,
    server: &Server,
    victim: &AgentClient,
    aggressor: &AgentClient,
) -> Result<Measured, Failure> {
    let lasts = Duration::from_secs(args.seconds);
    let schedule = Schedule {
        every: Duration::from_millis(args.every_ms),
        lasts,
        patience: PATIENCE,
    };
    let texts = args.texts as usize;
    let cold_start = warm_up(victim).await?;
    warm_up(aggressor).await?;
    workload::embed(aggressor.clone(), texts).await?;
    eprintln!("the victim alone, {} s", args.seconds);
    let before = server.metrics().await?;
    let victim_alone = open_loop(schedule, || one(victim)).await;
    let alone = Span::new(before, server.metrics().await?);

    let flood = begin(args, aggressor).await?;
    tokio::time::sleep(FLOOD_RISES_FOR).await;
    eprintln!("the flood alone, {} s", args.seconds);
    let flood_alone = rate_over(&flood, tokio::time::sleep(lasts)).await.0;
    eprintln!("the victim beside the flood, {} s", args.seconds);
    let before = server.metrics().await?;
    let (flood_beside, victim_beside) =
        rate_over(&flood, open_loop(schedule, || one(victim))).await;
    let after = server.metrics().await?;
    Ok(Measured {
        cold_start,
        victim_alone,
        victim_beside,
        flood_alone,
        flood_beside,
        flood: flood.served(),
        longest_step_ms: longest_step_ms(&after)?,
        alone,
        beside: Span::new(before, after),
    })
}

/// Fetches a token, then has the tenant's worker started. Returns how long the latter took.
async fn warm_up(client: &AgentClient) -> Result<Duration, Failure> {
    client.list_models(workload::REQUEST_MAX).await?;
    let started = Instant::now();
    workload::check_tokens(client).await?;
    Ok(started.elapsed())
}

fn one(client: &AgentClient) -> impl Future<Output = Result<(), ClientError>> + use<> {
    let client = client.clone();
    async move { workload::embed(client, 1).await.map(|_| ()) }
}

async fn begin(args: &args::Noisy, aggressor: &AgentClient) -> Result<Flood, Failure> {
    let texts = args.texts as usize;
    let mut senders = Vec::new();
    for _ in 0..args.connections {
        let client = aggressor.another_connection().await?;
        senders.extend((0..args.outstanding).map(|_| {
            let client = client.clone();
            move || workload::embed(client.clone(), texts)
        }));
    }
    Ok(Flood::begin(senders))
}

/// The flood's texts a second while `work` went on, and what the work came to.
async fn rate_over<T>(flood: &Flood, work: impl Future<Output = T>) -> (f64, T) {
    let (before, started) = (flood.served(), Instant::now());
    let done = work.await;
    let texts = flood.served().since(&before).units;
    (texts as f64 / started.elapsed().as_secs_f64(), done)
}

fn longest_step_ms(metrics: &Metrics) -> Result<f64, Failure> {
    metrics
        .max("bulkhead_step_seconds_max")
        .map(|seconds| seconds * 1e3)
        .ok_or_else(|| "the server reports no bulkhead_step_seconds_max".into())
}

fn figures(args: &args::Noisy, m: &Measured) -> Vec<Figure> {
    let (alone, beside) = (&m.victim_alone.latency, &m.victim_beside.latency);
    let load = format!(
        "{} connections × {} requests × {} texts of {TOKENS_PER_TEXT} tokens outstanding",
        args.connections, args.outstanding, args.texts
    );
    let open = format!(
        "open loop, one text each {} ms, {} requests, from the intended time of sending",
        args.every_ms, alone.requests
    );
    let ratio = |beside: f64, alone: f64| beside / alone.max(f64::MIN_POSITIVE);
    let mut figures = vec![
        Figure::lower(
            "victim_p99_ratio/flood",
            ratio(beside.p99_ms, alone.p99_ms),
            "ratio",
            "the victim alone, same run",
        ),
        Figure::lower(
            "victim_p50_ratio/flood",
            ratio(beside.p50_ms, alone.p50_ms),
            "ratio",
            "the victim alone, same run",
        ),
        Figure::lower("victim_p50_ms/alone", alone.p50_ms, "ms", open),
        Figure::lower("victim_p99_ms/alone", alone.p99_ms, "ms", ""),
        Figure::lower("victim_p50_ms/flood", beside.p50_ms, "ms", load),
        Figure::lower("victim_p99_ms/flood", beside.p99_ms, "ms", ""),
        Figure::lower("victim_max_ms/flood", beside.max_ms, "ms", ""),
        Figure::lower(
            "longest_step_ms",
            m.longest_step_ms,
            "ms",
            "the worker's own clock, since the server's start",
        ),
        Figure::lower(
            "cold_start_ms",
            ms(m.cold_start),
            "ms",
            "a tenant's first request: its worker starts, loads, is sealed",
        ),
        Figure::higher(
            "aggressor_texts_s/alone",
            m.flood_alone,
            "texts/s",
            "the flood without the victim",
        ),
        Figure::higher(
            "aggressor_texts_s/flood",
            m.flood_beside,
            "texts/s",
            "the flood beside the victim",
        ),
        Figure::higher(
            "aggressor_throughput_ratio",
            ratio(m.flood_beside, m.flood_alone),
            "ratio",
            "the flood alone, same run",
        ),
        Figure::lower(
            "victim_lane_share/flood",
            m.beside.lane_share(VICTIM),
            "ratio",
            "lane time of both tenants; its fair share is 0.5",
        ),
        Figure::lower(
            "victim_lost",
            lost(&m.victim_alone) + lost(&m.victim_beside),
            "requests",
            "unanswered or failed, both runs",
        ),
        Figure::lower(
            "aggressor_refused",
            m.flood.refused.total() as f64,
            "requests",
            format!("{} answered", m.flood.answers),
        ),
    ];
    figures.extend(inside("alone", &m.alone));
    figures.extend(inside("flood", &m.beside));
    let refused = [
        ("aggressor", &m.flood.refused),
        ("victim", &m.victim_beside.failed),
    ];
    for (who, reasons) in refused {
        figures.extend(reasons.iter().map(|(reason, count)| {
            Figure::lower(
                &format!("{who}_refused/{reason}"),
                count as f64,
                "requests",
                "",
            )
        }));
    }
    figures
}

/// Where the time goes, by the server's own clock: before the lane, on it, and for the records.
fn inside(run: &str, span: &Span) -> [Figure; 6] {
    let mean = |name: &str, value_ms: f64, what: &str| {
        Figure::lower(&format!("{name}/{run}"), value_ms, "ms", what)
    };
    [
        mean(
            "victim_queue_mean_ms",
            span.queue_mean_ms(VICTIM),
            "from acceptance to its lane",
        ),
        mean(
            "victim_lane_mean_ms",
            span.lane_mean_ms(VICTIM),
            "from grant to release, for each request",
        ),
        mean(
            "step_mean_ms",
            span.step_mean_ms(),
            "all tenants' steps, the workers' own clocks",
        ),
        mean(
            "audit_mean_ms",
            span.audit_mean_ms(),
            "until a record is durable; two a request",
        ),
        Figure::lower(
            &format!("dispatch_p50_us/{run}"),
            span.dispatch_us(VICTIM, 0.5),
            "µs",
            "the victim's leases beside their steps; a bucket's upper bound",
        ),
        Figure::lower(
            &format!("dispatch_p99_us/{run}"),
            span.dispatch_us(VICTIM, 0.99),
            "µs",
            "the same",
        ),
    ]
}

fn lost(seen: &OpenLoop) -> f64 {
    seen.unanswered as f64 + seen.failed.total() as f64
}
