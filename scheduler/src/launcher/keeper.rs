//! One keeper: the process that holds a model's weights in a GPU's memory, and the workers that were given them.
//!
//! It is trusted no more than a template. It sees no request and no tenant, but it has parsed a model's files, so
//! whoever made those may own it. What it says can harm workers of that model alone. One that says nonsense, says too
//! much, takes too long or falls silent is ended, and so are all that were given its memory: nobody would look at that
//! any more. Nothing here waits; time comes as an argument.

use super::{
    catalog::Opened,
    outcome::Why,
    pauses::{Identity, Key},
    sys, users,
    worker::{self, How, On},
};
use bulkhead_proto::{
    internal::{
        FromKeeper, Progress, Refused, SpawnWorker, ToKeeper, WeightsChanged,
        from_keeper::Message as Told, to_keeper::Message as Ask,
    },
    packet::{self, Packet},
};
use nix::{
    fcntl::{FcntlArg, OFlag, SealFlag, fcntl},
    sys::stat::fstat,
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long a model may take to load.
const LOAD_MAX: Duration = Duration::from_secs(600);
/// How long a keeper may say nothing of the memory: six times as long as it says something after.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long one that has no workers is kept for the next.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Packets taken in one turn, so that a talkative keeper delays nobody.
const PACKETS_PER_TURN: usize = 64;
/// How often it may say how far it has come.
const PROGRESS_MAX: u32 = 1024;
/// How often it may say that all is well: so often, and once a second.
const CHECKS_MAX: u64 = 64;
/// The longest table of weights, bytes; as workers have it.
const TABLE_BYTES_MAX: i64 = 4 << 20;

/// What a worker is given.
pub struct Handles {
    /// Where each weight lies, in memory that nobody can change.
    pub table: OwnedFd,
    /// The driver's handle of the memory.
    pub memory: OwnedFd,
    pub memory_bytes: u64,
}

enum State {
    /// It said so often how far it has come.
    Loading(u32),
    /// Its weights have places, and are not lent yet.
    Tabled(OwnedFd),
    /// With how often it has said that all is well.
    Held(Handles, u64),
}

/// A keeper.
pub struct Keeper {
    pid: Pid,
    control: OwnedFd,
    key: Key,
    digest: String,
    state: State,
    /// When it was started, or has loaded.
    since: Instant,
    /// When it spoke last of the memory.
    spoke: Instant,
    /// When its last worker left.
    idle: Instant,
    /// True where its model is not this one any more: it gets no more workers.
    pub retired: bool,
    waiting: Vec<SpawnWorker>,
    given: BTreeMap<u64, Pid>,
    files: Vec<Identity>,
}

impl Keeper {
    /// Starts one for a model whose files are open.
    pub fn start(
        how: How<'_>,
        on: On<'_>,
        key: Key,
        opened: &Opened<'_>,
        (block, now): (Option<u32>, Instant),
    ) -> io::Result<Keeper> {
        let (theirs, control) = packet::pair()?;
        let load = Ask::Load(worker::load_on(how.config, opened, on));
        let load = ToKeeper {
            message: Some(load),
        };
        packet::send(control.as_fd(), &load, None)?;
        let mut fds = vec![theirs.as_fd()];
        fds.extend(opened.files.iter().map(AsFd::as_fd));
        let mut arguments = vec!["--keeper".into()];
        arguments.extend(users::arguments(block));
        let room = worker::room_on(on, worker::room(how.config, 0));
        let limits = worker::limits_loading(how.config, opened, Some(room))?;
        let pid = worker::spawn_in_group(how.on(on), &key.0, &arguments, &fds, limits)?;
        let keeper = Keeper::over(pid, control, key, opened.digest, now);
        let mut keeper = keeper.inspect_err(|_| sys::kill_now(pid))?;
        keeper.files = Identity::of(&opened.files);
        Ok(keeper)
    }

    /// Over the launcher's end of the connection to a process that was told to load.
    pub fn over(
        pid: Pid,
        control: OwnedFd,
        key: Key,
        digest: &str,
        now: Instant,
    ) -> io::Result<Keeper> {
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        Ok(Keeper {
            pid,
            control,
            key,
            digest: digest.to_owned(),
            state: State::Loading(0),
            since: now,
            spoke: now,
            idle: now,
            retired: false,
            waiting: Vec::new(),
            given: BTreeMap::new(),
            files: Vec::new(),
        })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn key(&self) -> &Key {
        &self.key
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// What its model's files were when it was started; to be asked once.
    pub fn take_identity(&mut self) -> Vec<Identity> {
        std::mem::take(&mut self.files)
    }

    /// For how long it has been of use; zero where its model is not loaded.
    pub fn life(&self, now: Instant) -> Duration {
        match self.state {
            State::Held(..) => now.saturating_duration_since(self.since),
            State::Loading(_) | State::Tabled(_) => Duration::ZERO,
        }
    }

    /// What its workers are given, once that is there.
    pub fn handles(&self) -> Option<&Handles> {
        match &self.state {
            State::Held(handles, _) => Some(handles),
            State::Loading(_) | State::Tabled(_) => None,
        }
    }

    /// Has a worker wait until the model is loaded.
    pub fn wait(&mut self, ask: SpawnWorker) {
        self.waiting.push(ask);
    }

    /// Numbers of the workers that wait.
    pub fn expected(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter().map(|ask| ask.worker)
    }

    /// Those that wait; they do not any more.
    pub fn take_waiting(&mut self) -> Vec<SpawnWorker> {
        std::mem::take(&mut self.waiting)
    }

    /// A worker is not wanted any more.
    pub fn forget(&mut self, worker: u64) {
        self.waiting.retain(|ask| ask.worker != worker);
    }

    /// A worker was given its memory.
    pub fn gave(&mut self, worker: u64, pid: Pid) {
        self.given.insert(worker, pid);
    }

    /// A worker has ended.
    pub fn left(&mut self, pid: Pid, now: Instant) {
        let before = self.given.len();
        self.given.retain(|_, given| *given != pid);
        if self.given.len() < before {
            self.idle = now;
        }
    }

    /// When `overdue` will have something to say.
    pub fn wake_at(&self) -> Instant {
        match self.state {
            State::Loading(_) | State::Tabled(_) => self.since + LOAD_MAX,
            State::Held(..) if !self.given.is_empty() => self.spoke + SILENCE_MAX,
            State::Held(..) if self.retired => self.idle,
            State::Held(..) => (self.spoke + SILENCE_MAX).min(self.idle + IDLE_MAX),
        }
    }

    /// Why it is to end now, if its time is over.
    pub fn overdue(&self, now: Instant) -> Option<Why> {
        if self.wake_at() > now {
            return None;
        }
        Some(match self.state {
            State::Loading(_) | State::Tabled(_) => Why::failed("the model took too long to load"),
            State::Held(..) if self.spoke + SILENCE_MAX <= now => {
                Why::failed("the keeper did not say that the weights are what they were")
            }
            State::Held(..) => Why::unneeded("it was not used"),
        })
    }

    /// Takes what it says. An error is why it is to end, and what is to be told of changed weights.
    pub fn listen(&mut self, now: Instant) -> Result<(), (Why, Option<WeightsChanged>)> {
        for _ in 0..PACKETS_PER_TURN {
            match packet::recv_packet::<FromKeeper>(self.control.as_fd()) {
                Ok(Some(packet)) => self.hear(packet, now)?,
                Ok(None) => return Err((Why::failed("the keeper ended"), None)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It ended before it had read all; what it said before that comes next.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) => {
                    let why = format!("the keeper spoke nonsense: {e}");
                    return Err((Why::failed(why), None));
                }
            }
        }
        Ok(())
    }

    fn hear(
        &mut self,
        packet: Packet<FromKeeper>,
        now: Instant,
    ) -> Result<(), (Why, Option<WeightsChanged>)> {
        let lied = |what: &str| (Why::failed(format!("the keeper {what}")), None);
        match (packet.message.message, packet.descriptor, &mut self.state) {
            (Some(Told::Progress(Progress { .. })), None, State::Loading(said)) => {
                *said += 1;
                if *said > PROGRESS_MAX {
                    return Err(lied("talks too much"));
                }
            }
            (Some(Told::TableMade(_)), Some(table), State::Loading(_)) => {
                if !is_unchangeable(&table) {
                    return Err(lied("made a table that can be changed, or is too long"));
                }
                self.state = State::Tabled(table);
            }
            (Some(Told::WeightsHeld(held)), Some(memory), State::Tabled(table)) => {
                let table = table.try_clone().map_err(|_| lied("lost its table"))?;
                let memory_bytes = held.memory_bytes;
                let handles = Handles {
                    table,
                    memory,
                    memory_bytes,
                };
                let (model, device) = (&self.key.0, &self.key.1);
                let load_ms = held.load_ns / 1_000_000;
                tracing::info!(model, device, load_ms, memory_bytes, "weights are shared");
                self.state = State::Held(handles, 0);
                (self.since, self.spoke, self.idle) = (now, now, now);
            }
            (Some(Told::WeightsChecked(_)), None, State::Held(_, said)) => {
                *said += 1;
                let seconds = now.saturating_duration_since(self.since).as_secs();
                if *said > CHECKS_MAX + seconds {
                    return Err(lied("talks too much"));
                }
                self.spoke = now;
            }
            (Some(Told::PieceChanged(piece)), None, State::Held(..)) => {
                let (model, device) = self.key.clone();
                let changed = WeightsChanged {
                    model,
                    device,
                    offset: piece.offset,
                    workers: self.given.keys().copied().collect(),
                };
                let why = "weights that workers share were changed on their GPU";
                return Err((Why::failed(why), Some(changed)));
            }
            (Some(Told::Refused(refused)), None, _) => return Err((self.refused(refused), None)),
            _ => return Err(lied("spoke out of turn")),
        }
        Ok(())
    }

    /// Why it ends, from its own words. Once it has loaded, trying again may help whatever it says.
    fn refused(&self, refused: Refused) -> Why {
        let loaded = matches!(self.state, State::Held(..));
        let permanent = refused.permanent && !loaded;
        Why::refused(
            &self.key.0,
            Refused {
                permanent,
                ..refused
            },
        )
    }

    /// Kills it, and all that have its memory.
    pub fn end(&mut self, why: &Why) {
        let (pid, workers) = (self.pid.as_raw(), self.given.len());
        tracing::info!(pid, why = why.reason, workers, "ending a keeper");
        for worker in std::mem::take(&mut self.given).into_values() {
            sys::kill_now(worker);
        }
        sys::kill_group(self.pid);
    }
}

/// True for memory of the system's that keeps its content and its length, which is not too long.
fn is_unchangeable(table: &OwnedFd) -> bool {
    let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
    let seals = fcntl(table, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
    let length = fstat(table).map(|stat| stat.st_size);
    seals.is_ok_and(|seals| seals.contains(all))
        && length.is_ok_and(|length| (1..=TABLE_BYTES_MAX).contains(&length))
}
