//! The driver: turns every message of the world into an `Event` of the core and every `Effect` into
//! one call. It alone owns the clock.
//!
//! It runs as one task on a thread of its own, so that the core needs no lock and no burst of I/O delays
//! a decision. It never parses what a user sent, and never looks into a prompt: it only carries it from
//! the front door to the worker's socket.

mod closing;
mod counting;
mod effects;
mod ends;
mod forgetting;
mod given;
mod gpus;
mod hearing;
mod launcher;
mod lease;
mod outbox;
mod output;
mod request;
mod speech;
mod status;
mod unleased;
mod worker;

pub use effects::outcome_word;
pub use gpus::{GpuWorkers, GpusWord};
pub use output::Text;
pub use request::{Ended, Job, NewRequest, Update, Usage};
pub use status::Snapshot;

use super::{audit_log::AuditLog, clock::Clock, metrics::TenantLabels};
use bulkhead_core::{
    AgentId, CancelReason, Core, DeviceId, DeviceKind, Effect, End, Event, Limits, ModelId, Nanos,
    RegionId, RequestId, TenantId, TenantSettings, WorkerId,
};
use bulkhead_proto::internal::{FromLauncher, FromWorker, to_launcher};
use request::Request;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::MissedTickBehavior,
};
use worker::Worker;

/// Messages that may wait for the driver; senders wait beyond it.
pub const INBOX_MAX: usize = 16 * 1024;

/// The device that is always there.
pub const CPU: DeviceId = DeviceId(0);
/// The region of this server, and so of all of its devices.
const HERE: RegionId = RegionId(0);

/// What the driver is told.
pub enum Message {
    /// Answered once it counts.
    Tenant(TenantFacts, oneshot::Sender<()>),
    Submit(Box<NewRequest>),
    Cancel {
        request: RequestId,
        why: CancelReason,
    },
    /// Ends all that an agent has, and what is kept of its prompts.
    CancelAgent {
        tenant: TenantId,
        agent: AgentId,
        why: CancelReason,
    },
    /// What a worker said. `slot` is given back once it was heard.
    Worker {
        worker: WorkerId,
        heard: Heard,
        slot: OwnedSemaphorePermit,
    },
    Launcher {
        message: FromLauncher,
        descriptor: Option<OwnedFd>,
    },
    /// What is heard of GPUs.
    Gpus(GpusWord),
    Status(oneshot::Sender<Snapshot>),
    /// A word of the operator's for the launcher.
    ToLauncher(to_launcher::Message),
    /// End the workers of this model, and what holds it for them; answers how many workers there are.
    Unload(String, oneshot::Sender<u32>),
    /// Take nothing new; answers when nothing is open any more.
    Drain(oneshot::Sender<()>),
    /// End what is still open.
    CancelAll,
}

/// What came out of a worker's socket.
pub enum Heard {
    Frame(Box<FromWorker>),
    /// What is no frame; nothing comes after it.
    Nonsense,
    /// The connection has ended.
    End,
}

/// What the driver knows of a tenant.
#[derive(Clone, Debug)]
pub struct TenantFacts {
    pub number: TenantId,
    pub name: Arc<str>,
    /// Of two of the same tenant, the later one has the greater.
    pub generation: u64,
    /// In a worker on the processor, and in one on a GPU.
    pub quota_bytes: u64,
    pub gpu_quota_bytes: u64,
    /// Names of the regions that it is bound to, for its workers to check.
    pub residency: Vec<String>,
    pub settings: TenantSettings,
}

impl TenantFacts {
    /// The bytes that it may have in a worker on this device.
    fn quota_on(&self, device: DeviceId) -> u64 {
        match device {
            CPU => self.quota_bytes,
            _ => self.gpu_quota_bytes,
        }
    }
}

