//! Keeping one audit process up for the scheduler's whole life.
//!
//! It gets its folder, its keys' folder and one end of a connection; the scheduler gets the other
//! end. When the scheduler is gone the connection ends, and the audit process seals its log and ends
//! by itself. Nothing here reads or writes the log.

use super::{
    backoff::Backoff,
    spawn::Spawn,
    sys::{self, Ended},
};
use crate::config::Config;
use nix::{
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::Pid,
};
use std::{
    ffi::OsStr,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// How long an audit process may take to seal its log once its connection has ended.
const SEAL_WAIT: Duration = Duration::from_secs(5);

/// What changed, for the scheduler to hear.
#[derive(Debug)]
pub enum Change {
    /// A new one is up; its connection.
    Up(OwnedFd),
    /// It died, or could not be started: how.
    Down(String),
}

#[derive(Debug)]
enum State {
    Up { pid: Pid, since: Instant },
    Down { until: Instant },
}

/// The audit process of one scheduler's life.
#[derive(Debug)]
pub struct Audit {
    state: State,
    backoff: Backoff,
}

impl Audit {
    /// Not started yet; due at `now`.
    pub fn new(now: Instant) -> Audit {
        Audit {
            state: State::Down { until: now },
            backoff: Backoff::default(),
        }
    }

    /// When the next start is due.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Up { .. } => None,
            State::Down { until } => Some(until),
        }
    }

    /// Sees whether it died, and starts it where that is due.
    pub fn tick(&mut self, program: &Path, config: &Config, now: Instant) -> Option<Change> {
        match self.state {
            State::Up { pid, since } => {
                let how = sys::ended(pid)?;
                Some(self.down(how.to_string(), now.saturating_duration_since(since), now))
            }
            State::Down { until } if now < until => None,
            State::Down { .. } => match start(program, config) {
                Ok((pid, connection)) => {
                    self.state = State::Up { pid, since: now };
                    Some(Change::Up(connection))
                }
                Err(e) => Some(self.down(format!("cannot start: {e}"), Duration::ZERO, now)),
            },
        }
    }

    /// Its process, while it is up.
    pub fn pid(&self) -> Option<Pid> {
        match self.state {
            State::Up { pid, .. } => Some(pid),
            State::Down { .. } => None,
        }
    }

    /// The scheduler is gone: waits until the log is sealed.
    pub fn finish(self) {
        let State::Up { pid, .. } = self.state else {
            return;
        };
        match sys::ended_by(pid, Instant::now() + SEAL_WAIT) {
            Ok(Some(Ended::Code(0))) => {}
            Ok(Some(how)) => tracing::error!("the audit process ended with {how}"),
            Ok(None) | Err(_) => {
                tracing::error!("the audit process did not seal its log in time; killing it");
                sys::kill_and_wait(pid);
            }
        }
    }

    fn down(&mut self, how: String, life: Duration, now: Instant) -> Change {
        let wait = self.backoff.after(life);
        tracing::error!("the audit process is down ({how}); starting it in {wait:?}");
        self.state = State::Down { until: now + wait };
        Change::Down(how)
    }
}

/// Starts one; the other end of its connection is the scheduler's.
fn start(program: &Path, config: &Config) -> io::Result<(Pid, OwnedFd)> {
    let (theirs, connection) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    let (log, keys) = (config.paths().audit_log(), config.paths().audit_keys());
    let bytes_max = config.audit.bytes_max.to_string();
    let mut args: Vec<&OsStr> = vec![
        "serve".as_ref(),
        "--dir".as_ref(),
        log.as_ref(),
        "--keys".as_ref(),
        keys.as_ref(),
        "--socket-fd".as_ref(),
        "3".as_ref(),
    ];
    if config.audit.bytes_max > 0 {
        args.extend::<[&OsStr; 2]>(["--max-bytes".as_ref(), bytes_max.as_ref()]);
    }
    let fds = [theirs.as_fd()];
    let audit = Spawn::new(program, &fds).arguments(&args)?.powerless();
    let pid = audit.start()?;
    Ok((pid, connection))
}
