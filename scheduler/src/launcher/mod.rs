//! The launcher: the small part of `bulkhead serve` that keeps privileges.
//!
//! It opens and hashes model files, starts the scheduler, its workers and the audit process, and
//! starts again what died. It has one thread, no network, and reads nothing that a user sent: only
//! the few words of the scheduler, which it does not trust. It forks the scheduler before any other
//! thread exists, and can do so again at any time because it never gets one.

use crate::{
    config::Config,
    models::{self, ModelsError},
    server,
};
use bulkhead_proto::packet;
use catalog::Catalog;
use groups::{Granted, Groups};
use life::{Life, Setup};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        resource::{Resource, getrlimit, setrlimit},
        signal::Signal,
    },
    unistd::{Pid, getpid},
};
use programs::Programs;
use signals::Signals;
use std::{
    fs::{File, TryLockError},
    hash::{BuildHasher, RandomState},
    io::{self, Read, Write},
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    process::ExitCode,
    time::{Duration, Instant},
};
use sys::Ended;
use words::Words;

mod audit;
mod backoff;
mod catalog;
mod gpus;
pub mod groups;
mod keeper;
mod keepers;
mod life;
mod outcome;
mod pauses;
pub mod probe;
pub mod programs;
mod restarts;
mod signals;
mod spares;
mod spawn;
mod sys;
mod template;
mod templates;
mod users;
mod words;
mod worker;

pub use outcome::CHANGED;
use restarts::{Next, Restarts};

/// What a scheduler that has drained, or closed its connection, may take to exit.
const EXIT_WAIT: Duration = Duration::from_secs(5);
/// The exit code of a scheduler that ended with an error of its own, as main's would be.
const ERROR_CODE: i32 = 1;
/// The exit code of a scheduler that panicked, as the standard library's would be.
const PANIC_CODE: i32 = 101;
/// The exit code after a second SIGINT, as a shell would report it.
const INTERRUPTED_CODE: u8 = 130;

/// Why the launcher cannot do its work. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum LauncherError {
    #[error(transparent)]
    Models(#[from] ModelsError),
    #[error(transparent)]
    Program(#[from] programs::Missing),
    /// Another server uses the data folder.
    #[error("a server (process {pid}) already runs on {data}; stop it, or give another --data")]
    Taken { data: String, pid: String },
    /// A layer of the seal that the operator requires is not to be had.
    #[error(
        "worker.required_layers names {layer}, which this machine does not grant: {why}; `bulkhead doctor` says what \
         it does"
    )]
    Layer { layer: String, why: String },
    /// The machine refused something.
    #[error("the launcher failed: {0}")]
    Io(#[from] io::Error),
}

/// How a scheduler's life ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// It was asked to, and did, in time or not.
    Asked { clean: bool },
    /// A second SIGINT came.
    Interrupted,
    /// It died.
    Died(Ended),
}

