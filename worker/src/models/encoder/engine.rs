//! The embedding engine: requests of many texts in, bounded steps, whole answers out.
//!
//! A batch takes texts, not requests, in turns ([`Texts`]). It passes through the encoder one layer at
//! a time, and a step runs as many layers as its limit allows, so that even the longest text never
//! makes a step too long. Between steps the batch stays where it is; texts of requests that were
//! cancelled meanwhile are ignored at its end, and a batch of only such texts is dropped at once.

use super::model::{Config, Model, Scratch};
use super::tokenizer::TextEncoder;
use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use crate::models::scratch::sum;
use crate::models::{Compute, LoadError, ModelFiles};
use bulkhead_proto::internal::{Finished, Outcome, Vector, WorkItem, work_item::Job};
use bulkhead_worker_core::{Pick, StepCost, Texts};
use serde::Deserialize;
use std::collections::HashMap;
use std::ops::Range;

/// Tokens of a batch at most, however fast the machine: bounds memory, and how long a text can
/// wait for a batch that left before it came.
const BATCH_TOKENS_MAX: usize = 4096;

/// Where no sentence_bert_config.json says otherwise, and the model can read as much: tokens.
const CONTEXT_TOKENS_DEFAULT: usize = 256;

/// A token through a layer before anything was measured, nanoseconds.
const UNIT_NS_GUESS: u64 = 50_000;

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

/// A request: its texts until they are computed, and its vectors as they come.
struct Request {
    texts: Vec<Vec<u32>>,
    vectors: Vec<Vector>,
    left: usize,
}

/// The batch that is passing through the encoder.
struct Batch {
    picks: Vec<Pick>,
    texts: Vec<Range<usize>>,
    rows: Vec<f32>,
    next_layer: usize,
}

/// Sentence embeddings.
pub struct Embedder {
    compute: Compute,
    model: Model,
    encoder: TextEncoder,
    context_tokens: usize,
    step_limit_ns: u64,
    /// In tokens times layers.
    cost: StepCost,
    scratch: Scratch,
    waiting: Texts,
    requests: HashMap<u64, Request>,
    batch: Option<Batch>,
    answers: Vec<Finished>,
}

impl Embedder {
    /// Loads from model.safetensors, config.json, tokenizer.json and, if there,
    /// sentence_bert_config.json.
    ///
    /// What it returns makes the embedder, on threads that need not exist yet.
    pub(crate) fn load(
        mut files: ModelFiles,
    ) -> Result<impl FnOnce(Compute) -> Self + Send + use<>, LoadError> {
        let config = Config::parse(&files.take("config.json")?)?;
        let limit = sentence_limit(&mut files)?.unwrap_or(CONTEXT_TOKENS_DEFAULT);
        let context_tokens = limit.min(config.max_position_embeddings);
        let encoder = TextEncoder::parse(&files.take("tokenizer.json")?, context_tokens)?;
        let weights = files.take("model.safetensors")?;
        let model = Model::parse(config, &weights)?;
        drop(weights);
        Ok(move |compute| {
            let mut engine = Embedder {
                cost: StepCost::new(1, UNIT_NS_GUESS),
                compute,
                model,
                encoder,
                context_tokens,
                step_limit_ns: u64::MAX,
                scratch: Scratch::default(),
                waiting: Texts::default(),
                requests: HashMap::new(),
                batch: None,
                answers: Vec::new(),
            };
            engine.warm_up();
            engine
        })
    }

    /// One text through everything, so that whatever is made on first use is made now.
    fn warm_up(&mut self) {
        self.add_texts(0, &["ready".to_owned()]);
        while self.has_work() {
            self.step(&|| 0);
        }
        self.cost = StepCost::new(1, UNIT_NS_GUESS);
        self.scrub();
    }

    fn add_texts(&mut self, request: u64, texts: &[String]) {
        let mut ids = Vec::with_capacity(texts.len());
        let mut vectors = Vec::with_capacity(texts.len());
        for text in texts {
            let Some(encoded) = self.encoder.encode(text) else {
                return self.refuse(request, "a text could not be split into tokens".into());
            };
            vectors.push(Vector {
                values: Vec::new(),
                tokens: encoded.ids.len() as u32,
                truncated: encoded.truncated,
            });
            ids.push(encoded.ids);
        }
        if ids.is_empty() {
            return self.refuse(
                request,
                "there is no text to embed: give at least one".into(),
            );
        }
        self.waiting
            .add(request, ids.iter().map(Vec::len).collect());
        let left = ids.len();
        self.requests.insert(
            request,
            Request {
                texts: ids,
                vectors,
                left,
            },
        );
    }

    fn refuse(&mut self, request: u64, detail: String) {
        let outcome = Outcome::Invalid.into();
        self.answers.push(Finished {
            request,
            outcome,
            detail,
            ..Finished::default()
        });
    }

