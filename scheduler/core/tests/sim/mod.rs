//! A small deterministic simulator: virtual time, model workers with bounded steps, and checks of
//! what must hold at every single event. It drives the real core and nothing of it is replaced.
//!
//! Frames take `latency_ns` each way and keep their order, so the races of the real thing happen
//! here too: work that meets a worker going dry, cancels that meet results.

#![allow(dead_code)] // Each test file uses a part of it.

mod driver;
mod worker;

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_core::*;
pub use worker::{Conduct, Item, ModelWorker};

pub const MS: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MS;

pub const DEVICE: DeviceId = DeviceId(1);
pub const MODEL: ModelId = ModelId(1);

pub fn limits() -> Limits {
    Limits {
        queue_bytes_max: 1 << 30,
        tenant_reserved_bytes: 1 << 16,
        batch_tokens_max: 1_000,
        quantum_ns: 20 * MS,
        switch_percent: 0,
        burst_ns: 0,
        release_grace_ns: 50 * MS,
        start_attempts_max: 3,
        unload_after_ns: 0,
        restarts: Pace {
            first_ns: 100 * MS,
            longest_ns: 30 * SECOND,
            good_life_ns: 10 * SECOND,
        },
        backoff_patience_ns: SECOND,
        seed: 1,
    }
}

pub fn settings(weight: u32) -> TenantSettings {
    TenantSettings {
        weight,
        queue_requests_max: 100_000,
        open_requests_max: 100_000,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions: Regions::ANY,
    }
}

/// What the world does next.
#[derive(Clone, Debug)]
pub enum Act {
    /// Tells the core something.
    Say(Event),
    /// A frame reaches a worker.
    Frame(WorkerId, worker::Frame),
    /// A worker ends a step.
    Step(WorkerId),
    /// A worker process ends by itself.
    Crash(WorkerId),
    /// Whoever drives the simulator asked to be called.
    Call(usize),
}

/// A start that was asked for.
#[derive(Clone, Copy)]
struct Start {
    tenant: TenantId,
    device: DeviceId,
    since: Nanos,
    /// It has to be charged.
    must: bool,
}

pub struct Sim {
    pub core: Core,
    pub now: Nanos,
    pub latency_ns: Nanos,
    pub start_ns: Nanos,
    /// How long a worker that was killed takes to be gone.
    pub kill_ns: Nanos,
    /// How the workers of a tenant behave; the model worker's own default otherwise.
    pub conduct: BTreeMap<TenantId, Conduct>,
    /// Tenants whose workers never start, and why.
    pub unstartable: BTreeMap<TenantId, StartFailure>,
    /// Starts use the processor that runs the steps: each in progress slows them down by one part.
    pub starts_cost: bool,
    pub workers: BTreeMap<WorkerId, ModelWorker>,
    pub accepted: BTreeMap<RequestId, (TenantId, Nanos)>,
    pub refused: BTreeMap<RequestId, Refusal>,
    pub ended: BTreeMap<RequestId, (End, Nanos)>,
    /// What is over is remembered, and everything that the core has asked for. Without it a run of any length takes
    /// no more memory than what is open.
    pub history: bool,
    /// Where nothing is remembered: requests that ended, or (true) were refused, for whoever drives the simulator to take.
    pub over: Vec<(RequestId, bool)>,
    /// All invariants are checked at every event, or at each of so many.
    pub check_every: u64,
    /// Calls that have come.
    pub calls: Vec<usize>,
    /// Workers that were asked for.
    pub started: u64,
    /// How often each fault has happened.
    pub happened: BTreeMap<&'static str, u64>,
    /// How far the clock has jumped ahead, all together.
    pub jumped_ns: Nanos,
    /// Events that the core was told.
    pub events: u64,
    /// Everything that the core has asked for, with its time.
    pub log: Vec<(Nanos, Effect)>,
    /// Lane time by the simulator's own clock, and what of it was each device's.
    pub lane_ns: BTreeMap<TenantId, Nanos>,
    pub lane_on_ns: BTreeMap<(DeviceId, TenantId), Nanos>,
    pub tokens: BTreeMap<RequestId, u64>,
    /// Whose each request was.
    pub agents_of: BTreeMap<RequestId, AgentId>,
    /// How long an answer will be, where that is not all that it may be.
    pub answers: BTreeMap<RequestId, u32>,
    /// Requests that are submitted again, anew, whenever they end: a closed loop.
    pub loops: BTreeMap<RequestId, (Submission, Nanos)>,
    /// Devices that were said to be down.
    pub down: BTreeSet<DeviceId>,
    /// Requests that went back to their queue.
    pub moved: BTreeSet<RequestId>,
    pub owners: BTreeMap<WorkerId, TenantId>,
    pub places: BTreeMap<WorkerId, DeviceId>,
    submitters: BTreeMap<RequestId, TenantId>,
    pub leases: BTreeMap<WorkerId, (LeaseId, Nanos)>,
    /// Starts that have not come to anything.
    starts: BTreeMap<WorkerId, Start>,
    /// Starts that were charged, and what of it was for each device.
    pub restart_ns: BTreeMap<TenantId, Nanos>,
    pub restart_on_ns: BTreeMap<(DeviceId, TenantId), Nanos>,
    /// Queues whose last worker failed.
    failed: BTreeSet<(TenantId, ModelId)>,
    agenda: BTreeMap<(Nanos, u64), Act>,
    backoffs: BTreeMap<(TenantId, ModelId), Nanos>,
    wake: Option<(Nanos, u64)>,
    serial: u64,
    /// By how much the clock that the core is told is behind.
    back_ns: Nanos,
    /// The latest moment of which the core was told.
    heard: Nanos,
    next_request: u64,
}

