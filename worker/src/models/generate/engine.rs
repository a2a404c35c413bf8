//! The generation engine: sequences join and leave at every step, each step bounded.
//!
//! The [`Planner`] decides; this carries out. A step encodes what has arrived, runs the passes that are
//! planned or on their way until its time is up, chooses tokens, and cleans blocks of sequences that ended
//! ([`step`]). A result is given out only once every block of its sequence was zeroed and read back, if that
//! takes several steps.

mod step;
#[cfg(test)]
mod tests;

use super::cleaning::Cleaning;
use super::encoding::{Arrivals, Arriving};
use super::load::Loaded;
use super::prefix::PrefixKey;
use super::sequence::Sequence;
use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
#[cfg(feature = "cuda")]
use crate::models::decoder::{Borrowed, OpenGpu};
use crate::models::decoder::{Decoder, Shape};
use crate::models::text::{Chat, TextCodec};
use crate::models::{Compute, LoadError, ModelFiles, On};
use bulkhead_proto::internal::{
    Counters, Finished, GenerateJob, Outcome, WorkItem, work_item::Job,
};
use bulkhead_worker_core::{
    Agent, BLOCK_TOKENS, Clock, Dirty, Planner, PlannerLimits, StepModel, Underway,
};
use std::collections::BTreeMap;

/// Sequences that run at once at most.
const SEQUENCES_MAX: usize = 64;
/// Tokens of one pass at most, however fast the machine: bounds memory.
const STEP_TOKENS_MAX: usize = 512;
/// A token before anything was measured, nanoseconds.
const TOKEN_NS_GUESS: u64 = 3_000_000;
/// The pool while warming up: enough for a few tokens of any model.
const WARM_UP_QUOTA_BYTES: u64 = 64 << 20;
/// Of a step, one part in so many may go into encoding, and as much into cleaning, where others
/// compute.
const SIDE_SHARE: u64 = 4;

/// Text generation.
pub struct Generator {
    decoder: Box<dyn Decoder>,
    shape: Shape,
    codec: TextCodec,
    chat: Chat,
    planner: Planner,
    underway: Underway,
    model: StepModel,
    step_limit_ns: u64,
    /// None where nothing is to be cached.
    prefix_key: Option<PrefixKey>,
    /// How long what nobody uses is cached, nanoseconds.
    prefix_idle_ns: u64,
    arrivals: Arrivals,
    live: BTreeMap<u64, Sequence>,
    /// Ended, and not clean yet.
    closing: Vec<Finished>,
    answers: Vec<Finished>,
    /// What was zeroed since the last report.
    evidence: Scrubbed,
    scratch_used: bool,
    cancelled: u64,
}

fn planner(blocks: u32, prefix_cache: bool) -> Planner {
    Planner::new(PlannerLimits {
        blocks,
        sequences_max: SEQUENCES_MAX,
        step_tokens_max: STEP_TOKENS_MAX,
        prefix_cache,
    })
}

impl Generator {
    /// Reads a model's files. What it returns makes the generator, on threads that need not exist yet.
    pub(crate) fn load(
        files: ModelFiles,
        on: On,
    ) -> Result<impl FnOnce(Compute, bool) -> Self + Send + use<>, LoadError> {
        Ok(Generator::of(Loaded::read(files, on)?))
    }

    /// The same on a GPU, with weights that a keeper laid out there.
    #[cfg(feature = "cuda")]
    pub(crate) fn borrowing(
        files: ModelFiles,
        gpu: OpenGpu,
        weights: Borrowed,
    ) -> Result<impl FnOnce(Compute, bool) -> Self + Send + use<>, LoadError> {
        Ok(Generator::of(Loaded::borrowing(files, gpu, weights)?))
    }

    fn of(loaded: Loaded) -> impl FnOnce(Compute, bool) -> Self + Send + use<> {
        let Loaded { codec, chat, model } = loaded;
        move |compute, warm_up| {
            let decoder = model.decoder(compute);
            let mut engine = Generator::new(decoder, codec, chat);
            if warm_up {
                engine.warm_up();
            }
            engine
        }
    }

    /// Without memory for sequences until it is assigned.
    fn new(decoder: Box<dyn Decoder>, codec: TextCodec, chat: Chat) -> Self {
        Generator {
            shape: decoder.shape(),
            decoder,
            codec,
            chat,
            planner: planner(0, false),
            underway: Underway::default(),
            model: StepModel::new(TOKEN_NS_GUESS),
            step_limit_ns: u64::MAX,
            prefix_key: None,
            prefix_idle_ns: 0,
            arrivals: Arrivals::default(),
            live: BTreeMap::new(),
            closing: Vec::new(),
            answers: Vec::new(),
            evidence: Scrubbed::default(),
            scratch_used: false,
            cancelled: 0,
        }
    }

