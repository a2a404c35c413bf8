//! One engine with one batch that all tenants share: continuous batching as VTC assumes it.
//!
//! This is the comparison and not how Bulkhead runs: here the sequences of several tenants lie in
//! one batch. The loop runs until every arrival is served or rejected; nothing is cut off.

use crate::engine::Engine;
use crate::policy::{Policy, Request, Verdict};
use crate::pool::Claim;
use crate::workload::{Arrival, Workload};

/// A request that ran to its end. Times are ns since the start of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// Whose it was.
    pub tenant: u32,
    /// When it arrived.
    pub arrived_ns: u64,
    /// When its prefill ended, which yields the first token.
    pub first_token_ns: u64,
    /// When its last token was there.
    pub finished_ns: u64,
    /// Prompt tokens.
    pub input: u32,
    /// Tokens of output.
    pub output: u32,
}

/// What became of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Those that ran, in the order in which they finished.
    pub served: Vec<Served>,
    /// Those that the policy refused, or that the engine could never run.
    pub rejected: Vec<Arrival>,
    /// The most tokens that the KV pool ever held.
    pub kv_held_max: u64,
}

/// Runs a workload to its end on one engine under one policy.
pub fn run(engine: &Engine, workload: &Workload, policy: &mut dyn Policy) -> Outcome {
    let mut run = Run {
        engine,
        policy,
        arrivals: &workload.arrivals,
        arrived: 0,
        now_ns: 0,
        batch: Vec::new(),
        steps_since_admission: 0,
        outcome: Outcome::default(),
    };
    while run.step() {}
    run.outcome
}

struct Run<'a> {
    engine: &'a Engine,
    policy: &'a mut dyn Policy,
    arrivals: &'a [Arrival],
    /// How many of `arrivals` have been taken in.
    arrived: usize,
    now_ns: u64,
    batch: Vec<Running>,
    steps_since_admission: u32,
    outcome: Outcome,
}

struct Running {
    request: Request,
    first_token_ns: u64,
    /// Tokens of output so far.
    produced: u32,
}

impl Running {
    fn kv_tokens(&self) -> u64 {
        u64::from(self.request.arrival.input) + u64::from(self.produced)
    }

    fn claim(&self) -> Claim {
        Claim {
            held: self.kv_tokens(),
            left: u64::from(self.request.arrival.output.saturating_sub(self.produced)),
        }
    }

    fn is_finished(&self) -> bool {
        self.produced >= self.request.arrival.output
    }
}

impl Run<'_> {
    /// One prefill, one decode step, or one wait for the next arrival; false at the end.
    fn step(&mut self) -> bool {
        self.take_arrivals();
        if self.may_admit() && self.prefill() {
            return true;
        }
        if self.batch.is_empty() {
            return self.wait();
        }
        self.decode();
        true
    }

    fn take_arrivals(&mut self) {
        while let Some(&arrival) = self.arrivals.get(self.arrived)
            && arrival.at_ns <= self.now_ns
        {
            let request = Request {
                index: self.arrived,
                arrival,
            };
            self.arrived += 1;
            let runs = self.engine.can_run(&arrival);
            if !runs || self.policy.arrive(request) == Verdict::Rejected {
                self.outcome.rejected.push(arrival);
            }
        }
    }

    fn may_admit(&self) -> bool {
        self.batch.is_empty() || self.steps_since_admission >= self.engine.steps_between_admissions
    }

    /// Admits what fits, in the policy's order, and prefills it as one mini-batch. Decoding waits
    /// meanwhile. False if nothing was admitted.
    fn prefill(&mut self) -> bool {
        let admitted = self.admit();
        let tokens = admitted.iter().map(|r| u64::from(r.arrival.input)).sum();
        if admitted.is_empty() {
            return false;
        }
        self.now_ns = self.now_ns.saturating_add(self.engine.prefill_ns(tokens));
        self.steps_since_admission = 0;
        let first = self.batch.len();
        let first_token_ns = self.now_ns;
        self.batch
            .extend(admitted.into_iter().map(|request| Running {
                request,
                first_token_ns,
                produced: 0,
            }));
        self.produce(first);
        true
    }

    fn admit(&mut self) -> Vec<Request> {
        let mut claims = self.batch.iter().map(Running::claim).collect::<Vec<_>>();
        let mut prompt_tokens = 0;
        let mut admitted = Vec::new();
        while let Some(request) = self.policy.admit(&|head| {
            prompt_tokens + u64::from(head.input) <= self.engine.prefill_tokens_max
                && self.engine.holds(&claims, head)
        }) {
            prompt_tokens += u64::from(request.arrival.input);
            claims.push(Engine::claim(&request.arrival));
            admitted.push(request);
        }
        admitted
    }

    fn decode(&mut self) {
        let kv_tokens = self.batch.iter().map(Running::kv_tokens).sum();
        let step_ns = self.engine.decode_ns(self.batch.len() as u64, kv_tokens);
        self.now_ns = self.now_ns.saturating_add(step_ns);
        self.steps_since_admission += 1;
        self.produce(0);
    }

    /// One token for each sequence from `first` on; those that end leave the batch.
    fn produce(&mut self, first: usize) {
        for running in &mut self.batch[first..] {
            running.produced += 1;
            self.policy.produced(&running.request, running.produced);
        }
        let held = self.batch.iter().map(Running::kv_tokens).sum();
        self.outcome.kv_held_max = self.outcome.kv_held_max.max(held);
        for done in self.batch.extract_if(first.., |r| r.is_finished()) {
            self.policy.finished(&done.request);
            let arrival = done.request.arrival;
            self.outcome.served.push(Served {
                tenant: arrival.tenant,
                arrived_ns: arrival.at_ns,
                first_token_ns: done.first_token_ns,
                finished_ns: self.now_ns,
                input: arrival.input,
                output: arrival.output,
            });
        }
    }

    /// Moves to the next arrival; false if there is none.
    fn wait(&mut self) -> bool {
        let next = self.arrivals.get(self.arrived);
        self.now_ns = next.map_or(self.now_ns, |arrival| arrival.at_ns);
        next.is_some()
    }
}
