//! One life of the scheduler, from the launcher's side: the workers it asked for, its audit process,
//! and what it is told about them.
//!
//! What the scheduler says is untrusted: it can ask for a worker with a model of the catalogue, and
//! have a worker killed that it asked for, and nothing else. Nothing here waits: a scheduler that
//! does not read what it is told is ended. Time comes as an argument.

use super::{
    audit::{Audit, Change},
    catalog::Catalog,
    programs::Programs,
    sys,
    worker::{self, SpawnError},
};
use crate::config::Config;
use bulkhead_proto::{
    internal::{
        AuditDown, AuditUp, Drain, Exited, FromLauncher, SpawnFailed, SpawnWorker, Spawned,
        ToLauncher, from_launcher::Message as Tell, to_launcher::Message as Ask,
    },
    packet,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Instant,
};

/// Workers that may be ending while their successors start.
const WORKERS_SPARE: usize = 4;
/// Messages taken in one turn, so that a talkative scheduler delays no signal.
const MESSAGES_PER_TURN: usize = 64;

/// What outlives every scheduler.
pub struct Setup {
    pub config: Config,
    pub catalog: Catalog,
    pub programs: Programs,
}

/// One life.
pub struct Life<'a> {
    setup: &'a Setup,
    socket: OwnedFd,
    /// False once the connection ended or was misused.
    connected: bool,
    drained: bool,
    workers: BTreeMap<u64, Pid>,
    audit: Audit,
}

impl<'a> Life<'a> {
    /// A life over the launcher's end of the connection.
    pub fn new(setup: &'a Setup, socket: OwnedFd, now: Instant) -> io::Result<Life<'a>> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Life {
            setup,
            socket,
            connected: true,
            drained: false,
            workers: BTreeMap::new(),
            audit: Audit::new(now),
        })
    }

    /// The connection to wait on; none once it has ended.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.connected.then(|| self.socket.as_fd())
    }

    /// When `tick` wants to be called at the latest.
    pub fn wake_at(&self) -> Option<Instant> {
        self.audit.wake_at().filter(|_| self.connected)
    }

    /// True once the scheduler has said that it has drained.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Does what the scheduler asked for since the last time.
    pub fn listen(&mut self) {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.connected {
                return;
            }
            match packet::recv::<ToLauncher>(self.socket.as_fd()) {
                Ok(Some((message, _))) => self.hear(message),
                Ok(None) => self.connected = false,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return,
                Err(e) => self.give_up(&e),
            }
        }
    }

    /// Buries children that ended, and starts the audit process where that is due.
    pub fn tick(&mut self, now: Instant) {
        let ended: Vec<_> = (self.workers.iter())
            .filter_map(|(&worker, &pid)| Some((worker, sys::ended(pid)?)))
            .collect();
        for (worker, how) in ended {
            self.workers.remove(&worker);
            self.tell(Tell::Exited(Exited { worker, how }), None);
        }
        if !self.connected {
            return;
        }
        let programs = &self.setup.programs;
        match self.audit.tick(&programs.audit, &self.setup.config, now) {
            Some(Change::Up(fd)) => self.tell(Tell::AuditUp(AuditUp {}), Some(fd.as_fd())),
            Some(Change::Down(how)) => self.tell(Tell::AuditDown(AuditDown { how }), None),
            None => {}
        }
    }

    /// Asks the scheduler to finish.
    pub fn drain(&mut self) {
        self.tell(Tell::Drain(Drain {}), None);
    }

    /// The scheduler has ended: ends its workers, and waits for its audit process to seal.
    pub fn end(self) {
        for &pid in self.workers.values() {
            sys::kill_now(pid);
        }
        for &pid in self.workers.values() {
            sys::kill_and_wait(pid);
        }
        drop(self.socket);
        self.audit.finish();
    }

    fn hear(&mut self, message: ToLauncher) {
        match message.message {
            Some(Ask::Spawn(ask)) => self.spawn(&ask),
            Some(Ask::Kill(ask)) => {
                if let Some(&pid) = self.workers.get(&ask.worker) {
                    sys::kill_now(pid);
                }
            }
            Some(Ask::Drained(_)) => self.drained = true,
            None => self.give_up(&io::Error::from(io::ErrorKind::InvalidData)),
        }
    }

    fn spawn(&mut self, ask: &SpawnWorker) {
        let worker = ask.worker;
        match self.try_spawn(ask) {
            Ok(started) => {
                self.workers.insert(worker, started.pid);
                let told = Spawned {
                    worker,
                    pid: started.pid.as_raw(),
                    model_sha256: started.digest,
                };
                self.tell(Tell::Spawned(told), Some(started.connection.as_fd()));
            }
            Err(error) => {
                tracing::warn!(worker, "worker not started: {error}");
                let told = SpawnFailed {
                    worker,
                    reason: error.to_string(),
                    permanent: error.permanent(),
                };
                self.tell(Tell::SpawnFailed(told), None);
            }
        }
    }

    fn try_spawn(&self, ask: &SpawnWorker) -> Result<worker::Started, SpawnError> {
        if self.workers.contains_key(&ask.worker) {
            return Err(SpawnError::Number(ask.worker));
        }
        let most = self.setup.config.cpu.workers_max as usize + WORKERS_SPARE;
        if self.workers.len() >= most {
            return Err(SpawnError::TooMany(most));
        }
        worker::start(
            &self.setup.programs.worker,
            &self.setup.config,
            &self.setup.catalog,
            &ask.model,
            &ask.device,
        )
    }

    fn tell(&mut self, message: Tell, pass: Option<BorrowedFd<'_>>) {
        if !self.connected {
            return;
        }
        let message = FromLauncher {
            message: Some(message),
        };
        if let Err(e) = packet::send(self.socket.as_fd(), &message, pass) {
            self.give_up(&e);
        }
    }

    /// The connection cannot be relied on any more; whoever watches this life ends it.
    fn give_up(&mut self, why: &io::Error) {
        // Closed at the other end: how the scheduler ended is told when it is buried.
        let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        if !closed.contains(&why.kind()) {
            tracing::error!("the scheduler's connection to the launcher failed: {why}");
        }
        self.connected = false;
    }
}

#[cfg(test)]
#[path = "life_tests.rs"]
mod tests;