    /// A few tokens through everything, so that whatever is made on first use is made now.
    fn warm_up(&mut self) {
        self.assign(WARM_UP_QUOTA_BYTES, u64::MAX);
        let job = GenerateJob {
            prompt: "ready?".into(),
            max_tokens: 2,
            ..Default::default()
        };
        self.add(WorkItem {
            job: Some(Job::Generate(job)),
            ..WorkItem::default()
        });
        while self.has_work() {
            self.step(&|| 0);
        }
        self.scrub();
        self.assign(0, u64::MAX);
        self.model = StepModel::new(TOKEN_NS_GUESS);
    }

    fn answer(&mut self, request: u64, outcome: Outcome, detail: String) {
        let outcome = outcome.into();
        self.answers.push(Finished {
            request,
            outcome,
            detail,
            ..Finished::default()
        });
    }
}

impl Engine for Generator {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            task: "generate",
            dimensions: 0,
            context_tokens: self.shape.context_tokens as u32,
            kv_bytes_per_token: self.shape.block_bytes / BLOCK_TOKENS as u64,
            weights_bytes: self.shape.weights_bytes,
        }
    }

    fn cache_prefixes(&mut self, key: u128, idle_ns: u64) {
        self.prefix_key = Some(PrefixKey::new(key));
        self.prefix_idle_ns = idle_ns;
    }

    fn assign(&mut self, quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
        let blocks = self.decoder.assign(quota_bytes);
        self.planner = planner(blocks, self.prefix_key.is_some());
        self.shrink_passes();
    }

    fn add(&mut self, item: WorkItem) {
        let WorkItem {
            request,
            agent,
            agent_weight,
            job,
        } = item;
        match job {
            Some(Job::Generate(job)) => {
                let arriving = Arriving::new(request, agent, agent_weight, job);
                self.arrivals.add(arriving);
            }
            _ => {
                let detail = "this model generates text and does nothing else".to_owned();
                self.answer(request, Outcome::Invalid, detail);
            }
        }
    }

    fn cancel(&mut self, request: u64) {
        if self.arrivals.cancel(request) {
            self.cancelled += 1;
            self.answer(request, Outcome::Cancelled, String::new());
        } else if self.live.contains_key(&request) {
            self.cancelled += 1;
            self.close(Finished {
                request,
                outcome: Outcome::Cancelled.into(),
                ..Finished::default()
            });
        }
    }

    fn forget(&mut self, agent: u64) {
        self.planner.forget(Agent(agent));
    }

    fn expires_at(&self) -> Option<u64> {
        self.planner.next_expiry(self.prefix_idle_ns)
    }

    fn expire(&mut self, now_ns: &dyn Fn() -> u64) {
        let began = now_ns();
        self.planner.at(began);
        let until_ns = began.saturating_add(self.step_limit_ns / SIDE_SHARE);
        let mut cleaning = Cleaning {
            decoder: self.decoder.as_mut(),
            evidence: &mut self.evidence,
            model: &mut self.model,
            now_ns,
        };
        let mut clean = |block: &Dirty| cleaning.block(block);
        while self.planner.expire_one(self.prefix_idle_ns, &mut clean) && now_ns() < until_ns {}
    }

    fn has_work(&self) -> bool {
        !(self.arrivals.is_empty() && self.closing.is_empty() && self.answers.is_empty())
            || self.planner.has_sequences()
            || self.planner.dirty_blocks() + self.planner.blocks_to_recheck() > 0
    }

    fn step(&mut self, now_ns: &Clock<'_>) -> StepOutcome {
        let began = now_ns();
        self.planner.at(began);
        let limit = self.step_limit_ns;
        let until_ns = began.saturating_add(self.model.room_ns(limit) as u64);
        self.encode(began.saturating_add(limit / SIDE_SHARE), now_ns);
        let mut outcome = StepOutcome::default();
        if self.planner.has_sequences() {
            self.compute(until_ns, now_ns, &mut outcome);
        }
        self.clean(until_ns, now_ns);
        self.report(&mut outcome);
        self.model.missed(now_ns().saturating_sub(until_ns));
        outcome
    }

    fn kv_bytes(&self) -> u64 {
        self.planner.held_blocks() as u64 * self.shape.block_bytes
    }

    fn scrub(&mut self) -> Scrubbed {
        self.scrub_scratch();
        std::mem::take(&mut self.evidence)
    }

    fn counters(&self) -> Counters {
        let tally = self.planner.tally();
        Counters {
            sequences_cancelled: self.cancelled,
            blocks_cleaned: tally.blocks_cleaned,
            tokens_computed: tally.tokens_computed,
            tokens_recomputed: tally.tokens_recomputed,
            preemptions: tally.preemptions,
            tokens_cached: tally.tokens_cached,
            steps_over_limit: 0,
            cached_bytes: self.planner.cached_blocks() as u64 * self.shape.block_bytes,
        }
    }
}
