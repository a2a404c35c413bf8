//! What sharing a model's weights saves, and what a worker ahead does: many tenants on one model through the real server,
//! whose workers are forked from one template before they are needed, then when they are, and then each started by
//! itself, in the same run.
//!
//! Memory is the kernel's account of each process, once after its first answer and once after more. A
//! worker's start is what the first request of a tenant takes, from its client's side; that of the first
//! tenant has the loading of the template in it and is a figure of its own.

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    process,
    server::Server,
    workload,
};
use bulkhead_client::AgentClient;
use std::time::{Duration, Instant};

/// Between two tenants' first requests, so that one finds a worker ahead where there are any.
const BETWEEN: Duration = Duration::from_millis(200);

/// How long a client waits for the list of models.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the kernel calls the process that holds a model for its workers.
const TEMPLATE: &str = "bulkhead-model";
const MIB: f64 = (1 << 20) as f64;

/// One of the two ways.
struct Measured {
    /// The first tenant's first answer, and those of the others.
    first: Duration,
    others: Vec<Duration>,
    /// Later answers of all.
    warm: Vec<Duration>,
    /// Of each worker, bytes that it has alone and has written.
    dirty_first: Vec<u64>,
    dirty_after: Vec<u64>,
    /// Of all workers and the template, bytes.
    proportional: u64,
}

/// Runs the scenario.
pub async fn measure(args: &args::Weights, server: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let mut figures = Vec::new();
    for (word, shared, spares) in [("ahead", true, 1), ("shared", true, 0), ("apart", false, 0)] {
        eprintln!("{} tenants, weights {word}", args.tenants);
        let mut server = server.clone();
        let settings = [
            format!("worker.share_weights={shared}"),
            format!("worker.spares={spares}"),
            format!("cpu.workers_max={}", args.tenants),
        ];
        server.settings.extend(settings);
        let server = Server::start(&server).await?;
        let measured = one_way(args, &server).await?;
        server.stop().await?;
        figures.extend(figures_of(args, word, measured));
    }
    Ok(figures)
}

async fn one_way(args: &args::Weights, server: &Server) -> Result<Measured, Failure> {
    let mut clients: Vec<AgentClient> = Vec::new();
    let mut starts = Vec::new();
    for n in 0..args.tenants {
        let client = server.tenant(&format!("t{n}")).await?;
        tokio::time::sleep(BETWEEN).await;
        // Its connection and its token are not what a start costs.
        client.list_models(PATIENCE).await?;
        let asked = Instant::now();
        workload::embed(client.clone(), 1).await?;
        starts.push(asked.elapsed());
        clients.push(client);
    }
    let workers = server.workers().await?;
    if workers.len() != clients.len() {
        return Err(format!("{} workers serve {} tenants", workers.len(), clients.len()).into());
    }
    let dirty = || -> Result<Vec<u64>, Failure> {
        let of = |pid: &i32| Ok(process::memory(*pid)?.private_dirty);
        workers.iter().map(of).collect()
    };
    let dirty_first = dirty()?;
    let mut warm = Vec::new();
    for client in &clients {
        for _ in 0..args.requests {
            let asked = Instant::now();
            workload::embed(client.clone(), 1).await?;
            warm.push(asked.elapsed());
        }
    }
    let dirty_after = dirty()?;
    let templates = process::children_named(server.pid()?, TEMPLATE)?;
    let mut proportional = 0;
    for pid in workers.iter().chain(&templates) {
        proportional += process::memory(*pid)?.proportional;
    }
    Ok(Measured {
        first: starts.remove(0),
        others: starts,
        warm,
        dirty_first,
        dirty_after,
        proportional,
    })
}

fn figures_of(args: &args::Weights, word: &str, measured: Measured) -> Vec<Figure> {
    let name = |what: &str| format!("{word}/{what}");
    let mean = |bytes: &[u64]| {
        let sum: u64 = bytes.iter().sum();
        sum as f64 / bytes.len().max(1) as f64 / MIB
    };
    let ms = |span: Duration| span.as_secs_f64() * 1e3;
    let median = |mut spans: Vec<Duration>| {
        spans.sort_unstable();
        spans.get(spans.len() / 2).copied().unwrap_or_default()
    };
    let all = format!("{} workers on {}", args.tenants, workload::EMBED_MODEL);
    let after = format!("mean per worker, after {} more", args.requests);
    let first = "its first answer, and the model's loading";
    vec![
        Figure::lower(&name("pss"), measured.proportional as f64 / MIB, "MiB", all),
        Figure::lower(
            &name("private_dirty_first"),
            mean(&measured.dirty_first),
            "MiB",
            "mean per worker, after its first answer",
        ),
        Figure::lower(
            &name("private_dirty_after"),
            mean(&measured.dirty_after),
            "MiB",
            after,
        ),
        Figure::lower(&name("first_tenant"), ms(measured.first), "ms", first),
        Figure::lower(
            &name("cold_tenant"),
            ms(median(measured.others)),
            "ms",
            "a further tenant's first answer, median",
        ),
        Figure::lower(
            &name("warm_tenant"),
            ms(median(measured.warm)),
            "ms",
            "an answer to a tenant that was served before, median",
        ),
    ]
}
