//! What a scheduling decision costs: the core alone, with many tenants that all have work, and many requests that wait.
//!
//! Time is virtual, and nothing outside the core runs. A *submit* is one request of a tenant that is backlogged already. A
//! *dispatch* is a worker that gives its lane back, with what it had finished, and the next one that gets it with its batch.

use bulkhead_core::{
    AgentId, Core, DeviceId, DeviceKind, Effect, Event, LeaseId, Limits, ModelId, Nanos, Outcome,
    Pace, Priority, Rate, RegionId, Regions, RequestId, Submission, TenantId, TenantSettings,
    WorkerId,
};
use criterion::{Criterion, criterion_group, criterion_main};
use std::time::{Duration, Instant};

const MODEL: ModelId = ModelId(1);
const MS: Nanos = 1_000_000;
const QUANTUM_NS: Nanos = 20 * MS;
/// Requests of the same size, and so many in a batch.
const TOKENS: u32 = 100;
const BATCH: u32 = 4;

/// A core whose tenants all wait, and the one worker that runs.
struct Busy {
    core: Core,
    now: Nanos,
    next: u64,
    tenants: u32,
    running: (WorkerId, LeaseId),
    asked_back: bool,
    held: Vec<RequestId>,
    effects: Vec<Effect>,
}

impl Busy {
    fn new(tenants: u32, queued: u64) -> Self {
        let limits = Limits {
            queue_bytes_max: 1 << 40,
            tenant_reserved_bytes: 1 << 10,
            batch_tokens_max: BATCH * TOKENS,
            quantum_ns: QUANTUM_NS,
            switch_percent: 0,
            burst_ns: 0,
            release_grace_ns: 50 * MS,
            start_attempts_max: 3,
            unload_after_ns: 0,
            restarts: Pace {
                first_ns: 100 * MS,
                longest_ns: 30_000 * MS,
                good_life_ns: 10_000 * MS,
            },
            backoff_patience_ns: 1_000 * MS,
            seed: 1,
        };
        let mut busy = Busy {
            core: Core::new(limits),
            now: 0,
            next: 0,
            tenants,
            running: (WorkerId(0), LeaseId(0)),
            asked_back: false,
            held: Vec::new(),
            effects: Vec::new(),
        };
        busy.tell(Event::DeviceUp {
            device: DeviceId(1),
            kind: DeviceKind::Processor,
            region: RegionId(0),
            lanes: 1,
            workers_max: tenants,
        });
        for tenant in 0..tenants {
            let settings = TenantSettings {
                weight: 1 + tenant % 3,
                queue_requests_max: u32::MAX,
                open_requests_max: u32::MAX,
                rate: Rate::default(),
                agent_rate: Rate::default(),
                regions: Regions::ANY,
            };
            busy.tell(Event::TenantSet {
                tenant: TenantId(tenant),
                settings,
            });
        }
        for _ in 0..queued {
            let submission = busy.submission();
            busy.tell(submission);
        }
        busy
    }

    fn tell(&mut self, event: Event) {
        self.now += 1;
        self.core.handle(self.now, event, &mut self.effects);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        let mut ready = Vec::new();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::StartWorker { worker, .. } => ready.push(worker),
                Effect::Assign { requests, .. } => self.held.extend(requests),
                Effect::Grant { worker, lease } => self.running = (worker, lease),
                Effect::Yield { .. } => self.asked_back = true,
                _ => {}
            }
        }
        for worker in ready {
            self.tell(Event::WorkerReady { worker });
        }
    }

    /// What the core takes for one event, without what the driver would do of it.
    fn timed(&mut self, event: Event) -> Duration {
        self.now += 1;
        let started = Instant::now();
        self.core.handle(self.now, event, &mut self.effects);
        let took = started.elapsed();
        self.carry_out();
        took
    }

    /// One more request, of each tenant in turn and each of its four agents.
    fn submission(&mut self) -> Event {
        self.next += 1;
        let tenant = (self.next % u64::from(self.tenants)) as u32;
        let turn = (self.next / u64::from(self.tenants) % 4) as u32;
        Event::Submit(Submission {
            request: RequestId(self.next),
            tenant: TenantId(tenant),
            agent: AgentId(tenant * 4 + turn),
            model: MODEL,
            tokens_in: TOKENS,
            tokens_read_min: TOKENS,
            tokens_out_max: 0,
            bytes: 200,
            deadline: self.next.is_multiple_of(2).then_some(Nanos::MAX - 1),
            priority: Priority::default(),
        })
    }

    /// The running worker is asked for its lane and ends what it holds; what comes next is its release.
    fn finish(&mut self) -> Event {
        // It keeps its lane until its tenant has caught up with who waits.
        while !std::mem::take(&mut self.asked_back) {
            self.now += QUANTUM_NS;
            self.tell(Event::Tick);
        }
        let (worker, lease) = self.running;
        for request in std::mem::take(&mut self.held) {
            self.tell(Event::Finished {
                worker,
                request,
                tokens_in: TOKENS,
                tokens_out: 0,
                outcome: Outcome::Ok,
            });
        }
        Event::Released {
            worker,
            lease,
            dry: true,
        }
    }
}

/// The sum of `times` measured parts, each of which comes after a part that is not.
fn measured(times: u64, mut part: impl FnMut() -> Duration) -> Duration {
    (0..times).map(|_| part()).sum()
}

fn decisions(criterion: &mut Criterion) {
    for (tenants, queued) in [
        (10, 1_000),
        (100, 10_000),
        (1_000, 100_000),
        (10_000, 1_000_000),
    ] {
        let mut busy = Busy::new(tenants, queued);
        let name = format!("core/{tenants}_tenants_{queued}_queued");
        let mut group = criterion.benchmark_group(name);
        group.bench_function("submit", |bench| {
            bench.iter_custom(|times| {
                measured(times, || {
                    // As many end as come.
                    if busy.next.is_multiple_of(u64::from(BATCH)) {
                        let release = busy.finish();
                        busy.tell(release);
                    }
                    let submission = busy.submission();
                    busy.timed(submission)
                })
            });
        });
        group.bench_function("dispatch", |bench| {
            bench.iter_custom(|times| {
                measured(times, || {
                    for _ in 0..BATCH {
                        let submission = busy.submission();
                        busy.tell(submission);
                    }
                    let (release, before) = (busy.finish(), busy.running);
                    let took = busy.timed(release);
                    assert_ne!(busy.running, before, "nobody was granted the lane");
                    took
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
