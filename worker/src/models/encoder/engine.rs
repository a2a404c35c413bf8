//! The embedding engine: requests of many texts in, bounded steps, whole answers out.
//!
//! Texts are divided into tokens inside the steps too ([`Arrivals`]). A batch takes texts, not requests,
//! in turns ([`Texts`]). It passes through the encoder in pieces, and a step runs as many of them as its
//! limit allows, so that a long text is many steps. Between steps the batch stays where it is. Of texts of
//! requests that are cancelled meanwhile nothing stays: their rows are zeroed, and what is computed of zeroes is ignored
//! at its end. A batch of only such texts is dropped at once.

use super::arrivals::{Arrivals, Arrived, Tokens};
use super::config::{self, Config};
use super::model::{Model, Progress, Scratch, Token};
use super::pooling::Pooling;
use super::tokenizer::TextEncoder;
use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use crate::models::scratch::{Buffer, sum};
use crate::models::{Compute, LoadError, ModelFiles};
use bulkhead_proto::internal::{Finished, Outcome, Vector, WorkItem, work_item::Job};
use bulkhead_worker_core::{Clock, Pick, StepCost, Texts};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;

/// Tokens of a batch at most, however fast the machine: bounds memory, and how long a text can
/// wait for a batch that left before it came.
const BATCH_TOKENS_MAX: usize = 4096;

/// Where no sentence_bert_config.json says otherwise, and the model can read as much: tokens.
const CONTEXT_TOKENS_DEFAULT: usize = 256;

/// A unit of the model's work before anything was measured, nanoseconds.
const UNIT_NS_GUESS: u64 = 1_000;

/// Part of a step that reading texts may take while others wait to be computed: one in so many.
const READING_SHARE: u64 = 4;

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// A request of which all texts are tokens: those until they are computed, and its vectors as they
/// come.
struct Request {
    tokens: Tokens,
    vectors: Vec<Vector>,
    /// Whether one of them is not of finite numbers.
    broken: bool,
    left: usize,
}

impl Request {
    fn input_tokens(&self) -> u32 {
        self.vectors.iter().map(|vector| vector.tokens).sum()
    }
}

/// The batch that is passing through the encoder. Its rows lie in [`Embedder::rows`].
struct Batch {
    picks: Vec<Pick>,
    texts: Vec<Range<usize>>,
    progress: Progress,
}

impl Batch {
    fn tokens(&self) -> usize {
        self.texts.last().map_or(0, |text| text.end)
    }
}

/// Sentence embeddings.
pub struct Embedder {
    compute: Compute,
    model: Model,
    pooling: Pooling,
    encoder: TextEncoder,
    context_tokens: usize,
    step_limit_ns: u64,
    /// In the model's units.
    cost: StepCost,
    scratch: Scratch,
    arrivals: Arrivals,
    /// True if the step before did nothing but read texts.
    only_read: bool,
    waiting: Texts,
    requests: HashMap<u64, Request>,
    batch: Option<Batch>,
    /// The batch's activations: kept from step to step, and from batch to batch once scrubbed.
    rows: Buffer,
    pooled: Buffer,
    answers: Vec<Finished>,
    /// What was zeroed of cancelled texts since the last scrub.
    withdrawn: Scrubbed,
}

impl Embedder {
    /// Loads from the safetensors (one or sharded), config.json, tokenizer.json and, where there are such,
    /// sentence_bert_config.json, modules.json and the pooling's config.json.
    ///
    /// What it returns makes the embedder, on threads that need not exist yet.
    pub(crate) fn load(
        mut files: ModelFiles,
    ) -> Result<impl FnOnce(Compute, bool) -> Self + Send + use<>, LoadError> {
        let config = Config::parse(&files.take(config::FILE)?)?;
        let limit = sentence_limit(&mut files)?.unwrap_or(CONTEXT_TOKENS_DEFAULT);
        let context_tokens = limit.min(config.context_tokens());
        let tokenizer = files.take("tokenizer.json")?;
        let encoder = TextEncoder::parse(&tokenizer, context_tokens, config.vocabulary)?;
        let pooling = Pooling::read(&mut files, config.hidden)?;
        let model = Model::read(config, &mut files)?;
        Ok(move |compute, warm_up| {
            let mut engine = Embedder {
                cost: StepCost::new(1, UNIT_NS_GUESS),
                compute,
                model,
                pooling,
                encoder,
                context_tokens,
                step_limit_ns: u64::MAX,
                scratch: Scratch::default(),
                arrivals: Arrivals::default(),
                only_read: false,
                waiting: Texts::default(),
                requests: HashMap::new(),
                batch: None,
                rows: Buffer::default(),
                pooled: Buffer::default(),
                answers: Vec::new(),
                withdrawn: Scrubbed::default(),
            };
            if warm_up {
                engine.warm_up();
            }
            engine
        })
    }

