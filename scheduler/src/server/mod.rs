//! The scheduler process: composition only. Opens the stores, starts the driver and the listeners, and
//! ends them in order when the launcher says so.
//!
//! No decision about a request is made here, and no file is read after the start but policies that an
//! operator reloads.

mod admin;
mod arriving;
mod audit_log;
mod auth;
mod buffers;
mod catalog;
mod checks;
mod clock;
mod connection;
mod door;
mod driver;
mod errors;
mod faults;
mod frames;
mod gpus;
mod inference;
mod launcher_link;
mod listen;
mod metrics;
mod oauth;
mod operators;
mod records;
mod seal;
mod state;
mod submit;

use crate::config::{Config, ConfigError, Gpu, GpuUse};
use audit_log::AuditLog;
use bulkhead_core::{CancelReason, Limits, Pace};
use bulkhead_identity::{Identity, IdentityError};
use bulkhead_policy::{PolicyEngine, PolicyError};
use bulkhead_proto::internal::{
    Drained, Models, RecordKind, ToLauncher, from_launcher, to_launcher,
};
use catalog::Catalog;
use driver::{GpuWorkers, GpusWord};
use listen::Doors;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use state::App;
use std::{
    io::{self, Write as _},
    os::fd::OwnedFd,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use submit::Submitter;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot, watch},
};

/// The resource that access tokens are for.
pub const AUDIENCE: &str = "bulkhead";
/// How long requests that were cancelled at the end may take to be recorded.
const LAST_PATIENCE: Duration = Duration::from_secs(3);
/// Descriptors kept free of agents' connections: listeners, the store, operators, the log.
const DESCRIPTORS_RESERVED: usize = 256;
/// How long nothing is started for a tenant's queue whose workers fail.
const RESTARTS: Pace = Pace {
    first_ns: 100_000_000,
    longest_ns: 30_000_000_000,
    good_life_ns: 10_000_000_000,
};
/// The longest such wait that requests sit out; in a longer one they are refused.
const BACKOFF_PATIENCE_NS: u64 = 1_000_000_000;
/// How often refusals that were only counted are written down.
const AGGREGATE_EVERY: Duration = Duration::from_secs(10);

