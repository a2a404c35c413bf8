//! A tenant's worker on the engine model: its sequences, and one step after another.
//!
//! It has its own tenant's sequences and no other's. A step is a prefill of what was assigned, which yields the first token
//! of each, or one token for each sequence that runs.

use std::collections::VecDeque;

use bulkhead_core::{LeaseId, RequestId};

use crate::engine::Engine;
use crate::pool::Claim;
use crate::shared::Served;
use crate::workload::Arrival;

/// A worker, with the lane or without.
#[derive(Debug, Default)]
pub(super) struct Worker {
    pub lease: Option<LeaseId>,
    /// Its lane was asked back: no further step.
    pub asked_back: bool,
    /// Assigned, and not read yet.
    new: VecDeque<(RequestId, Arrival)>,
    running: Vec<Sequence>,
    /// From here on it is what the step under way reads.
    first_read: usize,
    steps_since_admission: u32,
}

/// What a step came to.
#[derive(Debug)]
pub(super) struct Did {
    pub tokens: u32,
    /// Output tokens that each answer of the step has by now.
    pub answers: Vec<(RequestId, u32)>,
    /// Those that ended, and their longest pause, ns.
    pub ended: Vec<(RequestId, Served, u64)>,
}

#[derive(Debug)]
struct Sequence {
    id: RequestId,
    arrival: Arrival,
    produced: u32,
    first_token_ns: u64,
    token_ns: u64,
    pause_ns: u64,
}

impl Sequence {
    fn new(id: RequestId, arrival: Arrival) -> Self {
        Sequence {
            id,
            arrival,
            produced: 0,
            first_token_ns: 0,
            token_ns: 0,
            pause_ns: 0,
        }
    }

    fn kv_tokens(&self) -> u64 {
        u64::from(self.arrival.input) + u64::from(self.produced)
    }

    fn claim(&self) -> Claim {
        match self.produced {
            0 => Engine::claim(&self.arrival),
            _ => Claim {
                held: self.kv_tokens(),
                left: u64::from(self.arrival.output.saturating_sub(self.produced)),
            },
        }
    }

    fn produce(&mut self, now_ns: u64) {
        if self.produced == 0 {
            self.first_token_ns = now_ns;
        } else {
            self.pause_ns = self.pause_ns.max(now_ns - self.token_ns);
        }
        self.produced += 1;
        self.token_ns = now_ns;
    }
}

impl Worker {
    pub(super) fn take_in(&mut self, requests: impl Iterator<Item = (RequestId, Arrival)>) {
        self.new.extend(requests);
    }

    /// Nothing is left to run.
    pub(super) fn is_dry(&self) -> bool {
        self.new.is_empty() && self.running.is_empty()
    }

    /// Tokens that its cache holds.
    pub(super) fn kv_tokens(&self) -> u64 {
        self.running.iter().map(Sequence::kv_tokens).sum()
    }

    /// Begins a step and returns how long it takes, ns; none where there is nothing to do.
    pub(super) fn begin(&mut self, engine: &Engine) -> Option<u64> {
        self.first_read = self.running.len();
        let waits = self.steps_since_admission < engine.steps_between_admissions;
        if self.running.is_empty() || !waits {
            let tokens = self.admit(engine);
            if tokens > 0 {
                self.steps_since_admission = 0;
                return Some(engine.prefill_ns(tokens));
            }
        }
        if self.running.is_empty() {
            return None;
        }
        self.first_read = 0;
        self.steps_since_admission += 1;
        Some(engine.decode_ns(self.running.len() as u64, self.kv_tokens()))
    }

    /// Takes in what fits, in the order in which it was assigned, and returns how many prompt tokens that is.
    fn admit(&mut self, engine: &Engine) -> u64 {
        let mut claims: Vec<Claim> = self.running.iter().map(Sequence::claim).collect();
        let mut tokens = 0;
        while let Some(&(id, arrival)) = self.new.front() {
            let prompt = u64::from(arrival.input);
            if tokens + prompt > engine.prefill_tokens_max || !engine.holds(&claims, &arrival) {
                break;
            }
            tokens += prompt;
            claims.push(Engine::claim(&arrival));
            self.new.pop_front();
            self.running.push(Sequence::new(id, arrival));
        }
        tokens
    }

    /// The step under way is done.
    pub(super) fn end(&mut self, now_ns: u64) -> Did {
        let stepped = &mut self.running[self.first_read..];
        stepped.iter_mut().for_each(|one| one.produce(now_ns));
        let read = stepped.iter().filter(|one| one.produced == 1);
        let read: u32 = read.map(|one| one.arrival.input).sum();
        let answers: Vec<(RequestId, u32)> =
            stepped.iter().map(|one| (one.id, one.produced)).collect();
        let tokens = read + answers.len() as u32;
        let done = |one: &mut Sequence| one.produced >= one.arrival.output;
        let ended = self.running.extract_if(self.first_read.., done);
        let ended = ended.map(|one| {
            let served = Served {
                tenant: one.arrival.tenant,
                arrived_ns: one.arrival.at_ns,
                first_token_ns: one.first_token_ns,
                finished_ns: now_ns,
                input: one.arrival.input,
                output: one.arrival.output,
            };
            (one.id, served, one.pause_ns)
        });
        Did {
            tokens,
            answers,
            ended: ended.collect(),
        }
    }
}