    /// One text through everything, so that whatever is made on first use is made now.
    fn warm_up(&mut self) {
        self.arrivals.add(0, vec!["ready".to_owned()]);
        while self.has_work() {
            self.step(&|| 0);
        }
        self.cost = StepCost::new(1, UNIT_NS_GUESS);
        self.arrivals = Arrivals::default();
        self.scrub();
    }

    /// Zeroes what a batch on its way has of a request: texts do not see each other, so nobody else's
    /// answer changes.
    fn withdraw(&mut self, request: u64) {
        let Some(batch) = &self.batch else {
            return;
        };
        let hidden = self.model.hidden();
        let texts = batch.picks.iter().zip(&batch.texts);
        for (_, text) in texts.filter(|(pick, _)| pick.request == request) {
            let rows = text.start * hidden..text.end * hidden;
            let zeroed = sum(
                self.rows.scrub_part(rows),
                self.scratch.forget(text, hidden),
            );
            self.withdrawn = sum(self.withdrawn, zeroed);
        }
    }

    fn refuse(&mut self, request: u64, detail: &str) {
        let outcome = Outcome::Invalid.into();
        self.answers.push(Finished {
            request,
            outcome,
            detail: detail.into(),
            ..Finished::default()
        });
    }

    /// Divides texts that came into tokens, for a part of the step; returns how long it took.
    fn read_texts(&mut self, now_ns: &dyn Fn() -> u64) -> u64 {
        let others = self.batch.is_some() || !self.waiting.is_empty();
        if self.arrivals.is_empty() || (others && self.only_read) {
            return 0;
        }
        let share = self.step_limit_ns / READING_SHARE;
        let limit = if others {
            share
        } else {
            self.step_limit_ns - share
        };
        let began = now_ns();
        for arrived in self.arrivals.read(&self.encoder, limit, now_ns) {
            match arrived {
                Arrived::Ready(request, tokens) => self.expect(request, tokens),
                Arrived::Unreadable(request) => {
                    self.refuse(request, "a text could not be divided into tokens");
                }
            }
        }
        now_ns().saturating_sub(began)
    }

    /// Queues a request whose tokens are known.
    fn expect(&mut self, request: u64, tokens: Tokens) {
        let texts = 0..tokens.texts();
        let vector = |text| Vector {
            values: Vec::new(),
            tokens: tokens.ids(text).len() as u32,
            truncated: tokens.truncated(text),
        };
        let vectors: Vec<Vector> = texts.clone().map(vector).collect();
        let lengths = texts.map(|text| tokens.ids(text).len()).collect();
        self.waiting.add(request, lengths);
        let left = vectors.len();
        let known = Request {
            tokens,
            vectors,
            broken: false,
            left,
        };
        self.requests.insert(request, known);
    }

    /// Forms the next batch from what waits, for steps of `limit_ns`.
    fn next_batch(&mut self, limit_ns: u64) -> Option<Batch> {
        // A little less than fits, so that attention does not make it two steps.
        let units = self.cost.units_within(limit_ns) / 8 * 7;
        let fits = units / self.model.units_of_token().max(1);
        let picks = self.waiting.take((fits as usize).min(BATCH_TOKENS_MAX));
        let last = picks.last()?;
        let mut tokens: Vec<Token> = Vec::with_capacity(picks.len() * last.tokens);
        let mut texts = Vec::with_capacity(picks.len());
        for pick in &picks {
            let request = self.requests.get(&pick.request)?;
            let start = tokens.len();
            self.model
                .place(request.tokens.ids(pick.index), &mut tokens);
            texts.push(start..tokens.len());
        }
        let rows = self.rows.take(tokens.len() * self.model.hidden());
        let model = &self.model;
        self.compute.run(|| model.embed(&tokens, rows));
        Some(Batch {
            picks,
            texts,
            progress: Progress::default(),
        })
    }

    /// Runs `batch` on as far as the limit allows; true once it is through.
    fn advance(&mut self, batch: &mut Batch, limit_ns: u64, now_ns: &dyn Fn() -> u64) -> bool {
        let fits = self.cost.units_within(limit_ns);
        let (model, scratch) = (&self.model, &mut self.scratch);
        let rows = self.rows.take(batch.tokens() * model.hidden());
        let began = now_ns();
        let units = self
            .compute
            .run(|| model.advance(&mut batch.progress, fits, rows, &batch.texts, scratch));
        self.cost.observe(units, now_ns().saturating_sub(began));
        self.model.is_through(&batch.progress)
    }

