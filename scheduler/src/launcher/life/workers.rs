//! What the scheduler may ask about workers, and what it is told of them: that one is there, will not be, or has ended
//! before it was.
//!
//! What it asks for is checked each time, and nothing is handed over that has not its bounds. Nothing here waits.

use super::{Life, Setup};
use crate::launcher::{
    keepers::News,
    outcome::Outcome,
    sys,
    worker::{self, Kind, SpawnError},
};
use bulkhead_proto::internal::{
    Exited, SpawnFailed, SpawnWorker, Spawned, from_launcher::Message as Tell,
};
use nix::unistd::Pid;
use std::{os::fd::AsFd, time::Instant};

/// Workers that may be ending while their successors start.
const WORKERS_SPARE: usize = 4;

impl Life<'_> {
    pub(super) fn kill(&mut self, worker: u64) {
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

    pub(super) fn spawn(&mut self, ask: &SpawnWorker, now: Instant) {
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
    pub(super) fn hear_keepers(&mut self, now: Instant) {
        for news in self.keepers.tick(now) {
            match news {
                News::Ready(ask) => self.spawn(&ask, now),
                News::Failed(told) => self.failed(told),
                News::Changed(told) => self.tell(Tell::WeightsChanged(told), None),
            }
        }
    }

    /// Tells what became of workers that templates were asked for.
    pub(super) fn settle(&mut self, outcomes: Vec<Outcome>) {
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
}