impl Sim {
    /// A core with one device.
    pub fn new(limits: Limits, lanes: u32, workers_max: u32) -> Self {
        let mut sim = Sim {
            core: Core::new(limits),
            now: 0,
            latency_ns: 0,
            start_ns: 0,
            kill_ns: 0,
            conduct: BTreeMap::new(),
            unstartable: BTreeMap::new(),
            starts_cost: false,
            workers: BTreeMap::new(),
            accepted: BTreeMap::new(),
            refused: BTreeMap::new(),
            ended: BTreeMap::new(),
            history: true,
            over: Vec::new(),
            calls: Vec::new(),
            started: 0,
            check_every: 1,
            happened: BTreeMap::new(),
            jumped_ns: 0,
            events: 0,
            log: Vec::new(),
            lane_ns: BTreeMap::new(),
            lane_on_ns: BTreeMap::new(),
            tokens: BTreeMap::new(),
            agents_of: BTreeMap::new(),
            answers: BTreeMap::new(),
            loops: BTreeMap::new(),
            down: BTreeSet::new(),
            moved: BTreeSet::new(),
            owners: BTreeMap::new(),
            places: BTreeMap::new(),
            submitters: BTreeMap::new(),
            leases: BTreeMap::new(),
            starts: BTreeMap::new(),
            restart_ns: BTreeMap::new(),
            restart_on_ns: BTreeMap::new(),
            failed: BTreeSet::new(),
            agenda: BTreeMap::new(),
            backoffs: BTreeMap::new(),
            wake: None,
            serial: 0,
            back_ns: 0,
            heard: 0,
            next_request: 1,
        };
        sim.say(Event::DeviceUp {
            device: DEVICE,
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes,
            workers_max,
        });
        sim
    }

    pub fn tenant(&mut self, id: u32, weight: u32) -> TenantId {
        self.say(Event::TenantSet {
            tenant: TenantId(id),
            settings: settings(weight),
        });
        TenantId(id)
    }

    pub fn submission(&mut self, tenant: TenantId, tokens: u32) -> Submission {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        Submission {
            request,
            tenant,
            agent: AgentId(tenant.0),
            model: MODEL,
            tokens_in: tokens,
            tokens_read_min: tokens,
            tokens_out_max: 0,
            bytes: 100,
            deadline: None,
            priority: Priority::default(),
        }
    }

    /// Submits a plain request now.
    pub fn submit(&mut self, tenant: TenantId, tokens: u32) -> RequestId {
        let submission = self.submission(tenant, tokens);
        self.offer(submission)
    }

    pub fn offer(&mut self, submission: Submission) -> RequestId {
        let id = submission.request;
        self.submitters.insert(id, submission.tenant);
        self.agents_of.insert(id, submission.agent);
        let answer = *(self.answers.entry(id)).or_insert(submission.tokens_out_max);
        self.tokens
            .insert(id, u64::from(submission.tokens_in) + u64::from(answer));
        self.say(Event::Submit(submission));
        id
    }

    /// Keeps one request of this size in the core: the next one is sent `pause_ns` after the last.
    pub fn closed_loop(&mut self, tenant: TenantId, tokens: u32, pause_ns: Nanos) {
        let submission = self.submission(tenant, tokens);
        self.loops
            .insert(submission.request, (submission.clone(), pause_ns));
        self.offer(submission);
    }

    pub fn at(&mut self, at: Nanos, act: Act) {
        self.serial += 1;
        self.agenda.insert((at.max(self.now), self.serial), act);
    }

