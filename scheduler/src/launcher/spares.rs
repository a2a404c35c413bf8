//! Workers that are nobody's yet: forked ahead, each loads, seals itself and waits to be assigned.
//!
//! One that ended is buried and not replaced. None is ever given out twice.

use super::sys;
use nix::unistd::Pid;
use std::{collections::VecDeque, os::fd::OwnedFd};

/// The spares of one template.
#[derive(Default)]
pub struct Spares {
    /// Each with the scheduler's end of its connection.
    ready: VecDeque<(Pid, OwnedFd)>,
    /// How many there are to be.
    wanted: usize,
}

impl Spares {
    /// None yet, and so many to be.
    pub fn wanting(wanted: u32) -> Spares {
        Spares {
            ready: VecDeque::new(),
            wanted: wanted as usize,
        }
    }

    /// True where another is to be forked.
    pub fn is_due(&self) -> bool {
        self.ready.len() < self.wanted
    }

    pub fn add(&mut self, pid: Pid, connection: OwnedFd) {
        self.ready.push_back((pid, connection));
    }

    /// The one that waited longest, for whoever comes.
    pub fn take(&mut self) -> Option<(Pid, OwnedFd)> {
        self.ready.pop_front()
    }

    /// There are to be no others.
    pub fn enough(&mut self) {
        self.wanted = 0;
    }

    /// Buries those that ended. What ended them would end others too, so there are to be none.
    pub fn bury(&mut self, model: &str) {
        let before = self.ready.len();
        self.ready.retain(|(pid, _)| sys::ended(*pid).is_none());
        if self.ready.len() < before {
            tracing::warn!(model, "a spare worker ended; there will be no others");
            self.enough();
        }
    }

    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        self.ready.iter().map(|(pid, _)| *pid)
    }

    /// All of them, to be ended.
    pub fn drain(&mut self) -> impl Iterator<Item = Pid> {
        self.ready.drain(..).map(|(pid, _)| pid)
    }
}
