//! One template: the process that holds a model, and the workers that it has been asked for.
//!
//! It is not trusted. It sees no request and no tenant, but it has parsed a model's files, so whoever
//! made those may own it. It is believed in one thing alone: that it has loaded. That there is a new
//! worker is said by the worker itself, with its number from the kernel; and it must be a child of this
//! process that nobody knew. A template that says anything else, or takes too long, is ended together
//! with what it has forked and not let go. Nothing here waits; time comes as an argument.

use super::{
    catalog::Opened,
    outcome::{End, Outcome, Why, cut},
    pauses::Identity,
    spares::Spares,
    sys::{self, Ended},
    users::{self, Users},
    worker::{self, How},
};
use bulkhead_proto::{
    internal::{
        Fork, FromTemplate, ModelHeld, ModelLoading, Progress, ToTemplate,
        from_template::Message as Told, model_news::State as Stage, to_template::Message as Ask,
    },
    packet,
};
use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::socket::{AddressFamily, SockFlag, SockType, socketpair},
    unistd::Pid,
};
use std::{
    collections::{BTreeSet, VecDeque},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How long a model may take to load.
const LOAD_MAX: Duration = Duration::from_secs(600);
/// How long a fork may take.
const FORK_MAX: Duration = Duration::from_secs(10);
/// How long a template that has no workers is kept for the next.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Packets taken in one turn, so that a talkative template delays nobody.
const PACKETS_PER_TURN: usize = 64;
/// How often a template may say how far it has come.
const PROGRESS_MAX: u32 = 1024;
/// What a template may be doing while it loads.
const PHASES: [&str; 2] = ["reading", "packing"];

/// A worker that waits for its turn.
struct Waiting {
    worker: u64,
    user: Option<u32>,
    connection: OwnedFd,
    /// The other end, on its way to the worker.
    theirs: OwnedFd,
}

/// What a template is doing.
enum State {
    /// It said so often how far it has come, and last this.
    Loading(u32, ModelLoading),
    Idle,
    Forking(For),
}

/// Whom a template forks for.
enum For {
    Worker(u64, OwnedFd),
    /// Whoever comes next.
    Spare(OwnedFd),
    /// Nobody any more: it was killed meanwhile.
    Nobody,
}

/// A template.
pub struct Template {
    pid: Pid,
    control: OwnedFd,
    model: String,
    digest: String,
    /// Held without workers too, since an operator asked for that.
    kept: bool,
    /// What it has in memory of its own, bytes, once it has loaded.
    resident_bytes: u64,
    state: State,
    /// When the state began, or the last worker ended.
    since: Instant,
    loaded: Option<Instant>,
    waiting: VecDeque<Waiting>,
    spares: Spares,
    /// For its workers.
    users: Users,
    workers: BTreeSet<Pid>,
    why: Option<Why>,
    /// What its model's files were when it was started.
    files: Vec<Identity>,
}

impl Template {
    /// Starts one for a model whose files are open.
    pub fn start(
        how: How<'_>,
        opened: &Opened<'_>,
        block: Option<u32>,
        now: Instant,
    ) -> io::Result<Template> {
        let of = (opened.manifest.name.as_str(), opened.digest);
        let (theirs, control) = packet::pair()?;
        let load = Ask::Load(worker::load(how.config, opened, worker::CPU));
        packet::send(control.as_fd(), &message(load), None)?;
        let mut fds = vec![theirs.as_fd()];
        fds.extend(opened.files.iter().map(AsFd::as_fd));
        let mut arguments = vec!["--template".into()];
        arguments.extend(users::arguments(block));
        let room = worker::room(how.config, 0);
        let limits = worker::limits_loading(how.config, opened, Some(room))?;
        let pid = worker::spawn_in_group(how, of.0, &arguments, &fds, limits)?;
        let template = Template::over(pid, control, of, now);
        let mut template = template.inspect_err(|_| sys::kill_and_wait(pid))?;
        template.files = Identity::of(&opened.files);
        template.spares = Spares::wanting(how.config.worker.spares);
        template.users = Users::of(block);
        Ok(template)
    }

    /// Over the launcher's end of the connection to a process that was told to load.
    pub fn over(
        pid: Pid,
        control: OwnedFd,
        (model, digest): (&str, &str),
        now: Instant,
    ) -> io::Result<Template> {
        fcntl(&control, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        packet::name_senders(control.as_fd())?;
        Ok(Template {
            pid,
            control,
            model: model.to_owned(),
            digest: digest.to_owned(),
            kept: false,
            resident_bytes: 0,
            state: State::Loading(0, ModelLoading::default()),
            since: now,
            loaded: None,
            waiting: VecDeque::new(),
            spares: Spares::default(),
            users: Users::of(None),
            workers: BTreeSet::new(),
            why: None,
            files: Vec::new(),
        })
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// It and its spares: all that is its own.
    pub fn pids(&self) -> impl Iterator<Item = Pid> {
        [self.pid].into_iter().chain(self.spares.pids())
    }

    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What its model's files were when it was started; to be asked once.
    pub fn take_identity(&mut self) -> Vec<Identity> {
        std::mem::take(&mut self.files)
    }

    /// For how long it has been of use; zero where its model is not loaded.
    pub fn life(&self, now: Instant) -> Duration {
        let since = |loaded| now.saturating_duration_since(loaded);
        self.loaded.map_or(Duration::ZERO, since)
    }

    /// What it has come to, for operators.
    pub fn stage(&self) -> Stage {
        match &self.state {
            State::Loading(_, loading) => Stage::Loading(loading.clone()),
            State::Idle | State::Forking(_) => Stage::Held(ModelHeld {
                resident_bytes: self.resident_bytes,
            }),
        }
    }

    /// Whether it is to be held without workers too.
    pub fn keep(&mut self, kept: bool, now: Instant) {
        self.kept = kept;
        self.since = self.since.max(now);
    }

    /// Its connection, to wait on.
    pub fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// A worker that is there already, if one is. Another is forked in its place.
    pub fn take_spare(&mut self, now: Instant) -> Option<(Pid, OwnedFd)> {
        let (pid, connection) = self.spares.take()?;
        self.workers.insert(pid);
        self.go_on(now);
        Some((pid, connection))
    }

    /// Asks for a worker, whose turn comes once the model is loaded.
    pub fn ask(&mut self, worker: u64, now: Instant) -> io::Result<()> {
        let user = self.users.give();
        let (theirs, connection) = connection()?;
        self.waiting.push_back(Waiting {
            worker,
            user,
            connection,
            theirs,
        });
        self.go_on(now);
        Ok(())
    }

    /// Numbers of the workers that were asked for and are not there yet.
    pub fn expected(&self) -> impl Iterator<Item = u64> {
        let forking = match &self.state {
            State::Forking(For::Worker(worker, _)) => Some(*worker),
            _ => None,
        };
        forking
            .into_iter()
            .chain(self.waiting.iter().map(|waiting| waiting.worker))
    }

    /// True while a child may exist that is not known yet.
    pub fn is_forking(&self) -> bool {
        matches!(self.state, State::Forking(_))
    }

    /// A worker that was asked for is not wanted any more.
    pub fn forget(&mut self, worker: u64) {
        self.waiting.retain(|waiting| waiting.worker != worker);
        if let State::Forking(birth) = &mut self.state
            && matches!(birth, For::Worker(number, _) if *number == worker)
        {
            *birth = For::Nobody;
        }
    }

    /// Buries spares that ended.
    pub fn bury_spares(&mut self) {
        self.spares.bury(&self.model);
    }

    /// Its spares, which end with it.
    pub fn take_spares(&mut self) -> impl Iterator<Item = Pid> {
        self.spares.drain()
    }

    /// One of its workers has ended.
    pub fn left(&mut self, worker: Pid, now: Instant) {
        if self.workers.remove(&worker) {
            self.since = self.since.max(now);
        }
    }

    /// When `overdue` will have something to say.
    pub fn wake_at(&self) -> Option<Instant> {
        let span = match self.state {
            State::Loading(..) => LOAD_MAX,
            State::Forking(_) => FORK_MAX,
            State::Idle if self.workers.is_empty() && !self.kept => IDLE_MAX,
            State::Idle => return None,
        };
        Some(self.since + span)
    }

    /// Why it is to end now, if its time is over.
    pub fn overdue(&self, now: Instant) -> Option<Why> {
        (self.wake_at()? <= now).then(|| match self.state {
            State::Loading(..) => Why::failed("the model took too long to load"),
            State::Forking(_) => Why::failed("the template took too long to fork"),
            State::Idle => Why::unneeded("it was not used"),
        })
    }

    /// Takes what it says. `known` has the launcher's children so far, and gets the new ones. An error
    /// is why it is to end.
    pub fn listen(
        &mut self,
        known: &mut BTreeSet<Pid>,
        now: Instant,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), Why> {
        for _ in 0..PACKETS_PER_TURN {
            match packet::recv_packet::<FromTemplate>(self.control.as_fd()) {
                Ok(Some(packet)) => {
                    let sender = packet.sender.map(Pid::from_raw);
                    if self.hear(packet.message, sender, known, now, outcomes)? {
                        self.state = State::Idle;
                        self.since = now;
                        self.go_on(now);
                    }
                }
                // How it ended is known when it is buried.
                Ok(None) => return Err(Why::failed("")),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // It ended before it had read all; what it said before that comes next.
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
                Err(e) => return Err(Why::failed(format!("the template spoke nonsense: {e}"))),
            }
        }
        Ok(())
    }

    /// What it said before it ended, and why that is its end.
    pub fn last_words(
        &mut self,
        known: &mut BTreeSet<Pid>,
        now: Instant,
        outcomes: &mut Vec<Outcome>,
    ) -> Why {
        // It says no more; but what it has forked may hold its connection, and talk on.
        let turns = PROGRESS_MAX as usize / PACKETS_PER_TURN + 1;
        let said = (0..turns).find_map(|_| self.listen(known, now, outcomes).err());
        said.unwrap_or_else(|| Why::failed(""))
    }

    /// True where it is done with what it was doing.
    fn hear(
        &mut self,
        message: FromTemplate,
        sender: Option<Pid>,
        known: &mut BTreeSet<Pid>,
        now: Instant,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<bool, Why> {
        match (message.message, &mut self.state) {
            (Some(Told::Progress(progress)), State::Loading(said, last)) => {
                *said += 1;
                *last = loading(progress)
                    .filter(|_| *said <= PROGRESS_MAX)
                    .ok_or_else(|| Why::failed("the template lied about its progress"))?;
                return Ok(false);
            }
            (Some(Told::Loaded(loaded)), State::Loading(..)) => {
                self.resident_bytes = sys::resident_bytes(self.pid).unwrap_or(0);
                let ms = loaded.load_ns / 1_000_000;
                let (model, pid) = (&self.model, self.pid.as_raw());
                tracing::info!(model, pid, load_ms = ms, "a model is loaded");
                self.loaded = Some(now);
            }
            (Some(Told::Refused(refused)), State::Loading(..)) => {
                return Err(Why::refused(&self.model, refused));
            }
            (Some(Told::Forked(_)), State::Forking(birth)) => {
                let pid = sender
                    .filter(|pid| !known.contains(pid) && sys::is_child(*pid))
                    .ok_or_else(|| Why::failed("the template lied about a worker"))?;
                known.insert(pid);
                match std::mem::replace(birth, For::Nobody) {
                    For::Worker(worker, connection) => {
                        self.workers.insert(pid);
                        outcomes.push(Outcome::Born {
                            worker,
                            pid,
                            connection,
                            digest: self.digest.clone(),
                        });
                    }
                    For::Spare(connection) => {
                        self.spares.add(pid, connection);
                        outcomes.push(Outcome::Ahead { pid });
                    }
                    For::Nobody => outcomes.push(Outcome::Unwanted { pid }),
                }
            }
            (Some(Told::ForkFailed(failed)), State::Forking(birth)) => {
                match std::mem::replace(birth, For::Nobody) {
                    For::Worker(worker, _) => outcomes.push(Outcome::Failed {
                        worker,
                        reason: cut(failed.reason),
                        permanent: false,
                        fault: None,
                    }),
                    // Whoever comes next is told, should it fail for them too.
                    For::Spare(_) => self.spares.enough(),
                    For::Nobody => {}
                }
            }
            _ => return Err(Why::failed("the template spoke out of turn")),
        }
        Ok(true)
    }

    /// Has the next worker forked, if one waits or a spare is due, and nothing else is going on.
    fn go_on(&mut self, now: Instant) {
        if !matches!(self.state, State::Idle) {
            return;
        }
        let (user, theirs, whom) = match self.waiting.pop_front() {
            Some(next) => (
                next.user,
                next.theirs,
                For::Worker(next.worker, next.connection),
            ),
            None if self.spares.is_due() => match connection() {
                Ok((theirs, ours)) => (self.users.give(), theirs, For::Spare(ours)),
                // The machine is short: whoever comes next asks again.
                Err(_) => return,
            },
            None => return,
        };
        // Where it cannot be sent the answer never comes, and that ends the template.
        let fork = message(Ask::Fork(Fork { user }));
        if let Err(e) = packet::send(self.control.as_fd(), &fork, Some(theirs.as_fd())) {
            tracing::error!(pid = self.pid.as_raw(), "a template cannot be reached: {e}");
        }
        self.state = State::Forking(whom);
        self.since = now;
    }

    /// Kills it, and what it has forked that is not a worker yet.
    pub fn end(&mut self, why: Why) {
        if !why.reason.is_empty() {
            tracing::info!(
                pid = self.pid.as_raw(),
                why = why.reason,
                "ending a template"
            );
        }
        self.why.get_or_insert(why);
        sys::kill_group(self.pid);
    }

    /// It has ended: what becomes of those who waited for it.
    pub fn bury(&mut self, how: Ended, outcomes: &mut Vec<Outcome>) {
        let told = self.why.take().filter(|why| !why.reason.is_empty());
        let why = told.unwrap_or_else(|| {
            Why::failed(format!("the process that holds the model ended with {how}"))
        });
        let expected: Vec<_> = self.expected().collect();
        outcomes.extend(expected.into_iter().map(|worker| Outcome::Failed {
            worker,
            reason: why.reason.clone(),
            permanent: why.end == End::Refused,
            fault: why.fault.as_deref().cloned(),
        }));
        let loaded = self.loaded.is_some();
        outcomes.push(Outcome::Dropped {
            model: self.model.clone(),
            reason: if loaded { String::new() } else { why.reason },
            permanent: why.end == End::Refused,
        });
    }
}

/// A worker's connection: its own end, and the scheduler's.
fn connection() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?)
}

/// What it says of its progress, if that can be.
fn loading(progress: Progress) -> Option<ModelLoading> {
    PHASES
        .contains(&progress.phase.as_str())
        .then_some(ModelLoading {
            phase: progress.phase,
            done_bytes: progress.done_bytes,
            total_bytes: progress.total_bytes,
        })
}

fn message(ask: Ask) -> ToTemplate {
    ToTemplate { message: Some(ask) }
}