    /// Forms the next batch from what waits.
    fn next_batch(&mut self) -> Option<Batch> {
        let layers = self.model.layers() as u64;
        let fits = self.cost.units_within(self.step_limit_ns) / layers.max(1);
        let picks = self.waiting.take((fits as usize).min(BATCH_TOKENS_MAX));
        let mut ids = Vec::with_capacity(picks.len());
        let mut texts = Vec::with_capacity(picks.len());
        let mut start = 0;
        for pick in &picks {
            let request = self.requests.get_mut(&pick.request)?;
            ids.push(std::mem::take(request.texts.get_mut(pick.index)?));
            texts.push(start..start + pick.tokens);
            start += pick.tokens;
        }
        if picks.is_empty() {
            return None;
        }
        let rows = self.model.embed(&ids);
        Some(Batch {
            picks,
            texts,
            rows,
            next_layer: 0,
        })
    }

    /// Runs `batch` on by as many layers as the limit allows; true once it is through.
    fn advance(&mut self, batch: &mut Batch, now_ns: &dyn Fn() -> u64) -> bool {
        let tokens = batch.texts.last().map_or(1, |text| text.end) as u64;
        let left = self.model.layers() - batch.next_layer;
        let fits = self.cost.units_within(self.step_limit_ns) / tokens.max(1);
        let layers = (fits as usize).clamp(1, left.max(1));
        let (model, scratch) = (&self.model, &mut self.scratch);
        let began = now_ns();
        self.compute.run(|| {
            for nth in batch.next_layer..batch.next_layer + layers {
                model.layer(nth, &mut batch.rows, &batch.texts, scratch);
            }
        });
        self.cost
            .observe(tokens * layers as u64, now_ns().saturating_sub(began));
        batch.next_layer += layers;
        batch.next_layer >= self.model.layers()
    }

    /// Hands out a finished batch's vectors, and the requests that are complete with them.
    fn deliver(&mut self, mut batch: Batch, outcome: &mut StepOutcome) {
        let hidden = self.model.hidden();
        for (pick, text) in batch.picks.iter().zip(&batch.texts) {
            outcome.tokens += pick.tokens as u32;
            let Some(request) = self.requests.get_mut(&pick.request) else {
                continue;
            };
            let values = self
                .model
                .pool(&batch.rows[text.start * hidden..text.end * hidden]);
            request.vectors[pick.index].values = values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect();
            request.left -= 1;
            if request.left == 0 {
                outcome.finished.extend(self.finish(pick.request));
            }
        }
        bulkhead_kernels::fill_zero(pulp::bytemuck::cast_slice_mut(&mut batch.rows));
    }

    fn finish(&mut self, request: u64) -> Option<Finished> {
        let done = self.requests.remove(&request)?;
        Some(Finished {
            request,
            outcome: Outcome::Ok.into(),
            input_tokens: done.vectors.iter().map(|vector| vector.tokens).sum(),
            vectors: done.vectors,
            ..Finished::default()
        })
    }
}

fn sentence_limit(files: &mut ModelFiles) -> Result<Option<usize>, LoadError> {
    const FILE: &str = "sentence_bert_config.json";
    let Ok(bytes) = files.take(FILE) else {
        return Ok(None);
    };
    let config: SentenceConfig =
        serde_json::from_slice(&bytes).map_err(|error| LoadError::bad(FILE, error))?;
    if config.max_seq_length < 3 {
        return Err(LoadError::bad(
            FILE,
            "max_seq_length leaves no room for a word",
        ));
    }
    Ok(Some(config.max_seq_length))
}

impl Engine for Embedder {
    fn info(&self) -> ModelInfo {
        ModelInfo {
            task: "embed",
            dimensions: self.model.hidden() as u32,
            context_tokens: self.context_tokens as u32,
            kv_bytes_per_token: 0,
        }
    }

    fn assign(&mut self, _quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
    }

    fn add(&mut self, item: WorkItem) {
        match item.job {
            Some(Job::Embed(job)) => self.add_texts(item.request, &job.texts),
            _ => self.refuse(
                item.request,
                "this model embeds texts and does nothing else".into(),
            ),
        }
    }

    fn cancel(&mut self, request: u64) {
        if self.requests.remove(&request).is_none() {
            return;
        }
        self.waiting.cancel(request);
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
            ..Finished::default()
        });
    }

    fn has_work(&self) -> bool {
        !self.requests.is_empty() || !self.answers.is_empty()
    }

    fn step(&mut self, now_ns: &dyn Fn() -> u64) -> StepOutcome {
        let mut outcome = StepOutcome {
            finished: std::mem::take(&mut self.answers),
            ..StepOutcome::default()
        };
        let Some(mut batch) = self.batch.take().or_else(|| self.next_batch()) else {
            return outcome;
        };
        outcome.sequences = batch.picks.len() as u32;
        if self.advance(&mut batch, now_ns) {
            self.deliver(batch, &mut outcome);
        } else {
            self.batch = Some(batch);
        }
        outcome
    }

    fn kv_bytes(&self) -> u64 {
        0
    }

    /// Scratch is only needed inside a step, so all of it is zeroed and read back. Stacks are
    /// overwritten and cannot be read back.
    fn scrub(&mut self) -> Scrubbed {
        let stacks = Scrubbed {
            zeroed: self.compute.scrub_stacks(),
            ..Scrubbed::default()
        };
        sum(self.scratch.scrub(), stacks)
    }
}
