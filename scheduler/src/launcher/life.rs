//! One life of the scheduler, from the launcher's side: the workers it asked for, its audit process,
//! and what it is told about them.
//!
//! What the scheduler says is untrusted: it can ask for a worker with a model of the catalogue, and
//! have a worker killed that it asked for, and nothing else. Nothing here waits: a scheduler that
//! does not read what it is told is ended. Time comes as an argument.

use super::{
    audit::{Audit, Change},
    catalog::{Catalog, Reload},
    gpus::{self, Gpus},
    groups::Groups,
    keepers::Keepers,
    programs::Programs,
    sys,
    templates::Templates,
    words::Words,
    worker::How,
};
use crate::config::Config;
use bulkhead_proto::{
    internal::{
        AuditDown, AuditUp, Drain, Exited, FromLauncher, GpusDown, GpusUp, ToLauncher,
        from_launcher::Message as Tell, model_news::State as Stage, to_launcher::Message as Ask,
    },
    packet,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    unistd::Pid,
};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Instant,
};

mod models;
mod workers;

/// Messages taken in one turn, so that a talkative scheduler delays no signal.
const MESSAGES_PER_TURN: usize = 64;

/// Models with faults that a new scheduler is told of, so that its socket's buffer holds them all; of
/// the others it hears when it asks for them.
const FAULTS_TOLD_MAX: usize = 64;

/// What outlives every scheduler.
pub struct Setup {
    pub config: Config,
    /// What a reload replaces.
    pub catalog: RefCell<Catalog>,
    pub programs: Programs,
    /// Where workers and templates are bounded, as far as the machine grants it.
    pub groups: RefCell<Groups>,
    /// What workers and templates say.
    pub words: RefCell<Words>,
    /// Children that hang in a driver, where nothing ends them: nobody waits for these.
    pub hung: RefCell<BTreeSet<Pid>>,
    /// Drawn once; spreads what has to wait.
    pub seed: u64,
}

impl Setup {
    /// With what one of our programs is started.
    fn how<'a>(&'a self, program: &'a Path) -> How<'a> {
        How {
            program,
            config: &self.config,
            groups: &self.groups,
            words: &self.words,
            variable: None,
        }
    }
}

/// One life.
pub struct Life<'a> {
    setup: &'a Setup,
    socket: OwnedFd,
    /// False once the connection ended or was misused.
    connected: bool,
    drained: bool,
    workers: BTreeMap<u64, Pid>,
    /// Of workers that templates were asked for: what each may have beside its model, bytes.
    rooms: BTreeMap<u64, u64>,
    templates: Templates,
    /// Who has weights on GPUs.
    keepers: Keepers,
    /// What each template had come to when the scheduler was told last.
    told: BTreeMap<String, Stage>,
    reload: Option<Reload>,
    audit: Audit,
    gpus: Gpus,
}

impl<'a> Life<'a> {
    /// A life over the launcher's end of the connection.
    pub fn new(setup: &'a Setup, socket: OwnedFd, now: Instant) -> io::Result<Life<'a>> {
        fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let mut life = Life {
            setup,
            socket,
            connected: true,
            drained: false,
            workers: BTreeMap::new(),
            rooms: BTreeMap::new(),
            templates: Templates::new(setup.seed),
            keepers: Keepers::new(setup.seed),
            told: BTreeMap::new(),
            reload: None,
            audit: Audit::new(now),
            gpus: Gpus::new(now),
        };
        life.tell_models();
        Ok(life)
    }

    /// The connection to wait on; none once it has ended.
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.connected.then(|| self.socket.as_fd())
    }

    /// All connections to wait on.
    pub fn readable(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let ours = self.templates.controls().chain(self.keepers.controls());
        self.socket().into_iter().chain(ours)
    }

