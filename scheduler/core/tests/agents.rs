//! Agents of one tenant: what each is charged for an answer before it is there, while it grows, and in the end.
//!
//! One worker holds one lease throughout and ends the request that it was given first, so that order alone decides
//! who is served.

mod sim;

use std::collections::VecDeque;

use bulkhead_core::*;

const TENANT: TenantId = TenantId(1);
const WORKER: WorkerId = WorkerId(1);
const LEASE: LeaseId = LeaseId(1);

struct Worker {
    core: Core,
    now: Nanos,
    held: VecDeque<RequestId>,
    next: u64,
}

impl Worker {
    fn new(batch_tokens_max: u32) -> Self {
        let core = Core::new(Limits {
            batch_tokens_max,
            ..sim::limits()
        });
        let mut worker = Worker {
            core,
            now: 0,
            held: VecDeque::new(),
            next: 0,
        };
        worker.tell(Event::DeviceUp {
            device: sim::DEVICE,
            kind: DeviceKind::Processor,
            lanes: 1,
            workers_max: 1,
        });
        worker.tell(Event::TenantSet {
            tenant: TENANT,
            settings: sim::settings(1),
        });
        worker
    }

    fn tell(&mut self, event: Event) {
        self.now += 1;
        let mut effects = Vec::new();
        self.core.handle(self.now, event, &mut effects);
        for effect in effects {
            if let Effect::Assign { requests, .. } = effect {
                self.held.extend(requests);
            }
        }
    }

    /// An agent's number is in its requests' ids.
    fn submit(&mut self, agent: u32, tokens_out_max: u32) {
        self.next += 1;
        self.tell(Event::Submit(Submission {
            request: RequestId(self.next * 10 + u64::from(agent)),
            tenant: TENANT,
            agent: AgentId(agent),
            model: sim::MODEL,
            tokens_in: 10,
            tokens_out_max,
            bytes: 1,
            deadline: None,
        }));
    }

    fn end_first(&mut self, tokens_out: u32) -> u64 {
        let request = self.held.pop_front().expect("the worker holds nothing");
        self.tell(Event::Finished {
            worker: WORKER,
            request,
            tokens_in: 10,
            tokens_out,
            outcome: Outcome::Ok,
        });
        request.0 % 10
    }

    fn grew(&mut self, request: RequestId, tokens_out: u32) {
        self.tell(Event::Stepped {
            worker: WORKER,
            lease: LEASE,
            tokens: 1,
            kv_bytes: 0,
            answers: vec![(request, tokens_out)],
        });
    }
}

#[test]
fn what_an_answer_may_be_costs_an_agent_nothing_but_what_it_is() {
    // Both answer in 10 tokens; the first always asks for as many as there are.
    let mut worker = Worker::new(10_000);
    for _ in 0..300 {
        worker.submit(1, 4_000);
        worker.submit(2, 20);
    }
    worker.tell(Event::WorkerReady { worker: WORKER });
    let mut served = [0, 0];
    for _ in 0..300 {
        served[worker.end_first(10) as usize - 1] += 1;
    }
    let [first, second]: [i32; 2] = served;
    assert!((first - second).abs() <= 30, "{first} and {second}");
}

#[test]
fn an_answer_that_outgrows_what_was_expected_is_charged_as_it_grows() {
    // Room for one request at a time. Short answers, so that long ones are not expected.
    let mut worker = Worker::new(1_000);
    for _ in 0..400 {
        worker.submit(1, 900);
        worker.submit(2, 900);
    }
    worker.tell(Event::WorkerReady { worker: WORKER });
    for _ in 0..200 {
        worker.end_first(5);
    }
    // One more, and then the other's turn; but this one grows, and has not ended.
    let agent = worker.held[0].0 % 10;
    worker.grew(worker.held[0], 800);
    let mut next = Vec::new();
    // Cancelled, so that what was charged by then stays.
    worker.tell(Event::Cancel {
        request: worker.held[0],
        why: CancelReason::Client,
    });
    let cancelled = worker.held.pop_front().unwrap();
    worker.tell(Event::Finished {
        worker: WORKER,
        request: cancelled,
        tokens_in: 10,
        tokens_out: 0,
        outcome: Outcome::Cancelled,
    });
    for _ in 0..20 {
        next.push(worker.end_first(5));
    }
    assert!(next.iter().all(|one| *one != agent), "{agent}: {next:?}");
}
