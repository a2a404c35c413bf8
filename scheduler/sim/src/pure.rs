//! One engine whose batch is one tenant's at a time: how Bulkhead runs, decided by the core itself.
//!
//! Each client of a workload is a tenant with a worker of its own, and one lane is shared by all. What a turn has is the whole
//! pool: the cache of answers that pause leaves it as far as another's needs the room, over the bus into the host's memory,
//! and comes back the same way; that takes lane time. The core here is the server's, told what the server's would be told,
//! and it knows no output length. Nothing is lost or cut off, and no batch ever holds two tenants' sequences, as a worker
//! has none but its own.

mod pages;
mod worker;

use std::collections::BTreeMap;

use bulkhead_core::{
    AgentId, Core, DeviceId, DeviceKind, Effect, Event, Limits, ModelId, Pace, Priority, Rate,
    RegionId, Regions, RequestId, Submission, TenantId, TenantSettings, WorkerId,
};

use crate::engine::Engine;
use crate::shared::Outcome;
use crate::workload::{Arrival, Workload};
use pages::Pages;
use worker::{Did, Worker};

const DEVICE: DeviceId = DeviceId(1);
const MODEL: ModelId = ModelId(1);
/// More than any bound of the queue that is not what is looked at here.
const PLENTY: u32 = 1 << 30;
const SECOND_NS: u64 = 1_000_000_000;

/// What an operator can move along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turns {
    /// The longest turn while others wait, lane time in ns.
    pub quantum_ns: u64,
    /// Turns are shortened until changing hands takes so much of them, percent; 0: each is a whole quantum.
    pub switch_percent: u32,
    /// Lane time that who had nothing to run may have before others have had as much, ns.
    pub burst_ns: u64,
    /// Lane time for each cached token that goes to the host's memory or comes from it, ns.
    pub page_token_ns: u64,
}

impl Turns {
    /// Turns of this length on the A10G: half a megabyte a token of Llama-2-7B, at 20 GB/s.
    pub const fn a10g(quantum_ns: u64, burst_ns: u64) -> Self {
        Turns {
            quantum_ns,
            switch_percent: 0,
            burst_ns,
            page_token_ns: 26_000,
        }
    }
}

/// What became of a workload, and what it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PureOutcome {
    /// What was served and refused.
    pub outcome: Outcome,
    /// The longest time between two tokens of each answer that was served, ns, in the order of `outcome.served`.
    pub pauses_ns: Vec<u64>,
    /// Turns that the lane was given for.
    pub turns: u64,
    /// Lane time that went into moving caches, ns.
    pub paging_ns: u64,
    /// The most tokens that caches ever held in the host's memory.
    pub host_tokens_max: u64,
}

/// Runs a workload to its end.
pub fn run_pure(engine: &Engine, turns: Turns, workload: &Workload) -> PureOutcome {
    let mut run = Run::new(engine, turns, workload);
    while run.next() {}
    run.told
}

struct Run<'a> {
    engine: &'a Engine,
    arrivals: &'a [Arrival],
    /// How many of `arrivals` have been taken in.
    arrived: usize,
    now_ns: u64,
    core: Core,
    wake_ns: Option<u64>,
    workers: BTreeMap<WorkerId, Worker>,
    /// Who holds the lane, and when its step is done, and how long that takes without what it has to move.
    running: Option<(WorkerId, u64, u64)>,
    pages: Pages,
    told: PureOutcome,
}

impl<'a> Run<'a> {
    fn new(engine: &'a Engine, turns: Turns, workload: &'a Workload) -> Self {
        let mut run = Run {
            engine,
            arrivals: &workload.arrivals,
            arrived: 0,
            now_ns: 0,
            core: Core::new(limits(engine, turns)),
            wake_ns: None,
            workers: BTreeMap::new(),
            running: None,
            pages: Pages::new(engine.kv_tokens_max, turns.page_token_ns),
            told: PureOutcome::default(),
        };
        run.tell(Event::DeviceUp {
            device: DEVICE,
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 1,
            workers_max: u32::try_from(workload.tenants).unwrap_or(u32::MAX),
        });
        for arrival in &workload.arrivals {
            run.tell(Event::TenantSet {
                tenant: TenantId(arrival.tenant),
                settings: settings(),
            });
        }
        run
    }

    /// What comes next: a step's end, an arrival, or a time that the core wanted to be told of. False at the end.
    fn next(&mut self) -> bool {
        let step = self.running.map(|(_, done_ns, _)| done_ns);
        let arrival = self.arrivals.get(self.arrived).map(|next| next.at_ns);
        let Some(at_ns) = [step, arrival, self.wake_ns].into_iter().flatten().min() else {
            return false;
        };
        self.now_ns = self.now_ns.max(at_ns);
        if step == Some(at_ns) {
            self.step_done();
        } else if arrival == Some(at_ns) {
            self.arrive();
        } else {
            self.wake_ns = None;
            self.tell(Event::Tick);
        }
        true
    }