/// Runs the server until it is told to end. Must be called while this process has one thread.
pub fn serve(config: Config) -> Result<ExitCode, LauncherError> {
    let _alone = lock(&config)?;
    let manifests = models::load_all(&config)?;
    models::check_cached(&config, &manifests)?;
    if manifests.is_empty() {
        tracing::warn!("no models: run `bulkhead models pull`");
    }
    let programs = Programs::find()?;
    let (groups, granted) = Groups::set_up();
    require(&config.worker.required_layers, &granted, &programs)?;
    let setup = Setup {
        groups: groups.into(),
        words: Default::default(),
        seed: RandomState::new().hash_one(()),
        programs,
        catalog: Catalog::new(manifests).into(),
        hung: Default::default(),
        config,
    };
    let signals = Signals::new()?;
    // Every process that it starts is a few descriptors here.
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).map_err(io::Error::from)?;
    sys::adopt_orphans()?;
    let mut restarts = Restarts::default();
    loop {
        let born = Instant::now();
        let how = match live(&setup, &signals)? {
            End::Asked { clean: true } => return Ok(ExitCode::SUCCESS),
            End::Asked { clean: false } => return Ok(ExitCode::FAILURE),
            End::Interrupted => return Ok(ExitCode::from(INTERRUPTED_CODE)),
            End::Died(how) => how,
        };
        let own_error = how == Ended::Code(ERROR_CODE);
        match restarts.after(born, Instant::now(), own_error) {
            Next::Start(wait) => {
                tracing::error!("the scheduler ended ({how}); starting it again in {wait:?}");
                if told_to_end(&signals, Instant::now() + wait)? {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Next::GiveUp(why) => {
                tracing::error!("the scheduler ended ({how}); giving up: {why}");
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}

/// An error where a layer of the seal is required that cannot be had. What a worker applies itself it is asked for; where
/// it does not answer, each worker sees for itself.
fn require(
    required: &[String],
    groups: &[(&'static str, Granted)],
    programs: &Programs,
) -> Result<(), LauncherError> {
    let is_required = |name: &str| required.iter().any(|one| one == name);
    for (layer, granted) in groups {
        match granted {
            Ok(_) => {}
            Err(why) if is_required(layer) => return Err(lacking(layer, why)),
            Err(why) => tracing::info!("without {layer}: {why}"),
        }
    }
    if required
        .iter()
        .all(|name| groups::LAYERS.contains(&name.as_str()))
    {
        return Ok(());
    }
    match probe::layers(&programs.worker) {
        Ok(layers) => {
            let mut missing = layers.iter().filter(|layer| !layer.available);
            match missing.find(|layer| is_required(&layer.name)) {
                Some(layer) => Err(lacking(&layer.name, &layer.detail)),
                None => Ok(()),
            }
        }
        Err(why) => {
            tracing::warn!("which layers of the seal this machine grants is not known: {why}");
            Ok(())
        }
    }
}

fn lacking(layer: &str, why: &str) -> LauncherError {
    LauncherError::Layer {
        layer: layer.to_owned(),
        why: why.to_owned(),
    }
}

/// Takes the data folder for this process alone, until it ends, however it ends. Nothing is bound or
/// started before.
fn lock(config: &Config) -> Result<File, LauncherError> {
    let path = config.paths().lock();
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::Error(e)) => return Err(e.into()),
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.take(16).read_to_string(&mut pid)?;
            return Err(LauncherError::Taken {
                data: config.data.display().to_string(),
                pid: pid.trim().into(),
            });
        }
    }
    file.set_len(0)?;
    writeln!(file, "{}", getpid())?;
    Ok(file)
}

/// One life of the scheduler, from fork to the end of all that belonged to it.
fn live(setup: &Setup, signals: &Signals) -> Result<End, LauncherError> {
    let (ours, theirs) = packet::pair()?;
    let launcher = getpid();
    let pid = match sys::fork_alone()? {
        sys::Fork::Parent(pid) => pid,
        sys::Fork::Child => scheduler(setup.config.clone(), launcher, theirs),
    };
    drop(theirs);
    let mut life = Life::new(setup, ours, Instant::now())?;
    let end = watch(setup, &mut life, pid, signals);
    if end.is_err() {
        sys::kill_and_wait(pid);
    }
    life.end();
    // What they said at the very end.
    setup.words.borrow_mut().listen(Instant::now());
    let hung = sys::end_strays(|pid| setup.hung.borrow().contains(&pid));
    setup.hung.borrow_mut().extend(hung);
    Ok(end?)
}

/// The forked child: becomes the scheduler and never comes back.
fn scheduler(config: Config, launcher: Pid, socket: OwnedFd) -> ! {
    let run = AssertUnwindSafe(|| {
        if let Err(e) = sys::harden_scheduler(launcher, socket.as_fd()) {
            tracing::error!("the scheduler cannot give up its privileges: {e}");
            return ERROR_CODE;
        }
        match server::run(config, socket) {
            Ok(()) => 0,
            Err(e) => {
                tracing::error!("{e}");
                ERROR_CODE
            }
        }
    });
    // Unwinding further would run the launcher's code in the scheduler.
    std::process::exit(catch_unwind(run).unwrap_or(PANIC_CODE))
}

/// Does what signals and the scheduler ask for, until the scheduler has ended.
fn watch(setup: &Setup, life: &mut Life<'_>, pid: Pid, signals: &Signals) -> io::Result<End> {
    let drain = Duration::from_millis(setup.config.server.drain_ms);
    let mut asked = false;
    let mut interrupted = false;
    let mut kill_at: Option<Instant> = None;
    loop {
        let wake = [life.wake_at(Instant::now()), kill_at]
            .into_iter()
            .flatten()
            .min();
        wait(signals, life, &setup.words.borrow(), wake)?;
        setup.words.borrow_mut().listen(Instant::now());
        while let Some(signal) = signals.next()? {
            match signal {
                Signal::SIGTERM | Signal::SIGINT if !asked => {
                    tracing::info!("{signal}: draining; a second SIGINT stops at once");
                    asked = true;
                    life.drain();
                    kill_at = Some(Instant::now() + drain + EXIT_WAIT);
                }
                Signal::SIGINT => {
                    interrupted = true;
                    sys::kill_now(pid);
                }
                _ => {}
            }
        }
        life.listen(Instant::now());
        life.tick(Instant::now());
        life.end_strays(pid);
        if let Some(how) = sys::ended(pid) {
            return Ok(match (interrupted, asked) {
                (true, _) => End::Interrupted,
                (_, true) => End::Asked {
                    clean: how == Ended::Code(0),
                },
                _ => End::Died(how),
            });
        }
        if life.drained() || life.socket().is_none() {
            let soon = Instant::now() + EXIT_WAIT;
            kill_at = Some(kill_at.map_or(soon, |at| at.min(soon)));
        }
        if kill_at.is_some_and(|at| Instant::now() >= at) {
            tracing::error!("the scheduler did not end in time; killing it");
            sys::kill_now(pid);
            kill_at = None;
        }
    }
}

/// Waits for a signal, for the scheduler, for a template, for words of any, or until `wake`.
fn wait(
    signals: &Signals,
    life: &Life<'_>,
    words: &Words,
    wake: Option<Instant>,
) -> io::Result<()> {
    let now = Instant::now();
    let wake = [wake, words.wake_at(now)].into_iter().flatten().min();
    let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = vec![readable(signals.as_fd())];
    fds.extend(life.readable().map(readable));
    fds.extend(words.readable(now).map(readable));
    poll_until(&mut fds, wake)
}

/// Waits until `until`; true where SIGTERM or SIGINT came first.
fn told_to_end(signals: &Signals, until: Instant) -> io::Result<bool> {
    while Instant::now() < until {
        let mut fds = [PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        poll_until(&mut fds, Some(until))?;
        while let Some(signal) = signals.next()? {
            if matches!(signal, Signal::SIGTERM | Signal::SIGINT) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn poll_until(fds: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let timeout = match until {
        None => PollTimeout::NONE,
        Some(at) => {
            // Rounded up: waking early would spin.
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}
