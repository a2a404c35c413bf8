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
    /// Reports this many times the tokens that it did, and the time that a step took.
    pub boasts: u32,
    /// Reports one token for this many that it did, and as small a part of the time.
    pub understates: u32,
    /// Every n-th step takes so much longer than it may.
    pub overruns: Option<(u32, Nanos)>,
    /// Gives every n-th lease back at once, with work in hand; 0 for none.
    pub idles_every: u32,
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
            understates: 1,
            overruns: None,
            idles_every: 0,
            refuses_from: None,
        }
    }
}

/// A request, as its worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    pub request: RequestId,
    pub tokens: u64,
    /// Of which so many are its answer, the last of them.
    pub answer: u64,
    pub left: u64,
}

impl Item {
    /// How long its answer is by now.
    fn answered(&self) -> u64 {
        self.answer.saturating_sub(self.left)
    }
}

/// What can reach a worker.
#[derive(Clone, Debug)]
pub enum Frame {
    Work(Vec<Item>),
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
    /// What it did that it should not have.
    pub vices: Vec<&'static str>,
}

pub struct ModelWorker {
    id: WorkerId,
    conduct: Conduct,
    lease: Option<LeaseId>,
    yielding: bool,
    steps: u32,
    grants: u32,
    step_tokens: u64,
    step_ns: Nanos,
    work: VecDeque<Item>,
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
            grants: 0,
            step_tokens: 0,
            step_ns: 0,
            work: VecDeque::new(),
            cancelled: Vec::new(),
        }
    }

    pub fn receive(&mut self, frame: Frame) -> Next {
        match frame {
            Frame::Work(items) => self.work.extend(items),
            Frame::Grant(lease) => {
                self.lease = Some(lease);
                self.yielding = false;
                self.grants += 1;
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
        let idles = self.idles() && !self.work.is_empty();
        if idles {
            next.vices.push("idled");
        }
        if idles || self.work.is_empty() || (self.yielding && !self.conduct.deaf) {
            self.lease = None;
            next.words.push(Event::Released {
                worker: self.id,
                lease,
                dry: self.work.is_empty(),
            });
            return next;
        }
        let budget = (self.conduct.step_ns / self.conduct.ns_per_token).max(1);
        let left: u64 = self.work.iter().map(|item| item.left).sum();
        self.step_tokens = budget.min(left);
        let mut step_ns = self.step_tokens * self.conduct.ns_per_token;
        if let Some((every, extra_ns)) = self.conduct.overruns
            && self.steps % every == every - 1
        {
            step_ns += extra_ns;
            next.vices.push("overran");
        }
        self.step_ns = step_ns;
        next.step_ns = Some(step_ns);
        next
    }

    fn idles(&self) -> bool {
        let every = self.conduct.idles_every;
        every > 0 && self.grants.is_multiple_of(every)
    }

    /// Drops what was cancelled or is refused, at a step boundary.
    fn sweep(&mut self, next: &mut Next) {
        let refuses_from = self.conduct.refuses_from.unwrap_or(u64::MAX);
        let (refused, work): (VecDeque<_>, _) =
            (self.work.drain(..)).partition(|item| item.tokens >= refuses_from);
        self.work = work;
        for item in refused {
            next.vices.push("refused");
            next.words
                .push(self.finished(item.request, (0, 0), Outcome::Invalid));
        }
        for request in std::mem::take(&mut self.cancelled) {
            let before = self.work.len();
            self.work.retain(|item| item.request != request);
            if self.work.len() < before {
                next.words
                    .push(self.finished(request, (0, 0), Outcome::Cancelled));
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
            next.vices.push("died");
            return next;
        }
        let (tokens, step_ns) = (self.claimed(self.step_tokens), self.claimed(self.step_ns));
        let (mut left, mut done, mut answers) = (self.step_tokens, Vec::new(), Vec::new());
        while let Some(item) = self.work.front_mut() {
            let step = left.min(item.left);
            item.left -= step;
            left -= step;
            if item.left > 0 {
                if step > 0 && item.answered() > 0 {
                    answers.push((item.request, clamp(item.answered())));
                }
                break;
            }
            let Item {
                request,
                tokens,
                answer,
                ..
            } = *item;
            self.work.pop_front();
            done.push(self.finished(request, (tokens - answer, answer), Outcome::Ok));
        }
        next.words.push(Event::Stepped {
            worker: self.id,
            lease,
            step_ns,
            tokens: clamp(tokens),
            kv_bytes: self.step_tokens,
            answers,
        });
        next.words.append(&mut done);
        self.begin_step(next)
    }

    fn claimed(&self, truth: u64) -> u64 {
        truth * u64::from(self.conduct.boasts) / u64::from(self.conduct.understates.max(1))
    }

    fn finished(
        &self,
        request: RequestId,
        (tokens_in, tokens_out): (u64, u64),
        outcome: Outcome,
    ) -> Event {
        Event::Finished {
            worker: self.id,
            request,
            tokens_in: clamp(tokens_in),
            tokens_out: clamp(tokens_out),
            outcome,
        }
    }
}

fn clamp(tokens: u64) -> u32 {
    u32::try_from(tokens).unwrap_or(u32::MAX)
}