/// What does not change while the server runs.
pub struct Setup {
    pub limits: Limits,
    pub lanes: u32,
    pub workers_max: u32,
    /// None where the operator wants nothing placed on GPUs: they are watched and shown.
    pub gpu_workers: Option<GpuWorkers>,
    pub region: String,
    pub step_limit_ns: u64,
    /// Models whose workers keep prompts' beginnings.
    pub prefix_cache: Vec<String>,
    /// How long they keep what nobody uses.
    pub prefix_cache_idle_ns: u64,
    pub clock: Clock,
    pub labels: TenantLabels,
    /// Where messages to the launcher go.
    pub launcher: mpsc::UnboundedSender<bulkhead_proto::internal::ToLauncher>,
    /// The models that there are, and what was learnt of each.
    pub known: Arc<super::catalog::Catalog>,
    /// Models whose files are not what was installed.
    pub faults: Arc<super::faults::Faults>,
    /// Where ends of workers are recorded.
    pub audit: AuditLog,
}

/// The driver's own state. All maps are bounded by what the core admits.
pub(super) struct Driver {
    core: Core,
    setup: Setup,
    inbox: mpsc::Sender<Message>,
    tenants: BTreeMap<TenantId, TenantFacts>,
    requests: HashMap<RequestId, Request>,
    /// Ended early, and waiting for their worker's evidence.
    closing: HashMap<RequestId, closing::Closing>,
    /// When each of those has waited long enough, earliest first.
    overdue: VecDeque<(Nanos, RequestId)>,
    /// Ended by the core in this turn, and still to be closed: once the lanes have been given on.
    ended: Vec<(RequestId, End, Nanos)>,
    /// What submitters are to hear of this turn, in order: to wake them costs as much as a decision.
    updates: Vec<(mpsc::UnboundedSender<Update>, Update)>,
    workers: HashMap<WorkerId, Worker>,
    /// Those that are not heard any more, until their processes are buried.
    ending: HashMap<WorkerId, ends::Ending>,
    gpus: gpus::Gpus,
    effects: Vec<Effect>,
    /// Workers with frames that are not written yet.
    unsent: Vec<WorkerId>,
    /// Workers that are still to be looked at for what they use without a lease, in this round.
    unlooked: Vec<WorkerId>,
    wake_at: Option<u64>,
    drained: Option<oneshot::Sender<()>>,
    longest_step_ns: u64,
    completed: BTreeMap<TenantId, u64>,
}

/// Starts the driver on a thread of its own and returns its inbox.
pub fn start(setup: Setup) -> std::io::Result<mpsc::Sender<Message>> {
    let (inbox, messages) = mpsc::channel(INBOX_MAX);
    let sender = inbox.clone();
    std::thread::Builder::new()
        .name("driver".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            match runtime {
                Ok(runtime) => runtime.block_on(Driver::new(setup, sender).run(messages)),
                Err(error) => tracing::error!(%error, "the driver cannot start"),
            }
        })?;
    Ok(inbox)
}

