//! `bulkhead demo`: the main job on real models, in a temporary folder, judged as it goes.
//!
//! The demo is a client like any other: it starts this very program as a server, and reaches it
//! over its sockets alone. It exits with 0 only where every promise that it shows held. Every wait has
//! a bound, and the server never outlives the demo unless `--keep` says so.

mod evidence;
mod findings;
mod neighbour;
mod people;
mod preparation;
mod revocation;
mod screen;
mod server;
mod talk;

use super::{Outcome, audit};
use crate::{
    cli::{Demo, Globals},
    client::{Admin, Operators, load::ms},
    config::Config,
};
use bulkhead_audit::verify::Report;
use evidence::Evidence;
use findings::{Findings, Steps};
use people::People;
use screen::Screen;
use server::{Endpoints, Server};
use std::{
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::signal::unix::{SignalKind, signal};

/// The starter models.
const EMBED_MODEL: &str = "minilm";
const GENERATE_MODEL: &str = "smollm2";
/// No run takes longer, the download apart.
const DEMO_MAX: Duration = Duration::from_secs(300);

/// Why the demo could not go on.
type Failure = Box<dyn std::error::Error + Send + Sync>;

pub fn run(_globals: &Globals, args: Demo) -> Outcome {
    let screen = Screen::new(args.json);
    screen.line("Bulkhead: two organisations' agents on one machine, in a temporary folder")?;
    screen.step(1, "Models")?;
    let models = preparation::models(args.models.as_deref(), &screen)?;
    screen.say(&format!(
        "{EMBED_MODEL} and {GENERATE_MODEL} from {}",
        models.display()
    ))?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        tokio::select! {
            outcome = demo(&args, &screen, &models) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted; the server was stopped".into()),
            _ = terminated.recv() => Err("terminated; the server was stopped".into()),
        }
    })
}

async fn demo(args: &Demo, screen: &Screen, models: &Path) -> Outcome {
    let seal = preparation::seal().await?;
    let folder = tempfile::Builder::new()
        .prefix("bulkhead-demo-")
        .tempdir()?;
    let mut server = Server::start(&config(folder.path(), models, &seal.granted))?;
    let shown = tokio::time::timeout(
        DEMO_MAX,
        show(args, seal, screen, &mut server, folder.path()),
    );
    let (endpoints, findings) = match shown.await {
        Ok(Ok(shown)) => shown,
        Ok(Err(failure)) => return Err(with_log(failure, &server)),
        Err(_) => {
            let failure = "the demo took longer than it may".into();
            return Err(with_log(failure, &server));
        }
    };
    let code = conclude(args, screen, &findings)?;
    if args.keep {
        let pid = server.pid().unwrap_or_default();
        people::tell_how_to_reach(screen, &endpoints, folder.path(), pid)?;
        server.keep();
        let _kept = folder.keep();
    }
    Ok(code)
}