    /// Hands out a finished batch's vectors, and the requests that are complete with them.
    fn deliver(&mut self, batch: &Batch, outcome: &mut StepOutcome) {
        let hidden = self.model.hidden();
        let rows = self.rows.take(batch.tokens() * hidden);
        let pooled = self.pooled.take(hidden);
        for (pick, text) in batch.picks.iter().zip(&batch.texts) {
            outcome.tokens += pick.tokens as u32;
            let Some(request) = self.requests.get_mut(&pick.request) else {
                continue;
            };
            self.pooling
                .pool(&rows[text.start * hidden..text.end * hidden], pooled);
            request.broken |= !pooled.iter().all(|x| x.is_finite());
            request.vectors[pick.index].values = pooled
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            request.left -= 1;
            if request.left == 0 {
                let done = self.requests.remove(&pick.request);
                outcome
                    .finished
                    .extend(done.map(|done| finish(pick.request, done)));
            }
        }
    }
}

fn finish(request: u64, done: Request) -> Finished {
    if done.broken {
        let detail = "the model computed a vector that is not of finite numbers; its weights or the device \
                      are broken";
        return Finished {
            request,
            outcome: Outcome::Internal.into(),
            detail: detail.into(),
            ..Finished::default()
        };
    }
    Finished {
        request,
        outcome: Outcome::Ok.into(),
        input_tokens: done.input_tokens(),
        vectors: done.vectors,
        ..Finished::default()
    }
}

fn sentence_limit(files: &mut ModelFiles) -> Result<Option<usize>, LoadError> {
    const FILE: &str = "sentence_bert_config.json";
    let Ok(bytes) = files.take(FILE) else {
        return Ok(None);
    };
    let config: SentenceConfig =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::bad(FILE, error))?;
    if config.max_seq_length.is_some_and(|tokens| tokens < 3) {
        return Err(LoadError::bad(
            FILE,
            "max_seq_length leaves no room for a word",
        ));
    }
    Ok(config.max_seq_length)
}

impl Engine for Embedder {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            task: "embed",
            dimensions: self.model.hidden() as u32,
            context_tokens: self.context_tokens as u32,
            kv_bytes_per_token: 0,
            weights_bytes: self.model.bytes(),
        }
    }

    fn assign(&mut self, _quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
    }

    fn add(&mut self, item: WorkItem) {
        match item.job {
            Some(Job::Embed(job)) if job.texts.is_empty() => {
                self.refuse(item.request, "there is no text to embed: give at least one")
            }
            Some(Job::Embed(job)) => self.arrivals.add(item.request, job.texts),
            _ => self.refuse(
                item.request,
                "this model embeds texts and does nothing else",
            ),
        }
    }

    fn cancel(&mut self, request: u64) {
        let gone = self.requests.remove(&request);
        if gone.is_none() && !self.arrivals.cancel(request) {
            return;
        }
        self.waiting.cancel(request);
        self.withdraw(request);
        let alive = |pick: &Pick| self.requests.contains_key(&pick.request);
        if self
            .batch
            .as_ref()
            .is_some_and(|batch| !batch.picks.iter().any(alive))
        {
            self.batch = None;
        }
        let outcome = Outcome::Cancelled.into();
        self.answers.push(Finished {
            request,
            outcome,
            // Unknown while its texts are not all read.
            input_tokens: gone.map_or(0, |gone| gone.input_tokens()),
            ..Finished::default()
        });
    }

    fn has_work(&self) -> bool {
        !self.requests.is_empty() || !self.arrivals.is_empty() || !self.answers.is_empty()
    }

    fn step(&mut self, now_ns: &Clock<'_>) -> StepOutcome {
        let read_ns = self.read_texts(now_ns);
        let mut outcome = StepOutcome {
            finished: std::mem::take(&mut self.answers),
            ..StepOutcome::default()
        };
        // What is left may not be enough for a piece; then the next step has all of its time for one.
        self.only_read = read_ns > self.step_limit_ns / 2;
        if self.only_read {
            return outcome;
        }
        let limit_ns = self.step_limit_ns - read_ns;
        let Some(mut batch) = self.batch.take().or_else(|| self.next_batch(limit_ns)) else {
            return outcome;
        };
        outcome.sequences = batch.picks.len() as u32;
        if self.advance(&mut batch, limit_ns, now_ns) {
            self.deliver(&batch, &mut outcome);
        } else {
            self.batch = Some(batch);
        }
        outcome
    }

    fn kv_bytes(&self) -> u64 {
        0
    }

    /// All that a batch on its way does not need is zeroed and read back. Stacks are overwritten and
    /// cannot be read back.
    fn scrub(&mut self) -> Scrubbed {
        let stacks = Scrubbed {
            zeroed: self.compute.scrub_stacks(),
            ..Scrubbed::default()
        };
        let mut all = sum(stacks, std::mem::take(&mut self.withdrawn));
        let on_its_way = self.batch.is_some();
        if !on_its_way {
            all = sum(all, self.rows.scrub());
        }
        all = sum(all, self.pooled.scrub());
        sum(all, self.scratch.scrub(on_its_way))
    }
}
