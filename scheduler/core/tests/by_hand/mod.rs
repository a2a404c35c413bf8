//! A core that is driven by hand: each test says what clients and workers do, one event after the other, and nothing
//! happens by itself. Time passes only where a test says so. Every event is followed by a check of all invariants.

#![allow(dead_code)] // Each test file uses a part of it.

use std::collections::BTreeMap;

use bulkhead_core::*;

pub const MS: Nanos = 1_000_000;
pub const SECOND: Nanos = 1_000 * MS;
pub const MINUTE: Nanos = 60 * SECOND;

pub const TENANT: TenantId = TenantId(1);
pub const X: ModelId = ModelId(1);
pub const Y: ModelId = ModelId(2);

pub struct World {
    pub core: Core,
    pub now: Nanos,
    pub held: BTreeMap<WorkerId, Vec<RequestId>>,
    pub refused: BTreeMap<RequestId, Refusal>,
    pub ended: BTreeMap<RequestId, End>,
    pub killed: BTreeMap<WorkerId, KillReason>,
    /// When workers were asked for their lanes.
    pub asked_back: BTreeMap<WorkerId, Nanos>,
    started: Vec<(WorkerId, TenantId, ModelId)>,
    leases: BTreeMap<WorkerId, LeaseId>,
    next: u64,
}

impl World {
    pub fn new(limits: Limits) -> Self {
        let mut world = World {
            core: Core::new(limits),
            now: 0,
            held: BTreeMap::new(),
            refused: BTreeMap::new(),
            ended: BTreeMap::new(),
            killed: BTreeMap::new(),
            asked_back: BTreeMap::new(),
            started: Vec::new(),
            leases: BTreeMap::new(),
            next: 1,
        };
        world.tell(Event::DeviceUp {
            device: DeviceId(1),
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 1,
            workers_max: 16,
        });
        world
    }

    pub fn tenant(&mut self, tenant: TenantId, settings: TenantSettings) {
        self.tell(Event::TenantSet { tenant, settings });
    }

    pub fn tell(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        if let Err(broken) = self.core.check_invariants() {
            panic!("at {} ns: {broken}", self.now);
        }
        for effect in effects {
            match effect {
                Effect::StartWorker {
                    worker,
                    tenant,
                    model,
                    ..
                } => self.started.push((worker, tenant, model)),
                Effect::Assign { worker, requests } => {
                    self.held.entry(worker).or_default().extend(requests);
                }
                Effect::Grant { worker, lease } => drop(self.leases.insert(worker, lease)),
                Effect::Settled { worker, .. } => drop(self.leases.remove(&worker)),
                Effect::Refused { request, refusal } => {
                    self.refused.insert(request, refusal);
                }
                Effect::Ended { request, end } => drop(self.ended.insert(request, end)),
                Effect::KillWorker { worker, why } => drop(self.killed.insert(worker, why)),
                Effect::Yield { worker, .. } => drop(self.asked_back.insert(worker, self.now)),
                _ => {}
            }
        }
    }

    /// The tenant's; its agent is the last two digits of its id.
    pub fn submit(&mut self, agent: u32, model: ModelId, tokens: (u32, u32)) -> RequestId {
        let submission = self.submission(agent, model, tokens);
        self.offer(submission)
    }

    pub fn offer(&mut self, submission: Submission) -> RequestId {
        let request = submission.request;
        self.tell(Event::Submit(submission));
        request
    }

    pub fn submission(
        &mut self,
        agent: u32,
        model: ModelId,
        (tokens_in, tokens_out_max): (u32, u32),
    ) -> Submission {
        let request = RequestId(self.next * 100 + u64::from(agent));
        self.next += 1;
        Submission {
            request,
            tenant: TENANT,
            agent: AgentId(agent),
            model,
            tokens_in,
            tokens_read_min: tokens_in,
            tokens_out_max,
            bytes: u64::from(tokens_in) * 3,
            deadline: None,
            priority: Priority::default(),
        }
    }

    /// The latest worker of the tenant for a model, ready from now on.
    pub fn ready(&mut self, model: ModelId) -> WorkerId {
        self.ready_of(TENANT, model)
    }

    pub fn ready_of(&mut self, tenant: TenantId, model: ModelId) -> WorkerId {
        let of = |one: &&(WorkerId, TenantId, ModelId)| (one.1, one.2) == (tenant, model);
        let worker = self.started.iter().rev().find(of).expect("none started").0;
        self.tell(Event::WorkerReady { worker });
        worker
    }

    /// Who holds the one lane.
    pub fn holder(&self) -> WorkerId {
        *self.leases.keys().next().expect("nobody does")
    }

    pub fn first_held(&self, worker: WorkerId) -> RequestId {
        self.held[&worker][0]
    }

    pub fn holds(&self, worker: WorkerId, request: RequestId) -> bool {
        self.held
            .get(&worker)
            .is_some_and(|held| held.contains(&request))
    }

    pub fn step(&mut self, worker: WorkerId, tokens: u32, answers: Vec<(RequestId, u32)>) {
        self.tell(Event::Stepped {
            worker,
            lease: self.leases[&worker],
            step_ns: 0,
            tokens,
            kv_bytes: 0,
            answers,
        });
    }

    pub fn finish(
        &mut self,
        worker: WorkerId,
        request: RequestId,
        (tokens_in, tokens_out): (u32, u32),
        outcome: Outcome,
    ) {
        let held = self.held.get_mut(&worker).expect("it holds nothing");
        held.retain(|one| *one != request);
        self.tell(Event::Finished {
            worker,
            request,
            tokens_in,
            tokens_out,
            outcome,
        });
    }

    /// Its caller hangs up.
    pub fn hang_up(&mut self, request: RequestId) {
        self.tell(Event::Cancel {
            request,
            why: CancelReason::Client,
        });
    }

    pub fn release(&mut self, worker: WorkerId) {
        self.tell(Event::Released {
            worker,
            lease: self.leases[&worker],
            dry: true,
        });
    }

    pub fn die(&mut self, worker: WorkerId) {
        self.held.remove(&worker);
        self.tell(Event::WorkerDied { worker });
    }
}

/// Whose request this is.
pub fn agent_of(request: RequestId) -> u64 {
    request.0 % 100
}