/// Why the scheduler cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A defect, or the launcher is gone.
    #[error("the launcher did not say which models there are")]
    Launcher,
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Policy(#[from] PolicyError),
    #[error("{path}: {message}")]
    Tls { path: PathBuf, message: String },
    #[error(
        "cannot listen on {address}: {source}; another server may have it: stop that one, or name another address with `--listen` or in the configuration"
    )]
    Listen { address: String, source: io::Error },
    #[error("metrics: {0}")]
    Metrics(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the scheduler until the launcher asks it to drain, or goes away.
pub fn run(config: Config, launcher: OwnedFd) -> Result<(), ServerError> {
    fail_whole();
    let config = within_descriptors(config)?;
    let doors = Doors::open(&config)?;
    doors.announce(&config)?;
    // Asked of files that are out of reach below.
    let processors = std::thread::available_parallelism()?.get();
    for seal::Layer { name, outcome } in seal::restrict(&config.paths()) {
        match outcome {
            Ok(how) => tracing::info!(layer = name, how, "the scheduler is sealed"),
            Err(why) => tracing::warn!(layer = name, why, "the scheduler is not sealed"),
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(processors)
        .enable_all()
        .thread_name("io")
        .build()?;
    runtime.block_on(serve(config, launcher, doors))
}

/// Takes as many descriptors as this process may have, and lets agents open no more connections than
/// leave enough of them for everything else: workers, the log, operators.
fn within_descriptors(mut config: Config) -> Result<Config, ServerError> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(io::Error::from)?;
    let others = DESCRIPTORS_RESERVED + 2 * config.workers_max();
    let room = usize::try_from(most)
        .unwrap_or(usize::MAX)
        .saturating_sub(others)
        .max(1);
    if config.limits.connections_max > room {
        tracing::warn!(
            connections_max = room,
            descriptors = most,
            "fewer connections than configured: this process may open too few descriptors (ulimit -n)"
        );
        config.limits.connections_max = room;
    }
    Ok(config)
}

/// A panic anywhere ends the process: half a scheduler keeps no promise. The launcher starts a whole
/// one. The payload is not printed, since it could quote what a user sent.
fn fail_whole() {
    std::panic::set_hook(Box::new(|panic| {
        let at = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        let _ = writeln!(
            io::stderr(),
            "bulkhead: the scheduler failed at {at}; it is started again"
        );
        std::process::abort();
    }));
}

async fn serve(config: Config, launcher: OwnedFd, doors: Doors) -> Result<(), ServerError> {
    let metrics = metrics::install().map_err(ServerError::Metrics)?;
    let paths = config.paths();
    let issuer = doors.issuer(&config)?;
    let agents = TcpListener::from_std(doors.agents)?;
    let operators = TcpListener::from_std(doors.operators)?;
    let identity = Identity::open(&paths.identity_db(), &issuer, AUDIENCE, clock::unix_s()).await?;
    let policy_dir = paths.policy_dir();
    let policy = PolicyEngine::new(policy_dir.exists().then_some(policy_dir.as_path()))?;
    let tls = listen::tls(&paths)?;
    let ca_pem = std::fs::read_to_string(paths.ca_cert())?;

    let (link, mut said) = launcher_link::start(launcher)?;
    let clock = clock::Clock::start();
    let catalog = Arc::new(Catalog::new(models(&mut said).await?));
    let audit = AuditLog::new(uuid::Uuid::new_v4().into_bytes(), config.audit.pending_max);
    let faults = Arc::new(faults::Faults::new(audit.clone()));
    let driver = driver::start(driver::Setup {
        limits: limits(&config),
        lanes: config.cpu.lanes,
        workers_max: config.cpu.workers_max,
        gpu_workers: gpu_workers(&config.gpu),
        region: config.server.region.clone(),
        step_limit_ns: config.scheduling.step_limit_ms * 1_000_000,
        prefix_cache: config.models.prefix_cache.clone(),
        prefix_cache_idle_ns: config.models.prefix_cache_idle_ms * 1_000_000,
        clock,
        labels: metrics::TenantLabels::default(),
        launcher: link.clone(),
        known: catalog.clone(),
        faults: faults.clone(),
        audit: audit.clone(),
    })?;
    let submitter = Submitter {
        identity: identity.clone(),
        buffers: buffers::Buffers::new(config.limits.tenant_buffer_bytes_max),
        driver: driver.clone(),
        audit: audit.clone(),
        clock,
        region: Arc::from(config.server.region.as_str()),
        next_request: Arc::new(1.into()),
        refusals: Arc::default(),
        refusal_budget: Arc::default(),
    };
    let app = App::new(state::Inner {
        config,
        identity,
        policy,
        catalog,
        faults,
        reloading: tokio::sync::Mutex::default(),
        submitter,
        metrics,
        issuer,
        ca_pem,
    });
    for tenant in app.identity.tenants() {
        app.announce(&tenant).await;
    }

    let (stop, stopped) = watch::channel(false);
    let admin = listen::admin(app.clone(), doors.admin)?;
    let door = tokio::spawn(door::serve(app.clone(), agents, tls, stopped));
    let http = tokio::spawn(listen::operators(app.clone(), operators));
    tokio::spawn(upkeep(app.clone()));
    started(&app);

    let drain = obey(&mut said, &driver, &audit).await;
    if drain {
        drain_all(&app, &driver, &stop, door).await;
        let last = ToLauncher {
            message: Some(to_launcher::Message::Drained(Drained {})),
        };
        if link.send(last).is_ok() {
            // Give the packet its way out before the process ends.
            link.closed().await;
        }
    }
    admin.abort();
    http.abort();
    Ok(())
}

/// The models that there are: the launcher's first word.
async fn models(said: &mut mpsc::Receiver<launcher_link::Said>) -> Result<Models, ServerError> {
    match said.recv().await.and_then(|said| said.message.message) {
        Some(from_launcher::Message::Models(models)) => Ok(models),
        _ => Err(ServerError::Launcher),
    }
}

/// Does what the launcher says; true when it asked to drain, false when it went away.
async fn obey(
    said: &mut mpsc::Receiver<launcher_link::Said>,
    driver: &mpsc::Sender<driver::Message>,
    audit: &AuditLog,
) -> bool {
    while let Some(launcher_link::Said {
        message,
        descriptor,
    }) = said.recv().await
    {
        match (&message.message, descriptor) {
            (Some(from_launcher::Message::Drain(_)), _) => return true,
            (Some(from_launcher::Message::AuditUp(_)), Some(connection)) => {
                let audit = audit.clone();
                tokio::spawn(async move { audit.serve(connection).await });
            }
            (Some(from_launcher::Message::AuditUp(_)), None) => {
                tracing::error!("the audit process came without its connection")
            }
            (Some(from_launcher::Message::AuditDown(down)), _) => {
                tracing::error!(how = %down.how, "the audit process ended; requests are refused until it is back");
                audit.down();
            }
            (Some(from_launcher::Message::GpusUp(up)), Some(connection)) => {
                let has_worker = up.has_worker;
                let word = GpusWord::Up { has_worker };
                let _ = driver.send(driver::Message::Gpus(word)).await;
                tokio::spawn(gpus::hear(connection, driver.clone()));
            }
            (Some(from_launcher::Message::GpusDown(_)), _) => {
                let _ = driver.send(driver::Message::Gpus(GpusWord::Down)).await;
            }
            (_, descriptor) => {
                if driver
                    .send(driver::Message::Launcher {
                        message,
                        descriptor,
                    })
                    .await
                    .is_err()
                {
                    return false;
                }
            }
        }
    }
    false
}

/// No new requests; running ones end or are ended; the log is sealed.
async fn drain_all(
    app: &App,
    driver: &mpsc::Sender<driver::Message>,
    stop: &watch::Sender<bool>,
    door: tokio::task::JoinHandle<()>,
) {
    tracing::info!("draining");
    stop.send_replace(true);
    let patience = Duration::from_millis(app.config.server.drain_ms);
    let (done, drained) = oneshot::channel();
    if driver.send(driver::Message::Drain(done)).await.is_ok() {
        let mut drained = drained;
        if tokio::time::timeout(patience, &mut drained).await.is_err() {
            tracing::warn!(why = ?CancelReason::Shutdown, "some requests did not end in time and are ended now");
            let _ = driver.send(driver::Message::CancelAll).await;
            let _ = tokio::time::timeout(LAST_PATIENCE, drained).await;
        }
    }
    // Answers and their last records go out before the connections close.
    let _ = tokio::time::timeout(LAST_PATIENCE, door).await;
    app.submitter.refusals.flush(&app.submitter.audit);
    let body = records::act("server.stop", serde_json::json!({}));
    let _ = app.submitter.audit.append("", RecordKind::System, "", body);
    if !app.submitter.audit.seal(LAST_PATIENCE).await {
        tracing::error!("the audit log could not be sealed in time");
    }
    app.identity.close().await;
}

async fn upkeep(app: App) {
    let mut every = tokio::time::interval(AGGREGATE_EVERY);
    loop {
        every.tick().await;
        app.submitter.refusals.flush(&app.submitter.audit);
        app.submitter.refusal_budget.reset();
        app.metrics.run_upkeep();
    }
}

/// Says what is served and what was switched off, in the log of the process and in the audit log.
fn started(app: &App) {
    let disabled = &app.config.unsafe_.disable;
    if !disabled.is_empty() {
        tracing::warn!(
            ?disabled,
            "PROTECTIONS ARE SWITCHED OFF; serve no real tenant like this"
        );
    }
    let body = records::act(
        "server.start",
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "region": app.config.server.region,
            "disabled_protections": disabled,
        }),
    );
    // Kept until the log opens, like every record.
    let _ = app
        .submitter
        .audit
        .append_end("", RecordKind::System, "", body);
}

fn gpu_workers(gpu: &Gpu) -> Option<GpuWorkers> {
    (gpu.use_ == GpuUse::Auto).then_some(GpuWorkers {
        lanes: gpu.lanes,
        workers_max: gpu.workers_max,
        worker_bytes: gpu.worker_bytes,
    })
}

fn limits(config: &Config) -> Limits {
    let s = &config.scheduling;
    Limits {
        queue_bytes_max: s.queue_bytes_max,
        tenant_reserved_bytes: s.tenant_reserved_bytes,
        batch_tokens_max: s.batch_tokens_max,
        quantum_ns: s.quantum_ms * 1_000_000,
        switch_percent: s.switch_percent,
        burst_ns: s.burst_ms * 1_000_000,
        release_grace_ns: s.release_grace_ms * 1_000_000,
        start_attempts_max: s.start_attempts_max,
        unload_after_ns: config.models.unload_after_ms.saturating_mul(1_000_000),
        restarts: RESTARTS,
        backoff_patience_ns: BACKOFF_PATIENCE_NS,
        seed: uuid::Uuid::new_v4().as_u64_pair().0,
    }
}
