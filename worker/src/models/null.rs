//! A model that computes nothing: it shows what everything around a model costs.

use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use bulkhead_proto::internal::{
    Counters, Finished, Outcome, Piece, Vector, WorkItem, work_item::Job,
};
use bulkhead_worker_core::Clock;
use std::collections::VecDeque;

/// Width of its vectors.
const DIMENSIONS: u32 = 8;
/// Bytes of text that count as a token.
const TOKEN_BYTES: usize = 4;
/// Tokens it claims to read.
const CONTEXT_TOKENS: u32 = 8192;
/// Tokens that a request for 0 gets.
const MAX_TOKENS_DEFAULT: u32 = 256;

#[derive(Debug)]
struct Live {
    item: WorkItem,
    input_tokens: u32,
    output_tokens: u32,
}

/// The null model.
#[derive(Debug)]
pub struct NullEngine {
    ns_per_token: u64,
    step_limit_ns: u64,
    live: VecDeque<Live>,
    cancelled: Vec<Live>,
    counters: Counters,
}

impl NullEngine {
    /// Burns `ns_per_token` nanoseconds of the loop's clock for each token.
    pub fn new(ns_per_token: u64) -> Self {
        NullEngine {
            ns_per_token,
            step_limit_ns: u64::MAX,
            live: VecDeque::new(),
            cancelled: Vec::new(),
            counters: Counters::default(),
        }
    }

    fn embed(live: &Live, texts: &[String]) -> Finished {
        let vectors = texts.iter().map(|text| Vector {
            values: (0..DIMENSIONS)
                .flat_map(|at| ((text.len() as u32 + at) as f32).to_le_bytes())
                .collect(),
            tokens: tokens(text),
            truncated: false,
        });
        Finished {
            request: live.item.request,
            outcome: Outcome::Ok.into(),
            input_tokens: live.input_tokens,
            vectors: vectors.collect(),
            ..Finished::default()
        }
    }

    /// Advances the first sequence; returns the tokens that it cost.
    fn advance(&mut self, mut live: Live, outcome: &mut StepOutcome) -> u32 {
        let request = live.item.request;
        let max_tokens = match &live.item.job {
            Some(Job::Embed(job)) => {
                outcome.finished.push(Self::embed(&live, &job.texts));
                return live.input_tokens;
            }
            Some(Job::Generate(job)) if job.max_tokens == 0 => MAX_TOKENS_DEFAULT,
            Some(Job::Generate(job)) => job.max_tokens,
            None => 0,
        };
        if live.output_tokens < max_tokens {
            live.output_tokens += 1;
            outcome.pieces.push(Piece {
                request,
                text: "x".into(),
                output_tokens: live.output_tokens,
                ..Piece::default()
            });
        }
        if live.output_tokens < max_tokens {
            self.live.push_back(live);
        } else {
            outcome.finished.push(Finished {
                request,
                outcome: Outcome::Ok.into(),
                input_tokens: live.input_tokens,
                output_tokens: live.output_tokens,
                finish_reason: "length".into(),
                ..Finished::default()
            });
        }
        1
    }
}

fn tokens(text: &str) -> u32 {
    u32::try_from(text.len() / TOKEN_BYTES + 1).unwrap_or(u32::MAX)
}

fn input_tokens(item: &WorkItem) -> u32 {
    let sum = |texts: &mut dyn Iterator<Item = &String>| {
        texts.fold(0u32, |sum, text| sum.saturating_add(tokens(text)))
    };
    match &item.job {
        Some(Job::Embed(job)) => sum(&mut job.texts.iter()),
        Some(Job::Generate(job)) => sum(&mut job
            .messages
            .iter()
            .map(|turn| &turn.content)
            .chain([&job.prompt])),
        None => 0,
    }
}

impl Engine for NullEngine {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            task: "embed",
            dimensions: DIMENSIONS,
            context_tokens: CONTEXT_TOKENS,
            kv_bytes_per_token: 0,
            weights_bytes: 0,
        }
    }

    fn assign(&mut self, _quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
    }

    fn add(&mut self, item: WorkItem) {
        let input_tokens = input_tokens(&item);
        self.live.push_back(Live {
            item,
            input_tokens,
            output_tokens: 0,
        });
    }

    fn cancel(&mut self, request: u64) {
        let at = self
            .live
            .iter()
            .position(|live| live.item.request == request);
        self.cancelled
            .extend(at.and_then(|at| self.live.remove(at)));
    }

    fn has_work(&self) -> bool {
        !self.live.is_empty() || !self.cancelled.is_empty()
    }

    fn step(&mut self, now_ns: &Clock<'_>) -> StepOutcome {
        let mut outcome = StepOutcome::default();
        for live in self.cancelled.drain(..) {
            self.counters.sequences_cancelled += 1;
            outcome.finished.push(Finished {
                request: live.item.request,
                outcome: Outcome::Cancelled.into(),
                input_tokens: live.input_tokens,
                output_tokens: live.output_tokens,
                ..Finished::default()
            });
        }
        let began = now_ns();
        let mut burn_until = began;
        // One round: everybody once, as far as the step's time goes.
        for _ in 0..self.live.len() {
            let Some(live) = self.live.pop_front() else {
                break;
            };
            outcome.sequences += 1;
            let cost = self.advance(live, &mut outcome);
            outcome.tokens = outcome.tokens.saturating_add(cost);
            burn_until = burn_until.saturating_add(u64::from(cost) * self.ns_per_token);
            if burn_until - began >= self.step_limit_ns {
                break;
            }
        }
        self.counters.tokens_computed += u64::from(outcome.tokens);
        while now_ns() < burn_until {
            std::hint::spin_loop();
        }
        outcome
    }

    fn kv_bytes(&self) -> u64 {
        0
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    /// It keeps nothing but the jobs themselves, which are freed when they end.
    fn scrub(&mut self) -> Scrubbed {
        Scrubbed::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::internal::{EmbedJob, GenerateJob};
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[test]
    fn it_embeds_generates_cancels_and_burns_time() {
        let clock = AtomicU64::new(0);
        let now = || clock.fetch_add(10, Relaxed) + 10;
        let mut engine = NullEngine::new(100);
        engine.assign(0, u64::MAX);
        let embed = EmbedJob {
            texts: vec!["abc".into()],
        };
        engine.add(WorkItem {
            request: 1,
            job: Some(Job::Embed(embed)),
            ..WorkItem::default()
        });
        let generate = GenerateJob {
            prompt: "hi".into(),
            max_tokens: 2,
            ..Default::default()
        };
        engine.add(WorkItem {
            request: 2,
            job: Some(Job::Generate(generate.clone())),
            ..WorkItem::default()
        });
        engine.add(WorkItem {
            request: 3,
            job: Some(Job::Generate(generate)),
            ..WorkItem::default()
        });
        engine.cancel(3);
        let before = clock.load(Relaxed);
        let first = engine.step(&now);
        assert!(clock.load(Relaxed) - before >= 200);
        assert_eq!(first.finished.len(), 2);
        assert_eq!(first.finished[1].vectors[0].values.len(), 32);
        assert_eq!(first.pieces[0].text, "x");
        let second = engine.step(&now);
        assert_eq!(second.finished[0].output_tokens, 2);
        assert!(!engine.has_work());
    }
}
