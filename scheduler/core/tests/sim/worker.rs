//! A model worker: it steps through its tokens while it holds a lease, and keeps its word, unless
//! its conduct says otherwise.

use std::collections::VecDeque;

use bulkhead_core::*;

use super::MS;

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct Conduct {
    /// Longest step.
    pub step_ns: Nanos,
    pub ns_per_token: Nanos,
    /// Does not hear yields.
    pub deaf: bool,
    /// Dies at the end of its n-th step.
    pub dies_after_steps: Option<u32>,
    /// Reports this many times the tokens that it did.
    pub boasts: u32,
    /// Answers requests of so many tokens or more that they cannot be run.
    pub refuses_from: Option<u64>,
}

impl Default for Conduct {
    fn default() -> Self {
        Conduct {
            step_ns: 5 * MS,
            ns_per_token: MS / 10,
            deaf: false,
            dies_after_steps: None,
            boasts: 1,
            refuses_from: None,
        }
    }
}

/// What can reach a worker.
#[derive(Clone, Debug)]
pub enum Frame {
    Work(Vec<(RequestId, u64)>),
    Grant(LeaseId),
    Yield(LeaseId),
    Cancel(RequestId),
}

/// What a worker does next.
#[derive(Default)]
pub struct Next {
    pub words: Vec<Event>,
    pub step_ns: Option<Nanos>,
    pub crash: bool,
}

pub struct ModelWorker {
    id: WorkerId,
    conduct: Conduct,
    lease: Option<LeaseId>,
    yielding: bool,
    steps: u32,
    step_tokens: u64,
    work: VecDeque<(RequestId, u64, u64)>,
    cancelled: Vec<RequestId>,
}

impl ModelWorker {
    pub fn new(id: WorkerId, conduct: Conduct) -> Self {
        ModelWorker {
            id,
            conduct,
            lease: None,
            yielding: false,
            steps: 0,
            step_tokens: 0,
            work: VecDeque::new(),
            cancelled: Vec::new(),
        }
    }

    pub fn receive(&mut self, frame: Frame) -> Next {
        match frame {
            Frame::Work(items) => self
                .work
                .extend(items.into_iter().map(|(id, tokens)| (id, tokens, tokens))),
            Frame::Grant(lease) => {
                self.lease = Some(lease);
                self.yielding = false;
                return self.begin_step(Next::default());
            }
            Frame::Yield(lease) => self.yielding |= self.lease == Some(lease),
            Frame::Cancel(request) => self.cancelled.push(request),
        }
        Next::default()
    }

    /// Plans the next step, or gives the lane back.
    fn begin_step(&mut self, mut next: Next) -> Next {
        self.sweep(&mut next);
        let Some(lease) = self.lease else { return next };
        if self.work.is_empty() || (self.yielding && !self.conduct.deaf) {
            self.lease = None;
            next.words.push(Event::Released {
                worker: self.id,
                lease,
                dry: self.work.is_empty(),
            });
            return next;
        }
        let budget = (self.conduct.step_ns / self.conduct.ns_per_token).max(1);
        let left: u64 = self.work.iter().map(|item| item.1).sum();
        self.step_tokens = budget.min(left);
        next.step_ns = Some(self.step_tokens * self.conduct.ns_per_token);
        next
    }

    /// Drops what was cancelled or is refused, at a step boundary.
    fn sweep(&mut self, next: &mut Next) {
        let refuses_from = self.conduct.refuses_from.unwrap_or(u64::MAX);
        let (refused, work): (VecDeque<_>, _) =
            (self.work.drain(..)).partition(|item| item.2 >= refuses_from);
        self.work = work;
        for (request, ..) in refused {
            next.words.push(self.finished(request, 0, Outcome::Invalid));
        }
        for request in std::mem::take(&mut self.cancelled) {
            let before = self.work.len();
            self.work.retain(|item| item.0 != request);
            if self.work.len() < before {
                next.words
                    .push(self.finished(request, 0, Outcome::Cancelled));
            }
        }
    }

    pub fn end_step(&mut self) -> Next {
        let mut next = Next::default();
        let Some(lease) = self.lease else { return next };
        self.steps += 1;
        if self
            .conduct
            .dies_after_steps
            .is_some_and(|n| self.steps >= n)
        {
            next.crash = true;
            return next;
        }
        let tokens = u32::try_from(self.step_tokens)
            .unwrap_or(u32::MAX)
            .saturating_mul(self.conduct.boasts);
        next.words.push(Event::Stepped {
            worker: self.id,
            lease,
            tokens,
            kv_bytes: self.step_tokens,
            answers: Vec::new(),
        });
        let mut left = self.step_tokens;
        while let Some(item) = self.work.front_mut() {
            let done = left.min(item.1);
            item.1 -= done;
            left -= done;
            if item.1 > 0 {
                break;
            }
            let (request, total) = (item.0, item.2);
            self.work.pop_front();
            next.words.push(self.finished(request, total, Outcome::Ok));
        }
        self.begin_step(next)
    }

    fn finished(&self, request: RequestId, tokens: u64, outcome: Outcome) -> Event {
        let tokens_in = u32::try_from(tokens).unwrap_or(u32::MAX);
        Event::Finished {
            worker: self.id,
            request,
            tokens_in,
            tokens_out: 0,
            outcome,
        }
    }
}
