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
    keepers::{Keepers, News},
    outcome::Outcome,
    programs::Programs,
    sys,
    templates::Templates,
    words::Words,
    worker::{self, How, Kind, SpawnError},
};
use crate::config::Config;
use bulkhead_proto::{
    internal::{
        AuditDown, AuditUp, Drain, Exited, FromLauncher, GpusDown, GpusUp, SpawnFailed,
        SpawnWorker, Spawned, ToLauncher, from_launcher::Message as Tell,
        model_news::State as Stage, to_launcher::Message as Ask,
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

/// Workers that may be ending while their successors start.
const WORKERS_SPARE: usize = 4;
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

    fn kill(&mut self, worker: u64) {
        if let Some(&pid) = self.workers.get(&worker) {
            sys::kill_now(pid);
        } else if self.templates.forget(worker) | self.keepers.forget(worker) {
            self.rooms.remove(&worker);
            let told = Exited {
                worker,
                how: "killed before it was there".to_owned(),
                ..Exited::default()
            };
            self.tell(Tell::Exited(told), None);
        }
    }

    fn spawn(&mut self, ask: &SpawnWorker, now: Instant) {
        let worker = ask.worker;
        match self.try_spawn(ask, now) {
            Ok(Some(started)) => {
                self.started(worker, started);
            }
            // Its template answers.
            Ok(None) => {}
            Err(error) => {
                self.failed(SpawnFailed {
                    worker,
                    reason: error.to_string(),
                    permanent: error.permanent(),
                    fault: error.fault(),
                    wait_ns: error.wait_ns(),
                });
            }
        }
    }

    fn try_spawn(
        &mut self,
        ask: &SpawnWorker,
        now: Instant,
    ) -> Result<Option<worker::Started>, SpawnError> {
        let expected = || self.templates.expected().chain(self.keepers.expected());
        if self.workers.contains_key(&ask.worker) || expected().any(|n| n == ask.worker) {
            return Err(SpawnError::Number(ask.worker));
        }
        let most = self.setup.config.workers_max() + WORKERS_SPARE;
        if self.workers.len() + expected().count() >= most {
            return Err(SpawnError::TooMany(most));
        }
        let Setup {
            config,
            catalog,
            programs,
            ..
        } = self.setup;
        let catalog = catalog.borrow();
        let opened = worker::open(&catalog, ask).inspect_err(|error| {
            if error.fault().is_some() {
                self.templates
                    .retire(&ask.model, "its model cannot be served any more", now);
                self.keepers.retire(|model, _| *model != *ask.model);
            }
        })?;
        let room = worker::room(config, ask.quota_bytes);
        let on = worker::on(ask)?;
        let Some(program) = programs.worker_for(on.kind()) else {
            return Err(SpawnError::NoProgram(ask.device.clone()));
        };
        if on.kind() == Kind::Gpu && config.worker.share_weights && worker::is_lent(opened.manifest)
        {
            let (block, how) = (self.templates.give_block(), self.setup.how(program));
            let Some(weights) = self.keepers.ask(ask, on, &opened, how, (block, now))? else {
                return Ok(None);
            };
            let with = (room, block);
            let mut started = worker::start_borrowing(how, &opened, on, with, weights)?;
            started.keeper = self.keepers.gave(ask, on, started.pid);
            return Ok(Some(started));
        }
        let alone = match on.kind() {
            Kind::Processor => !config.worker.share_weights,
            // A process that holds a GPU forks nobody.
            Kind::Gpu => true,
        };
        if alone {
            let block = self.templates.give_block();
            let how = self.setup.how(program);
            return worker::start(how, &opened, on, (room, block)).map(Some);
        }
        let how = self.setup.how(&programs.worker);
        let spare = (self.templates).ask(ask.worker, &ask.device, &opened, how, now)?;
        let Some((pid, connection)) = spare else {
            self.rooms.insert(ask.worker, room);
            return Ok(None);
        };
        self.bound(ask.worker, pid, room);
        let digest = opened.digest.to_owned();
        Ok(Some(worker::Started {
            pid,
            connection,
            digest,
            keeper: None,
        }))
    }

    /// Goes on with workers that waited for weights on a GPU, and tells what became of others and of the weights.
    fn hear_keepers(&mut self, now: Instant) {
        for news in self.keepers.tick(now) {
            match news {
                News::Ready(ask) => self.spawn(&ask, now),
                News::Failed(told) => self.failed(told),
                News::Changed(told) => self.tell(Tell::WeightsChanged(told), None),
            }
        }
    }

    /// Tells what became of workers that templates were asked for.
    fn settle(&mut self, outcomes: Vec<Outcome>) {
        for outcome in outcomes {
            match outcome {
                Outcome::Born {
                    worker,
                    pid,
                    connection,
                    digest,
                } => {
                    let born = worker::Started {
                        pid,
                        connection,
                        digest,
                        keeper: None,
                    };
                    self.born(worker, born);
                }
                Outcome::Failed {
                    worker,
                    reason,
                    permanent,
                    fault,
                } => self.failed(SpawnFailed {
                    worker,
                    reason,
                    permanent,
                    fault,
                    wait_ns: 0,
                }),
                Outcome::Dropped {
                    model,
                    reason,
                    permanent,
                } => self.dropped(model, reason, permanent),
                // Enclosed while nobody waits for it; whoever takes it says what it may have.
                Outcome::Ahead { pid } => {
                    let room = worker::room(&self.setup.config, 0);
                    let limits = worker::limits(&self.setup.config, Some(room));
                    let enclosed = self.setup.groups.borrow_mut().enclose(pid, limits);
                    if let Err(error) = enclosed {
                        tracing::error!("a worker ahead cannot be bounded: {error}");
                        sys::kill_now(pid);
                    }
                }
                // The templates have seen to it.
                Outcome::Unwanted { .. } => {}
            }
        }
    }

    /// A template's worker is there. It is handed over once it has its bounds.
    fn born(&mut self, worker: u64, born: worker::Started) {
        let room = self.rooms.remove(&worker).unwrap_or_default();
        self.bound(worker, born.pid, room);
        self.started(worker, born);
    }

    /// Bounds what a template's worker may take. One for which that fails is killed and handed over: its end is told like
    /// that of any other, and it serves no tenant before.
    fn bound(&self, worker: u64, pid: Pid, room: u64) {
        let limits = worker::limits(&self.setup.config, Some(room));
        let bounded = (self.setup.groups.borrow_mut())
            .enclose(pid, limits)
            .and_then(|()| sys::bound_memory(pid, room, sys::Mapped::Bounded));
        if let Err(error) = bounded {
            tracing::error!(worker, "a worker cannot be bounded: {error}");
            sys::kill_now(pid);
        }
    }

    fn started(&mut self, worker: u64, started: worker::Started) {
        self.workers.insert(worker, started.pid);
        let told = Spawned {
            worker,
            pid: started.pid.as_raw(),
            model_sha256: started.digest,
            keeper: started.keeper.map_or(0, Pid::as_raw),
            layers: (self.setup.groups.borrow().layers())
                .map(String::from)
                .collect(),
        };
        self.tell(Tell::Spawned(told), Some(started.connection.as_fd()));
    }

    fn failed(&mut self, told: SpawnFailed) {
        self.rooms.remove(&told.worker);
        // That a template waits was said when it failed.
        if told.wait_ns == 0 {
            tracing::warn!(worker = told.worker, "worker not started: {}", told.reason);
        }
        self.tell(Tell::SpawnFailed(told), None);
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
