//! The engine of a worker that was taken over: an honest one, and beside it what texts ask it to try.
//!
//! It computes nothing itself. What came of an attempt after which it still lives is its answer.

use crate::attempts::{self, Came};
use bulkhead_proto::internal::{Counters, Finished, Outcome, WorkItem, work_item::Job};
use bulkhead_worker::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use bulkhead_worker::models::{LoadError, Loaded};
use bulkhead_worker_core::Clock;

/// What a text starts with that asks for an attempt; its name and numbers follow.
const WORD: &str = "attempt ";

/// In the place of [`Loaded::start`].
pub fn start(model: Loaded, threads: usize, warm_up: bool) -> Result<Box<dyn Engine>, LoadError> {
    let honest = model.start(threads, warm_up)?;
    Ok(Box::new(Hostile {
        honest,
        asked: Vec::new(),
        idle: false,
        busy: false,
    }))
}

struct Hostile {
    honest: Box<dyn Engine>,
    /// What it was asked to try, and by which request.
    asked: Vec<(u64, String)>,
    /// It pretends to have nothing to do.
    idle: bool,
    /// It computes on without a lease.
    busy: bool,
}

/// What a job asks to try.
fn asked(item: &WorkItem) -> Option<String> {
    let Some(Job::Embed(job)) = &item.job else {
        return None;
    };
    job.texts.first()?.strip_prefix(WORD).map(str::to_owned)
}

impl Engine for Hostile {
    fn info(&self) -> ModelInfo {
        self.honest.info()
    }

    fn assign(&mut self, quota_bytes: u64, step_limit_ns: u64) {
        self.honest.assign(quota_bytes, step_limit_ns);
    }

    fn add(&mut self, item: WorkItem) {
        match asked(&item) {
            Some(name) => self.asked.push((item.request, name)),
            None => self.honest.add(item),
        }
    }

    fn cancel(&mut self, request: u64) {
        self.honest.cancel(request);
    }

    fn expires_at(&self) -> Option<u64> {
        self.busy.then_some(0)
    }

    /// Called without a lease.
    fn expire(&mut self, _now_ns: &dyn Fn() -> u64) {
        attempts::hold();
    }

    fn has_work(&self) -> bool {
        !self.idle && (!self.asked.is_empty() || self.honest.has_work())
    }

    fn step(&mut self, now_ns: &Clock<'_>) -> StepOutcome {
        let Some((request, name)) = self.asked.pop() else {
            return self.honest.step(now_ns);
        };
        let came = match attempts::make(&name, request) {
            Came::Idle => {
                self.idle = true;
                self.asked.push((request, name));
                return StepOutcome::default();
            }
            Came::Said(pieces, finished) => {
                return StepOutcome {
                    pieces,
                    finished,
                    ..StepOutcome::default()
                };
            }
            came => {
                self.busy = came == Came::Busy;
                came
            }
        };
        let finished = Finished {
            request,
            outcome: Outcome::Invalid.into(),
            detail: format!("{came:?}"),
            ..Finished::default()
        };
        StepOutcome {
            finished: vec![finished],
            ..StepOutcome::default()
        }
    }

    fn kv_bytes(&self) -> u64 {
        self.honest.kv_bytes()
    }

    fn scrub(&mut self) -> Scrubbed {
        self.honest.scrub()
    }

    fn counters(&self) -> Counters {
        self.honest.counters()
    }
}