    /// When `tick` wants to be called at the latest.
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        let ours = [self.audit.wake_at(), self.gpus.wake_at()];
        let ours = ours.into_iter().flatten().min().filter(|_| self.connected);
        let reload = self.reload.as_ref().map(|_| now);
        [
            ours,
            self.templates.wake_at(),
            self.keepers.wake_at(),
            reload,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Ends children of this process that are neither this life's nor `scheduler`.
    pub fn end_strays(&self, scheduler: Pid) {
        if !self.templates.is_forking() {
            let known = self.known();
            let hung = sys::end_strays(|pid| pid == scheduler || known.contains(&pid));
            self.setup.hung.borrow_mut().extend(hung);
        }
    }

    fn known(&self) -> BTreeSet<Pid> {
        let workers = self.workers.values().copied();
        (workers.chain(self.templates.pids()))
            .chain(self.keepers.pids())
            .chain(self.audit.pid())
            .chain(self.gpus.pid())
            .chain(self.setup.hung.borrow().iter().copied())
            .collect()
    }

    /// True once the scheduler has said that it has drained.
    pub fn drained(&self) -> bool {
        self.drained
    }

    /// Does what the scheduler asked for since the last time, and hears what came of it.
    pub fn listen(&mut self, now: Instant) {
        self.hear_scheduler(now);
        let outcomes = self.templates.listen(self.known(), now);
        self.settle(outcomes);
        self.tell_stages();
    }

    fn hear_scheduler(&mut self, now: Instant) {
        for _ in 0..MESSAGES_PER_TURN {
            if !self.connected {
                return;
            }
            match packet::recv::<ToLauncher>(self.socket.as_fd()) {
                Ok(Some((message, _))) => self.hear(message, now),
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
            let Some(pid) = self.workers.remove(&worker) else {
                continue;
            };
            self.templates.left(pid, now);
            self.keepers.left(pid, now);
            let told = Exited {
                worker,
                how: how.to_string(),
                signal: how.signal(),
                out_of_memory: self.setup.groups.borrow().ran_out(pid),
            };
            self.tell(Tell::Exited(told), None);
        }
        let outcomes = self.templates.tick(self.known(), now);
        self.settle(outcomes);
        self.hear_keepers(now);
        let known = self.known();
        (self.setup.groups.borrow_mut()).sweep(|pid| known.contains(&pid));
        self.tell_stages();
        self.go_on_reloading(now);
        if !self.connected {
            return;
        }
        let programs = &self.setup.programs;
        match self.audit.tick(&programs.audit, &self.setup.config, now) {
            Some(Change::Up(fd)) => self.tell(Tell::AuditUp(AuditUp {}), Some(fd.as_fd())),
            Some(Change::Down(how)) => self.tell(Tell::AuditDown(AuditDown { how }), None),
            None => {}
        }
        match self.gpus.tick(&programs.gpus, now) {
            Some(gpus::Change::Up(fd)) => {
                let has_worker = programs.worker_cuda.is_some();
                self.tell(Tell::GpusUp(GpusUp { has_worker }), Some(fd.as_fd()));
            }
            Some(gpus::Change::Down(how)) => self.tell(Tell::GpusDown(GpusDown { how }), None),
            None => {}
        }
    }

    /// Asks the scheduler to finish.
    pub fn drain(&mut self) {
        self.tell(Tell::Drain(Drain {}), None);
    }

    /// The scheduler has ended: ends its workers and templates, and waits for its audit process to seal.
    pub fn end(self) {
        let workers: Vec<Pid> = self.workers.into_values().collect();
        let mut hung = self.setup.hung.borrow_mut();
        hung.extend(sys::end_all(&workers));
        self.templates.end();
        hung.extend(self.keepers.end());
        drop(self.socket);
        hung.extend(self.gpus.end());
        self.audit.finish();
        self.setup.groups.borrow_mut().sweep(|_| false);
    }

    fn hear(&mut self, message: ToLauncher, now: Instant) {
        match message.message {
            Some(Ask::Spawn(ask)) => self.spawn(&ask, now),
            Some(Ask::Kill(ask)) => self.kill(ask.worker),
            Some(Ask::Drained(_)) => self.drained = true,
            Some(Ask::ReloadModels(_)) => self.reload(),
            Some(Ask::LoadModel(ask)) => self.load_model(&ask, now),
            Some(Ask::UnloadModel(ask)) => self.templates.let_go(&ask.model, now),
            None => self.give_up(&io::Error::from(io::ErrorKind::InvalidData)),
        }
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
