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
            region: RegionId(0),
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
        self.submit_text(agent, 30, tokens_out_max);
    }

    fn submit_text(&mut self, agent: u32, bytes: u64, tokens_out_max: u32) {
        self.next += 1;
        self.tell(Event::Submit(Submission {
            request: RequestId(self.next * 10 + u64::from(agent)),
            tenant: TENANT,
            agent: AgentId(agent),
            model: sim::MODEL,
            tokens_in: (bytes / 3) as u32,
            tokens_read_min: (bytes / 3) as u32,
            tokens_out_max,
            bytes,
            deadline: None,
            priority: Priority::default(),
        }));
    }

    /// Ends the request that it was given first, and says whose it was.
    fn end_first(&mut self, tokens_out: u32) -> u64 {
        self.end_first_of(10, tokens_out, Outcome::Ok)
    }

    fn end_first_of(&mut self, tokens_in: u32, tokens_out: u32, outcome: Outcome) -> u64 {
        let request = self.held.pop_front().expect("the worker holds nothing");
        self.tell(Event::Finished {
            worker: WORKER,
            request,
            tokens_in,
            tokens_out,
            outcome,
        });
        request.0 % 10
    }

    /// Its caller hangs up; the worker had computed so much by then.
    fn cancel_first(&mut self, tokens_out: u32) -> u64 {
        self.tell(Event::Cancel {
            request: self.held[0],
            why: CancelReason::Client,
        });
        self.end_first_of(10, tokens_out, Outcome::Cancelled)
    }

    fn grew(&mut self, request: RequestId, tokens_out: u32) {
        self.tell(Event::Stepped {
            worker: WORKER,
            lease: LEASE,
            step_ns: 0,
            tokens: 1,
            kv_bytes: 0,
            answers: vec![(request, tokens_out)],
        });
    }
}

#[test]
fn what_an_answer_may_be_costs_an_agent_nothing_but_what_it_is() {
    // Both answer in 10 tokens; the first always asks for as many as there are.
    let mut worker = Worker::new(500);
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
    // Room for one request of each at a time. Short answers, so that long ones are not expected.
    let mut worker = Worker::new(20);
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
    // Cancelled, and its worker says that there was nothing: what was seen by then stays.
    worker.cancel_first(0);
    for _ in 0..20 {
        next.push(worker.end_first(5));
    }
    assert!(next.iter().all(|one| *one != agent), "{agent}: {next:?}");
}

/// How many of so many turns the first of two agents had, where `turn` ends the request that is first.
fn turns_of_first(worker: &mut Worker, turns: u32, turn: impl Fn(&mut Worker) -> u64) -> u32 {
    (0..turns).map(|_| u32::from(turn(worker) == 1)).sum()
}

/// Both are answered in one token; the callers of the first hang up then. Fails where a request that was cancelled stays
/// charged as it was expected.
#[test]
fn who_hangs_up_pays_for_what_was_computed() {
    let mut worker = Worker::new(100);
    for _ in 0..400 {
        worker.submit(1, 500);
        worker.submit(2, 500);
    }
    worker.tell(Event::WorkerReady { worker: WORKER });
    let first = turns_of_first(&mut worker, 400, |worker| match worker.held[0].0 % 10 {
        1 => worker.cancel_first(1),
        _ => worker.end_first(1),
    });
    assert!((180..=220).contains(&first), "{first} of 400");
}

/// Fails where a request costs no more tokens than were estimated from its bytes.
#[test]
fn text_with_more_tokens_than_estimated_is_paid_for() {
    let mut worker = Worker::new(40);
    for _ in 0..400 {
        worker.submit_text(1, 90, 0);
        worker.submit_text(2, 90, 0);
    }
    worker.tell(Event::WorkerReady { worker: WORKER });
    let first = turns_of_first(&mut worker, 400, |worker| match worker.held[0].0 % 10 {
        1 => worker.end_first_of(90, 0, Outcome::Ok),
        _ => worker.end_first_of(30, 0, Outcome::Ok),
    });
    assert!((90..=110).contains(&first), "{first} of 400");
}

/// Fails where a batch is full for everybody once one agent's long answers have filled it.
#[test]
fn long_answers_leave_room_for_siblings() {
    let mut worker = Worker::new(1_000);
    worker.tell(Event::WorkerReady { worker: WORKER });
    for _ in 0..200 {
        worker.submit(1, 5_000);
    }
    worker.tell(Event::WorkerReady { worker: WORKER });
    for _ in 0..100 {
        worker.end_first(5_000);
    }
    let full = worker.held.len();
    assert_eq!(full, 3, "a quarter of the batch for each answer");
    worker.submit(2, 5_000);
    assert_eq!(worker.held.len(), full + 1, "no room for another's");
}

/// Fails where an agent's lengths are forgotten each time that nothing of it waits.
#[test]
fn an_agent_that_sends_one_at_a_time_is_known() {
    let mut worker = Worker::new(100_000);
    worker.tell(Event::WorkerReady { worker: WORKER });
    for _ in 0..200 {
        for (agent, tokens) in [(1, 2_000), (2, 10)] {
            worker.submit(agent, 4_000);
            if worker.held.is_empty() {
                worker.tell(Event::WorkerReady { worker: WORKER });
            }
            worker.end_first(tokens);
        }
    }
    // Room for forty of the second, were they as long as the mean of both; there are as many as fit.
    for _ in 0..2_000 {
        worker.submit(2, 4_000);
    }
    assert!(worker.held.len() > 500, "{}", worker.held.len());
}

/// Fails where priority is not looked at, or looked at before the agents' order.
#[test]
fn an_agents_batch_waits_for_its_interactive_requests_and_for_nobody_elses() {
    let mut sim = sim::Sim::new(sim::limits(), 1, 1);
    let tenant = sim.tenant(1, 1);
    // It fills the worker, so that all others wait.
    sim.submit(tenant, 1_000);
    let send = |sim: &mut sim::Sim, agent, priority| {
        let mut submission = sim.submission(tenant, 600);
        (submission.agent, submission.priority) = (AgentId(agent), priority);
        sim.offer(submission)
    };
    let batch = [(); 3].map(|()| send(&mut sim, 7, Priority::Batch));
    let interactive = [(); 3].map(|()| send(&mut sim, 7, Priority::Interactive));
    let others = [(); 3].map(|()| send(&mut sim, 8, Priority::Interactive));
    sim.run_until(10 * sim::SECOND);
    let end = |request: &RequestId| sim.ended[request].1;
    let (first_of_batch, last_of_batch) =
        (batch.iter().map(end).min(), batch.iter().map(end).max());
    assert!(interactive.iter().map(end).max() < first_of_batch);
    assert!(
        others.iter().map(end).max() < last_of_batch,
        "its turn all the same"
    );
    assert!(others.iter().map(end).min() < interactive.iter().map(end).max());
}