    /// Runs until `end`, or until nothing is left to happen.
    pub fn run_until(&mut self, end: Nanos) {
        self.run_watched(end, |_| {});
    }

    /// The same, and calls `watch` after every act.
    pub fn run_watched(&mut self, end: Nanos, mut watch: impl FnMut(&Sim)) {
        while self.next_at().is_some_and(|at| at <= end) {
            self.step();
            watch(self);
        }
        self.pass_to(end);
    }

    /// When the next act is due.
    pub fn next_at(&self) -> Option<Nanos> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Does the next act.
    pub fn step(&mut self) {
        if let Some(((at, _), act)) = self.agenda.pop_first() {
            self.pass_to(at.max(self.now));
            self.act(act);
        }
    }

    /// Does the next act with a clock that stands still meanwhile, and that tells the core of a moment `back_ns` ago. Not
    /// a wake-up: the driver owes that at the time that was asked for, not before. Nor where the core has not heard of now.
    pub fn step_back(&mut self, back_ns: Nanos) {
        let next = self.agenda.keys().next().copied();
        if next.is_none() || next == self.wake || self.heard < self.now {
            return self.step();
        }
        if let Some((_, act)) = self.agenda.pop_first() {
            self.back_ns = back_ns;
            self.note("the clock went back");
            self.act(act);
            self.back_ns = 0;
        }
    }

    /// The clock jumps ahead. What was due meanwhile is late.
    pub fn jump(&mut self, ns: Nanos) {
        self.note("the clock jumped");
        self.jumped_ns += ns;
        self.pass_to(self.now + ns);
    }

    pub fn note(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    /// Time passes; who holds a lane is served.
    pub fn pass_to(&mut self, at: Nanos) {
        let passed = at - self.now;
        for worker in self.leases.keys() {
            let (tenant, device) = (self.owners[worker], self.places[worker]);
            *self.lane_ns.entry(tenant).or_default() += passed;
            *self.lane_on_ns.entry((device, tenant)).or_default() += passed;
        }
        self.now = at;
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Say(event) => self.say(event),
            Act::Frame(id, frame) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    let next = worker.receive(frame);
                    self.after_worker(id, next);
                }
            }
            Act::Step(id) => {
                if let Some(worker) = self.workers.get_mut(&id) {
                    let next = worker.end_step();
                    self.after_worker(id, next);
                }
            }
            Act::Call(whom) => self.calls.push(whom),
            Act::Crash(id) => {
                if self.workers.remove(&id).is_some() {
                    self.say(Event::WorkerDied { worker: id });
                }
            }
        }
    }

    fn after_worker(&mut self, id: WorkerId, next: worker::Next) {
        for vice in next.vices {
            self.note(vice);
        }
        for event in next.words {
            self.at(self.now + self.latency_ns, Act::Say(event));
        }
        if let Some(step_ns) = next.step_ns {
            let step_ns = step_ns * self.slowed();
            self.at(self.now + step_ns, Act::Step(id));
        }
        if next.crash {
            self.at(self.now, Act::Crash(id));
        }
    }

    fn slowed(&self) -> Nanos {
        let starting = |worker: &WorkerView| worker.state == WorkerState::Starting;
        match self.starts_cost {
            true => 1 + self.core.workers().filter(starting).count() as Nanos,
            false => 1,
        }
    }

    /// Lane time so far, by the simulator's own clock.
    pub fn served(&self, tenant: TenantId) -> Nanos {
        self.lane_ns.get(&tenant).copied().unwrap_or(0)
    }

    /// Of a device.
    pub fn served_on(&self, device: DeviceId, tenant: TenantId) -> Nanos {
        self.lane_on_ns.get(&(device, tenant)).copied().unwrap_or(0)
    }

    /// Accepted and not ended.
    pub fn open(&self) -> usize {
        self.accepted.len() - self.ended.len()
    }

    pub fn count(&self, wanted: impl Fn(&Effect) -> bool) -> usize {
        self.log.iter().filter(|(_, effect)| wanted(effect)).count()
    }

    pub fn end_of(&self, request: RequestId) -> Option<End> {
        self.ended.get(&request).map(|(end, _)| *end)
    }

    pub fn is_ok(&self, request: RequestId) -> bool {
        self.end_of(request) == Some(End::Worker(Outcome::Ok))
    }

    /// The device of its worker that lives.
    pub fn place_of(&self, tenant: TenantId) -> DeviceId {
        let mut workers = self.core.workers().filter(|w| w.tenant == tenant);
        let living = workers.find(|worker| worker.state != WorkerState::Dying);
        living.expect("it has a worker").device
    }
}