/// All steps with a server.
async fn show(
    args: &Demo,
    seal: preparation::Seal,
    screen: &Screen,
    server: &mut Server,
    folder: &Path,
) -> Result<(Endpoints, Findings), Failure> {
    let started = Instant::now();
    screen.step(2, "Server")?;
    let endpoints = server.ready().await?;
    let ready_ms = ms(started.elapsed());
    screen.say(&format!(
        "{} ready after {ready_ms:.0} ms",
        endpoints.agents
    ))?;
    if !seal.missing.is_empty() {
        let missing = seal.missing.join(", ");
        screen.say(&format!(
            "REDUCED: this machine refuses {missing}; `bulkhead doctor` says why"
        ))?;
    }

    screen.step(3, "Tenants and agents")?;
    let admin = Admin::connect(folder).await?;
    let people = People::create(&admin, folder, screen).await?;

    let evidence = Evidence::default();
    screen.step(4, "Embeddings for acme")?;
    let similarity = talk::compare(&people.acme, &evidence, screen).await?;
    screen.step(5, "An answer for globex, as it streams")?;
    let answer = talk::ask(&people.globex, &evidence, screen).await?;

    screen.step(
        6,
        "A noisy neighbour: globex floods the model that acme uses",
    )?;
    let mut neighbour = neighbour::measure(&people.acme, &people.globex, &evidence).await?;
    neighbour.longest_step_ms = Operators::new(&endpoints.operators)
        .metric_max("bulkhead_step_seconds_max")
        .await?
        .map(|seconds| seconds * 1e3);
    for line in neighbour::lines(&neighbour) {
        screen.say(&line)?;
    }
    let worker_seal = people::seal_of_all_workers(&admin).await?;

    screen.step(7, "An agent is revoked while its stream runs")?;
    let leaver = &people.leaver;
    let revocation = revocation::revoke(&admin, &people.leaver_id, leaver, screen).await?;

    screen.step(8, "Clean memory, by the receipts of all answers")?;
    let memory = evidence.totals();
    screen.say(&format!(
        "{} answers, {} receipts: {} B zeroed, {} B read back, residue {} B",
        memory.answers,
        memory.receipts,
        super::output::grouped(memory.bytes_zeroed),
        super::output::grouped(memory.bytes_verified),
        memory.residue_bytes
    ))?;

    screen.step(9, "The audit log, verified with its public key alone")?;
    if !args.keep {
        server.stop().await?;
    }
    let audit = audit::check(&folder.join("audit"), None, None)?;
    for line in ledger_lines(&audit, memory.answers) {
        screen.say(&line)?;
    }
    let findings = Findings::of(Steps {
        seal,
        worker_seal,
        ready_ms,
        similarity,
        answer,
        neighbour,
        revocation,
        memory,
        audit,
        seconds: started.elapsed().as_secs_f64(),
    });
    Ok((endpoints, findings))
}

/// What the verifier found, without the roots. `answers` came to their regular end.
fn ledger_lines(report: &Report, answers: u64) -> [String; 3] {
    let requests = &report.requests;
    let trees: Vec<String> = (report.tenants.iter())
        .map(|tree| format!("{} {}", tree.tenant, tree.records))
        .collect();
    let early = match requests.admitted.saturating_sub(answers) {
        0 => String::new(),
        count => format!(", {count} of them early (the flood's last, the revoked stream)"),
    };
    let state = match report.closed {
        true => "closed in good order, every record covered by a signed checkpoint",
        false => "live; what is older than a second is covered by a signed checkpoint",
    };
    [
        format!(
            "{} verifies: {} records, {} signed checkpoints",
            report.log, report.records, report.checkpoints
        ),
        format!(
            "requests: {} admitted, {} ended{early}; records: {}",
            requests.admitted,
            requests.completed,
            trees.join(", ")
        ),
        state.to_owned(),
    ]
}

fn conclude(args: &Demo, screen: &Screen, findings: &Findings) -> Outcome {
    let reduced = if findings.reduced { " (reduced)" } else { "" };
    screen.line(&format!("\n{}", findings.table()))?;
    screen.line(&format!(
        "{} in {:.0} s{reduced}",
        if findings.ok {
            "All promises held"
        } else {
            "NOT all promises held"
        },
        findings.seconds
    ))?;
    if args.json {
        super::output::json(findings)?;
    }
    Ok(match findings.ok {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The server's configuration: defaults, free ports, and the seal that this machine grants.
fn config(folder: &Path, models: &Path, layers: &[String]) -> Config {
    let mut config = Config {
        data: folder.into(),
        ..Config::default()
    };
    config.server.listen.set_port(0);
    config.server.operators.set_port(0);
    config.models.dir = models.into();
    config.worker.required_layers = layers.to_vec();
    config
}

fn with_log(failure: Failure, server: &Server) -> Failure {
    if super::output::reader_is_gone(failure.as_ref()) {
        return failure;
    }
    match server.log_tail() {
        log if log.is_empty() => failure,
        log => format!("{failure}\nThe server's last words:\n{log}").into(),
    }
}
