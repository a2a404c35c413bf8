//! Keeping one process that watches GPUs up for the scheduler's whole life, unless there are none.
//!
//! It gets one end of a connection; the scheduler gets the other. This process never asks a GPU anything,
//! loads no vendor's library, and waits for none: a watcher that hangs in its driver, where no signal ends it,
//! is left behind.

use super::{
    backoff::Backoff,
    spawn::Spawn,
    sys::{self, Ended},
};
use bulkhead_proto::packet;
use nix::unistd::Pid;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

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
    Up {
        pid: Pid,
        since: Instant,
    },
    Down {
        until: Instant,
    },
    /// It ended in good order: there is nothing to watch.
    Over,
}

/// The watcher of one scheduler's life.
#[derive(Debug)]
pub struct Gpus {
    state: State,
    backoff: Backoff,
}

impl Gpus {
    /// Not started yet; due at `now`.
    pub fn new(now: Instant) -> Gpus {
        Gpus {
            state: State::Down { until: now },
            backoff: Backoff::default(),
        }
    }

    /// When the next start is due.
    pub fn wake_at(&self) -> Option<Instant> {
        match self.state {
            State::Up { .. } | State::Over => None,
            State::Down { until } => Some(until),
        }
    }

    /// Sees whether it ended, and starts it where that is due.
    pub fn tick(&mut self, program: &Path, now: Instant) -> Option<Change> {
        match self.state {
            State::Over => None,
            State::Up { pid, since } => match sys::ended(pid)? {
                Ended::Code(0) => {
                    self.state = State::Over;
                    None
                }
                how => Some(self.down(how.to_string(), now.saturating_duration_since(since), now)),
            },
            State::Down { until } if now < until => None,
            State::Down { .. } => match start(program) {
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
            State::Down { .. } | State::Over => None,
        }
    }

    /// The scheduler is gone: ends it. Answers with its process where that hangs and cannot be buried.
    pub fn end(self) -> Option<Pid> {
        let pid = self.pid()?;
        sys::end_all(&[pid]).pop()
    }

    fn down(&mut self, how: String, life: Duration, now: Instant) -> Change {
        let wait = self.backoff.after(life);
        tracing::error!("the process that watches GPUs is down ({how}); starting it in {wait:?}");
        self.state = State::Down { until: now + wait };
        Change::Down(how)
    }
}

/// Starts one; the other end of its connection is the scheduler's.
fn start(program: &Path) -> io::Result<(Pid, OwnedFd)> {
    let (theirs, connection) = packet::pair()?;
    let fds = [theirs.as_fd()];
    let pid = Spawn::new(program, &fds).powerless().start()?;
    Ok((pid, connection))
}