    fn arrive(&mut self) {
        let arrival = self.arrivals[self.arrived];
        let request = RequestId(self.arrived as u64);
        self.arrived += 1;
        if !self.engine.can_run(&arrival) {
            self.told.outcome.rejected.push(arrival);
            return;
        }
        self.tell(Event::Submit(Submission {
            request,
            tenant: TenantId(arrival.tenant),
            agent: AgentId(arrival.tenant),
            model: MODEL,
            tokens_in: arrival.input,
            tokens_read_min: arrival.input,
            tokens_out_max: PLENTY,
            bytes: 4 * u64::from(arrival.input),
            deadline: None,
            priority: Priority::Interactive,
        }));
    }

    fn tell(&mut self, event: Event) {
        let mut effects = Vec::new();
        self.core.handle(self.now_ns, event, &mut effects);
        effects
            .into_iter()
            .for_each(|effect| self.carry_out(effect));
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::StartWorker { worker, .. } => {
                self.workers.insert(worker, Worker::default());
                self.tell(Event::WorkerReady { worker });
            }
            Effect::Assign { worker, requests } => {
                let known = self.workers.get_mut(&worker).expect("it was started");
                let arrivals = requests.into_iter();
                known.take_in(arrivals.map(|id| (id, self.arrivals[id.0 as usize])));
            }
            Effect::Grant { worker, lease } => {
                let known = self.workers.get_mut(&worker).expect("it was started");
                known.lease = Some(lease);
                self.told.turns += 1;
                self.begin_step(worker);
            }
            Effect::Yield { worker, .. } => {
                let known = self.workers.get_mut(&worker).expect("it was started");
                known.asked_back = true;
            }
            Effect::WakeAt { at } => self.wake_ns = Some(at),
            Effect::Refused { request, .. } => {
                let arrival = self.arrivals[request.0 as usize];
                self.told.outcome.rejected.push(arrival);
            }
            Effect::Accepted { .. } | Effect::Settled { .. } | Effect::Ended { .. } => {}
            other => unreachable!("no worker here breaks its word or is stopped: {other:?}"),
        }
    }

    /// The next step of who holds the lane, or the lane back.
    fn begin_step(&mut self, id: WorkerId) {
        let worker = self.workers.get_mut(&id).expect("it was started");
        let step_ns = match worker.asked_back {
            true => None,
            false => worker.begin(self.engine),
        };
        let Some(step_ns) = step_ns else {
            let lease = worker.lease.take().expect("it holds the lane");
            worker.asked_back = false;
            let dry = worker.is_dry();
            self.running = None;
            return self.tell(Event::Released {
                worker: id,
                lease,
                dry,
            });
        };
        let paging_ns = self.pages.bring(id, worker.kv_tokens());
        self.told.paging_ns += paging_ns;
        self.told.host_tokens_max = self.told.host_tokens_max.max(self.pages.host_tokens());
        let done_ns = self
            .now_ns
            .saturating_add(step_ns)
            .saturating_add(paging_ns);
        self.running = Some((id, done_ns, step_ns));
    }

    fn step_done(&mut self) {
        let Some((id, _, step_ns)) = self.running.take() else {
            return;
        };
        let worker = self.workers.get_mut(&id).expect("it was started");
        let lease = worker.lease.expect("it holds the lane");
        let Did {
            tokens,
            answers,
            ended,
        } = worker.end(self.now_ns);
        let kv_tokens = worker.kv_tokens();
        self.pages.holds(id, kv_tokens);
        let outcome = &mut self.told.outcome;
        outcome.kv_held_max = outcome.kv_held_max.max(kv_tokens);
        self.tell(Event::Stepped {
            worker: id,
            lease,
            step_ns,
            tokens,
            kv_bytes: 0,
            answers,
        });
        for (request, served, pause_ns) in ended {
            self.told.outcome.served.push(served);
            self.told.pauses_ns.push(pause_ns);
            self.tell(Event::Finished {
                worker: id,
                request,
                tokens_in: served.input,
                tokens_out: served.output,
                outcome: bulkhead_core::Outcome::Ok,
            });
        }
        self.begin_step(id);
    }
}

fn limits(engine: &Engine, turns: Turns) -> Limits {
    Limits {
        queue_bytes_max: u64::MAX,
        tenant_reserved_bytes: 0,
        batch_tokens_max: u32::try_from(engine.kv_tokens_max).unwrap_or(u32::MAX),
        quantum_ns: turns.quantum_ns,
        switch_percent: turns.switch_percent,
        burst_ns: turns.burst_ns,
        // Nobody here keeps a lane: a step and what it has to move are let go on.
        release_grace_ns: 3_600 * SECOND_NS,
        start_attempts_max: 1,
        unload_after_ns: 0,
        restarts: Pace {
            first_ns: SECOND_NS,
            longest_ns: SECOND_NS,
            good_life_ns: SECOND_NS,
        },
        backoff_patience_ns: SECOND_NS,
        seed: 0,
    }
}

fn settings() -> TenantSettings {
    TenantSettings {
        weight: 1,
        queue_requests_max: PLENTY,
        open_requests_max: PLENTY,
        rate: Rate::default(),
        agent_rate: Rate::default(),
        regions: Regions::ANY,
    }
}
