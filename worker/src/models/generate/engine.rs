//! The generation engine: sequences join and leave at every step, each step bounded.
//!
//! The [`Planner`] decides; this carries out. A step encodes what has arrived, computes what is planned,
//! chooses tokens, and cleans blocks of sequences that ended, all within its limit. A result is given
//! out only once every block of its sequence was zeroed and read back, if that takes several steps.

use super::cleaning::Cleaning;
use super::encoding::{Arrivals, Arriving, Decided};
use super::load::Loaded;
use super::prefix::PrefixKey;
use super::sequence::Sequence;
use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use crate::models::decoder::{CpuDecoder, Decoder, DeviceError, Row, Shape};
use crate::models::scratch::sum;
use crate::models::text::{Chat, TextCodec};
use crate::models::{Compute, LoadError, ModelFiles};
use bulkhead_proto::internal::{
    Counters, Finished, GenerateJob, Outcome, WorkItem, work_item::Job,
};
use bulkhead_worker_core::{
    Agent, Arrival, BLOCK_TOKENS, Ended, Plan, Planner, PlannerLimits, Room, StepModel,
};
use std::collections::BTreeMap;

/// Sequences that run at once at most.
const SEQUENCES_MAX: usize = 64;
/// Tokens of one step at most, however fast the machine: bounds memory.
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
    model: StepModel,
    step_limit_ns: u64,
    /// None where nothing is to be cached.
    prefix_key: Option<PrefixKey>,
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
    ) -> Result<impl FnOnce(Compute, bool) -> Self + Send + use<>, LoadError> {
        let Loaded { codec, chat, model } = Loaded::read(files)?;
        Ok(move |compute, warm_up| {
            let decoder = Box::new(CpuDecoder::new(model, compute));
            let mut engine = Generator::new(decoder, codec, chat);
            if warm_up {
                engine.warm_up();
            }
            engine
        })
    }

    /// Without memory for sequences until it is assigned.
    fn new(decoder: Box<dyn Decoder>, codec: TextCodec, chat: Chat) -> Self {
        Generator {
            shape: decoder.shape(),
            decoder,
            codec,
            chat,
            planner: planner(0, false),
            model: StepModel::new(TOKEN_NS_GUESS),
            step_limit_ns: u64::MAX,
            prefix_key: None,
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

    /// Encodes prompts until `until_ns`, and at least a piece of one.
    fn encode(&mut self, until_ns: u64, now_ns: &dyn Fn() -> u64) {
        let context = self.shape.context_tokens;
        while !self.arrivals.is_empty() {
            match self.arrivals.advance(&self.codec, &self.chat, context) {
                Some(Decided::Ready {
                    request,
                    agent,
                    weight,
                    sequence,
                }) => self.enter(request, Agent(agent), weight, *sequence),
                Some(Decided::Refused { request, why }) => {
                    self.answer(request, Outcome::Invalid, why);
                }
                None => {}
            }
            if now_ns() >= until_ns {
                return;
            }
        }
    }

    fn enter(&mut self, request: u64, agent: Agent, weight: u32, sequence: Sequence) {
        let key = self.prefix_key.as_ref();
        let arrival = Arrival {
            request,
            agent,
            weight,
            prompt_tokens: sequence.prompt_tokens,
            max_tokens: sequence.max_tokens as usize,
            hashes: key.map_or_else(Vec::new, |key| key.chain(&sequence.tokens)),
        };
        let needed = arrival.kv_tokens();
        match self.planner.add(arrival) {
            Ok(()) => {
                self.live.insert(request, sequence);
            }
            Err(_) => {
                let have = self.planner.capacity_tokens();
                let detail = format!(
                    "prompt and answer may take {needed} tokens of KV memory, and the tenant's \
                     quota holds {have}; ask for fewer max_tokens or a larger quota"
                );
                self.answer(request, Outcome::OverQuota, detail);
            }
        }
    }

    /// Plans a step that ends at `until_ns` and computes it.
    fn compute(&mut self, until_ns: u64, now_ns: &dyn Fn() -> u64, outcome: &mut StepOutcome) {
        let began = now_ns();
        let (prices, dirty) = (self.model.prices(), self.planner.dirty_blocks());
        let share = self.step_limit_ns / SIDE_SHARE;
        let cleaning_ns = (self.model.block_ns() * dirty as f64).min(share as f64);
        let room = Room {
            ns: until_ns.saturating_sub(began) as f64 - cleaning_ns,
            tokens: usize::try_from(self.model.tokens_max()).unwrap_or(usize::MAX),
        };
        let mut cleaning = Cleaning {
            decoder: self.decoder.as_mut(),
            evidence: &mut self.evidence,
            model: &mut self.model,
            now_ns,
            spent_ns: 0,
        };
        let plan = self
            .planner
            .plan(prices, room, &mut |block| cleaning.block(block));
        let spent_ns = cleaning.spent_ns;
        if plan.parts.is_empty() {
            return;
        }
        self.run(&plan, outcome);
        let took = now_ns().saturating_sub(began).saturating_sub(spent_ns);
        (outcome.expected_ns, outcome.computed_ns) = (plan.expected_ns as u64, took);
        self.model.observe(plan.work, took);
        self.model.missed(plan.expected_ns, took);
    }

    /// Computes what is planned, and chooses tokens where sequences are computed to their end.
    fn run(&mut self, plan: &Plan, outcome: &mut StepOutcome) {
        let (rows, wanted) = rows(plan, &self.live);
        let tables: Vec<&[u32]> = plan
            .parts
            .iter()
            .map(|part| self.planner.blocks(part.request))
            .collect();
        self.scratch_used = true;
        let logits = match self.decoder.forward(&rows, &wanted, &tables) {
            Ok(logits) => logits,
            Err(error) => return self.fail(plan, &error),
        };
        let answering = plan.parts.iter().filter(|part| part.answers);
        let over = choose(
            &mut self.live,
            answering.clone().map(|part| part.request),
            logits.chunks_exact_mut(self.shape.vocabulary),
            &self.codec,
            outcome,
        );
        outcome.sequences = plan.parts.len() as u32;
        outcome.tokens = plan.work.tokens as u32;
        answering.for_each(|part| self.planner.push(part.request));
        for finished in over {
            self.close(finished);
        }
    }

    /// Ends every sequence of the step, and gives up what is cached: what their blocks hold is not
    /// known any more.
    fn fail(&mut self, plan: &Plan, error: &DeviceError) {
        for part in &plan.parts {
            self.close(Finished {
                request: part.request,
                outcome: Outcome::Internal.into(),
                detail: error.to_string(),
                ..Finished::default()
            });
        }
        self.planner.drop_cached();
    }

    /// Ends a sequence. What there is to say of it is said once its blocks are clean.
    fn close(&mut self, finished: Finished) {
        let ended = self.planner.end(finished.request);
        let sequence = self.live.remove(&finished.request);
        let (Some(ended), Some(sequence)) = (ended, sequence) else {
            return;
        };
        let Ended {
            retained_blocks,
            cached_tokens,
            began,
        } = ended;
        self.closing.push(Finished {
            // A prompt that nobody began to read cost nothing.
            input_tokens: if began {
                sequence.prompt_tokens as u32
            } else {
                0
            },
            output_tokens: sequence.generated(),
            retained_bytes: retained_blocks as u64 * self.shape.block_bytes,
            cached_tokens: cached_tokens as u32,
            ..finished
        });
    }

    /// Cleans blocks until `until_ns`, and at least one; where nothing else is left to do, those
    /// that were in use a second time.
    fn clean(&mut self, until_ns: u64, now_ns: &dyn Fn() -> u64) {
        let mut cleaning = Cleaning {
            decoder: self.decoder.as_mut(),
            evidence: &mut self.evidence,
            model: &mut self.model,
            now_ns,
            spent_ns: 0,
        };
        let idle = !self.planner.has_sequences() && self.arrivals.is_empty();
        loop {
            if self.planner.dirty_blocks() > 0 {
                self.planner.clean_one(&mut |block| cleaning.block(block));
            } else if idle && self.planner.blocks_to_recheck() > 0 {
                self.planner.recheck_one(&mut |block| cleaning.block(block));
            } else {
                return;
            }
            if now_ns() >= until_ns {
                return;
            }
        }
    }

    /// What can be said now. Scratch is only needed inside a step, so all of it is zeroed and read
    /// back before anything is said to be finished, whoever else is live.
    fn report(&mut self, outcome: &mut StepOutcome) {
        outcome.finished.append(&mut self.answers);
        let planner = &self.planner;
        let clean = |finished: &mut Finished| planner.is_clean(finished.request);
        outcome.finished.extend(self.closing.extract_if(.., clean));
        if !outcome.finished.is_empty() {
            self.scrub_scratch();
        }
        outcome.residue_bytes = self.evidence.residue;
    }

    fn scrub_scratch(&mut self) {
        if std::mem::take(&mut self.scratch_used) {
            self.evidence = sum(self.evidence, self.decoder.scrub());
        }
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

    fn cache_prefixes(&mut self, key: u128) {
        self.prefix_key = Some(PrefixKey::new(key));
    }

    fn assign(&mut self, quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
        let blocks = self.decoder.assign(quota_bytes);
        self.planner = planner(blocks, self.prefix_key.is_some());
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

    fn has_work(&self) -> bool {
        !(self.arrivals.is_empty() && self.closing.is_empty() && self.answers.is_empty())
            || self.planner.has_sequences()
            || self.planner.dirty_blocks() + self.planner.blocks_to_recheck() > 0
    }

    fn step(&mut self, now_ns: &dyn Fn() -> u64) -> StepOutcome {
        let began = now_ns();
        let limit = self.step_limit_ns;
        let until_ns = began.saturating_add(self.model.room_ns(limit) as u64);
        self.encode(began.saturating_add(limit / SIDE_SHARE), now_ns);
        let mut outcome = StepOutcome::default();
        if self.planner.has_sequences() {
            self.compute(until_ns, now_ns, &mut outcome);
        }
        self.clean(until_ns, now_ns);
        self.report(&mut outcome);
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

/// The rows of a plan, and which of them are wanted: the last one of each part that answers.
fn rows(plan: &Plan, live: &BTreeMap<u64, Sequence>) -> (Vec<Row>, Vec<usize>) {
    let (mut rows, mut wanted) = (Vec::new(), Vec::new());
    for (table, part) in plan.parts.iter().enumerate() {
        let tokens = live.get(&part.request).map_or(&[][..], |one| &one.tokens);
        let known = tokens.iter().copied().enumerate();
        let these = known.skip(part.from).take(part.tokens);
        rows.extend(these.map(|(position, token)| Row {
            token,
            position,
            table,
        }));
        if part.answers {
            wanted.push(rows.len() - 1);
        }
    }
    (rows, wanted)
}

/// Chooses the next token of every sequence in `answering`; returns those that are over.
fn choose<'a>(
    live: &mut BTreeMap<u64, Sequence>,
    answering: impl Iterator<Item = u64>,
    logits: impl Iterator<Item = &'a mut [f32]>,
    codec: &TextCodec,
    outcome: &mut StepOutcome,
) -> Vec<Finished> {
    let mut over = Vec::new();
    for (request, logits) in answering.zip(logits) {
        let Some(sequence) = live.get_mut(&request) else {
            continue;
        };
        let mut next = sequence.next(logits, codec);
        let output_tokens = sequence.generated();
        outcome.pieces.extend(next.piece(request, output_tokens));
        if let Some(finished) = next.finished {
            over.push(Finished {
                request,
                ..finished
            });
        }
    }
    over
}
