//! The driver's side of a worker: its socket, what is known of it, and its end. What it says is heard in `speech`.

use super::{
    Driver,
    ends::{Cause, Ending},
    given::Given,
    hearing::read_frames,
    lease::Lease,
    outbox::Outbox,
    unleased::Unleased,
};
use crate::server::metrics::Held;
use bulkhead_core::{DeviceId, Event, ModelId, Nanos, StartFailure, TenantId, WorkerId};
use bulkhead_proto::{
    frame::{self, FRAME_BYTES_MAX},
    internal::{self, Counters, ScrubReport, ToWorker, to_worker},
};
use std::{io, os::fd::OwnedFd};
use tokio::net::UnixStream;

/// What may wait for a worker that does not read, bytes: a batch of the largest requests. It reads before each step, so
/// what it holds of a batch is more than what it has not read.
const UNREAD_BYTES_MAX: usize = 2 * FRAME_BYTES_MAX;
/// How long a worker may take to load and seal itself, nanoseconds.
const START_NS_MAX: Nanos = 120_000_000_000;

/// What a worker is doing, for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Starting,
    Idle,
    Running,
}

impl State {
    /// The word that operators see.
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Idle => "idle",
            State::Running => "running",
        }
    }
}

pub(super) struct Worker {
    pub tenant: TenantId,
    pub model: ModelId,
    pub device: DeviceId,
    pub pid: i32,
    pub state: State,
    pub seal: Vec<String>,
    /// The process that lends it the model's weights; 0 where none does.
    pub keeper: i32,
    /// What it was assigned, bytes; an operator may have given its tenant another since.
    pub quota_bytes: u64,
    pub held: Held,
    /// What it said last that it had done.
    pub counters: Counters,
    pub lease: Option<Lease>,
    /// What it knows its requests, leases and agents by.
    pub given: Given,
    /// Frames of what it dropped by itself, in this second.
    pub expired: u32,
    /// What it uses without one. `None` before it was assigned, and on a kernel that does not tell.
    pub unleased: Option<Unleased>,
    /// What it was ended for. Nothing that it says is heard any more.
    pub cause: Option<Cause>,
    /// What it said was not zero after a scrub.
    pub residue: Option<ScrubReport>,
    /// It said that no other would do better.
    pub refused_for_good: bool,
    since: Nanos,
    /// `None` before it is spawned and once it is to end.
    outbox: Option<Outbox>,
}

impl Worker {
    pub(super) fn starting(
        tenant: TenantId,
        model: ModelId,
        device: DeviceId,
        since: Nanos,
    ) -> Self {
        Worker {
            tenant,
            model,
            device,
            pid: 0,
            state: State::Starting,
            seal: Vec::new(),
            keeper: 0,
            quota_bytes: 0,
            held: Held::default(),
            counters: Counters::default(),
            lease: None,
            given: Given::default(),
            expired: 0,
            unleased: None,
            cause: None,
            residue: None,
            refused_for_good: false,
            since,
            outbox: None,
        }
    }

    pub(super) fn is_condemned(&self) -> bool {
        self.cause.is_some()
    }

    /// It is to end because of this; the first reason counts.
    pub(super) fn condemn(&mut self, cause: Cause) {
        self.cause.get_or_insert(cause);
        self.outbox = None;
    }
}

impl Driver {
    /// Takes the socket of a worker that was spawned.
    pub(super) fn connect_worker(
        &mut self,
        worker: WorkerId,
        pid: i32,
        socket: OwnedFd,
    ) -> io::Result<()> {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return Ok(());
        };
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        entry.pid = pid;
        entry.outbox = Some(Outbox::new(write));
        tokio::spawn(read_frames(worker, read, self.inbox.clone()));
        Ok(())
    }

    pub(super) fn send(&mut self, worker: WorkerId, message: to_worker::Message) {
        let bytes = frame::encode(&ToWorker {
            message: Some(message),
        });
        let entry = self.workers.get_mut(&worker);
        let Some(outbox) = entry.and_then(|entry| entry.outbox.as_mut()) else {
            return;
        };
        if outbox.put(bytes) {
            self.unsent.push(worker);
        }
        if outbox.unread() > UNREAD_BYTES_MAX {
            self.kill_worker(worker, Cause::Unread);
        }
    }

    /// Writes what was put in the way of workers: the work and the lease for it wake a worker once.
    pub(super) fn flush(&mut self) {
        for worker in self.unsent.drain(..) {
            let entry = self.workers.get_mut(&worker);
            if let Some(outbox) = entry.and_then(|entry| entry.outbox.as_mut()) {
                outbox.flush();
            }
        }
    }

    pub(super) fn set_state(&mut self, worker: WorkerId, state: State) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.state = state;
        }
    }

    /// True where the operator turned the prefix cache on for this model.
    pub(super) fn caches_prefixes(&self, model: ModelId) -> bool {
        let name = self.model_name(model);
        name.is_some_and(|name| self.setup.prefix_cache.iter().any(|one| **one == *name))
    }

    /// Ends workers that do not come to the end of their start.
    pub(super) fn kill_slow_starts(&mut self) {
        let now = self.setup.clock.now_ns();
        let slow = self.workers.iter().filter(|(_, worker)| {
            worker.state == State::Starting && now.saturating_sub(worker.since) > START_NS_MAX
        });
        let slow: Vec<WorkerId> = slow.map(|(id, _)| *id).collect();
        for worker in slow {
            self.kill_worker(worker, Cause::SlowStart);
        }
    }

    /// A worker is no more, or of no more use: its process is killed, should it live on.
    pub(super) fn worker_gone(&mut self, worker: WorkerId) {
        let Some(entry) = self.workers.remove(&worker) else {
            return;
        };
        self.to_launcher(internal::to_launcher::Message::Kill(internal::KillWorker {
            worker: worker.0,
        }));
        let ending = Ending {
            tenant: entry.tenant,
            model: entry.model,
            cause: entry.cause,
            residue: entry.residue,
        };
        self.ending.insert(worker, ending);
        self.let_go(&entry);
        self.close_all_of(worker);
        let event = match entry.state {
            State::Starting => Event::WorkerFailed {
                worker,
                failure: StartFailure::Tried {
                    permanent: entry.refused_for_good,
                },
            },
            State::Idle | State::Running => Event::WorkerDied { worker },
        };
        self.tell(event);
    }
}