impl Driver {
    fn new(setup: Setup, inbox: mpsc::Sender<Message>) -> Self {
        let core = Core::new(setup.limits.clone());
        let mut driver = Driver {
            core,
            setup,
            inbox,
            tenants: BTreeMap::new(),
            requests: HashMap::new(),
            closing: HashMap::new(),
            overdue: VecDeque::new(),
            ended: Vec::new(),
            updates: Vec::new(),
            workers: HashMap::new(),
            ending: HashMap::new(),
            gpus: gpus::Gpus::default(),
            effects: Vec::new(),
            unsent: Vec::new(),
            unlooked: Vec::new(),
            wake_at: None,
            drained: None,
            longest_step_ns: 0,
            completed: BTreeMap::new(),
        };
        let (lanes, workers_max) = (driver.setup.lanes, driver.setup.workers_max);
        driver.tell(Event::DeviceUp {
            device: CPU,
            kind: DeviceKind::Processor,
            region: HERE,
            lanes,
            workers_max,
        });
        driver
    }

    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut shares = tokio::time::interval(Duration::from_secs(1));
        let mut looks = tokio::time::interval(unleased::LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = self.setup.clock.now_ns();
            let next = self.wake_at.into_iter().chain(self.next_overdue()).min();
            let sleep = next.map(|at| Duration::from_nanos(at.saturating_sub(now)));
            tokio::select! {
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => return,
                },
                () = tokio::time::sleep(sleep.unwrap_or_default()), if sleep.is_some() => {
                    self.look_again();
                }
                _ = shares.tick() => {
                    self.report_shares();
                    self.kill_slow_starts();
                    self.check_gpus();
                    self.forget_counts();
                }
                _ = looks.tick() => self.look_at_unleased(),
            }
            self.end_turn();
            if self.requests.is_empty()
                && self.closing.is_empty()
                && let Some(done) = self.drained.take()
            {
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
        }
    }

    /// What nothing waits for as long as there are lanes to give.
    fn end_turn(&mut self) {
        self.flush();
        self.close_ended();
        self.tell_submitters();
    }

    /// A tenant that is new or has changed; of two changes the later one counts.
    fn tenant(&mut self, facts: TenantFacts) {
        let known = self.tenants.get(&facts.number);
        if known.is_some_and(|known| known.generation > facts.generation) {
            return;
        }
        let event = Event::TenantSet {
            tenant: facts.number,
            settings: facts.settings.clone(),
        };
        self.tenants.insert(facts.number, facts);
        self.tell(event);
    }

    fn look_again(&mut self) {
        let now = self.setup.clock.now_ns();
        self.close_overdue(now);
        if self.wake_at.is_some_and(|at| at <= now) {
            self.wake_at = None;
            self.tell(Event::Tick);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Tenant(facts, told) => {
                self.tenant(facts);
                // Whoever asked may have gone.
                let _ = told.send(());
            }
            Message::Submit(new) => self.submit(*new),
            Message::Cancel { request, why } => {
                let of = self.requests.get(&request).map(|r| (r.tenant, r.agent));
                self.tell(Event::Cancel { request, why });
                // It came too late to be found when its agent was revoked.
                if let Some((tenant, agent)) = of.filter(|_| why == CancelReason::Revoked) {
                    self.forget(tenant, agent);
                }
            }
            Message::CancelAgent { tenant, agent, why } => {
                self.tell(Event::CancelAgent { agent, why });
                self.forget(tenant, agent);
            }
            Message::Worker {
                worker,
                heard,
                slot,
            } => {
                self.worker_said(worker, heard);
                drop(slot);
            }
            Message::Launcher {
                message,
                descriptor,
            } => self.launcher_said(message, descriptor),
            Message::Gpus(word) => self.gpus_said(word),
            Message::Status(reply) => {
                let _ = reply.send(self.snapshot());
            }
            Message::ToLauncher(message) => self.to_launcher(message),
            Message::Unload(model, reply) => {
                let _ = reply.send(self.unload(&model));
            }
            Message::Drain(done) => {
                self.drained = Some(done);
                self.tell(Event::Drain);
            }
            Message::CancelAll => {
                let open: Vec<RequestId> = self.requests.keys().copied().collect();
                for request in open {
                    self.tell(Event::Cancel {
                        request,
                        why: CancelReason::Shutdown,
                    });
                }
            }
        }
    }

    /// Tells the core and carries out what it answers. Carrying out may tell it more.
    fn tell(&mut self, event: Event) {
        let now = self.setup.clock.now_ns();
        let mut effects = std::mem::take(&mut self.effects);
        self.core.handle(now, event, &mut effects);
        for effect in effects.drain(..) {
            self.carry_out(now, effect);
        }
        self.flush();
        // Keep the larger buffer, so that a steady state allocates nothing.
        if self.effects.capacity() < effects.capacity() {
            effects.append(&mut self.effects);
            self.effects = effects;
        }
    }

    fn model_name(&self, model: ModelId) -> Option<Arc<str>> {
        self.setup.known.name(model)
    }
}

#[cfg(test)]
#[path = "case_tests.rs"]
mod case;
