//! The generation engine: sequences join and leave at every step, each step bounded.
//!
//! A sequence starts once the blocks that it can ever need are free, in order of arrival. A step's
//! tokens are shared by [`share`]; its size follows from what earlier steps took. A sequence that
//! ends, for whatever reason, has its blocks zeroed before the step's outcome is returned.

use super::load::Loaded;
use super::memory::Memory;
use super::sequence::Sequence;
use crate::engine::{Engine, ModelInfo, Scrubbed, StepOutcome};
use crate::models::decoder::{CpuDecoder, Decoder, DeviceError, Row, Shape};
use crate::models::scratch::sum;
use crate::models::text::{Chat, TextCodec};
use crate::models::{Compute, LoadError, ModelFiles};
use bulkhead_proto::internal::{Finished, GenerateJob, Outcome, WorkItem, work_item::Job};
use bulkhead_worker_core::{BLOCK_TOKENS, StepCost, Table, share};
use std::collections::VecDeque;

/// Sequences that run at once at most.
const SEQUENCES_MAX: usize = 64;
/// Tokens of one step at most, however fast the machine: bounds memory.
const STEP_TOKENS_MAX: usize = 512;
/// A token before anything was measured, nanoseconds.
const TOKEN_NS_GUESS: u64 = 5_000_000;
/// The pool while warming up: enough for a few tokens of any model.
const WARM_UP_QUOTA_BYTES: u64 = 64 << 20;

struct Running {
    sequence: Sequence,
    table: Table,
}

/// Text generation.
pub struct Generator {
    decoder: Box<dyn Decoder>,
    shape: Shape,
    codec: TextCodec,
    chat: Chat,
    memory: Memory,
    step_limit_ns: u64,
    /// In tokens.
    cost: StepCost,
    turn: usize,
    waiting: VecDeque<Sequence>,
    running: Vec<Running>,
    answers: Vec<Finished>,
}

impl Generator {
    /// Reads a model's files. What it returns makes the generator, on threads that need not exist yet.
    pub(crate) fn load(
        files: ModelFiles,
    ) -> Result<impl FnOnce(Compute) -> Self + Send + use<>, LoadError> {
        let Loaded { codec, chat, model } = Loaded::read(files)?;
        Ok(move |compute| {
            let decoder = Box::new(CpuDecoder::new(model, compute));
            let mut engine = Generator {
                shape: decoder.shape(),
                decoder,
                memory: Memory::default(),
                cost: StepCost::new(1, TOKEN_NS_GUESS),
                codec,
                chat,
                step_limit_ns: u64::MAX,
                turn: 0,
                waiting: VecDeque::new(),
                running: Vec::new(),
                answers: Vec::new(),
            };
            engine.warm_up();
            engine
        })
    }

    /// A few tokens through everything, so that whatever is made on first use is made now.
    fn warm_up(&mut self) {
        self.assign(WARM_UP_QUOTA_BYTES, u64::MAX);
        self.add_job(
            0,
            GenerateJob {
                prompt: "ready?".into(),
                max_tokens: 2,
                ..Default::default()
            },
        );
        while self.has_work() {
            self.step(&|| 0);
        }
        self.scrub();
        self.assign(0, u64::MAX);
        self.cost = StepCost::new(1, TOKEN_NS_GUESS);
    }

    fn add_job(&mut self, request: u64, job: GenerateJob) {
        let context = self.shape.context_tokens;
        match Sequence::new(request, job, &self.codec, &self.chat, context) {
            Ok(sequence) if sequence.kv_tokens() > self.memory.capacity_tokens() => {
                let (needed, have) = (sequence.kv_tokens(), self.memory.capacity_tokens());
                let detail = format!(
                    "prompt and answer may take {needed} tokens of KV memory, and the tenant's \
                     quota holds {have}; ask for fewer max_tokens or a larger quota"
                );
                self.answer(request, Outcome::OverQuota, detail);
            }
            Ok(sequence) => self.waiting.push_back(sequence),
            Err(detail) => self.answer(request, Outcome::Invalid, detail),
        }
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

    /// Lets waiting sequences start, the oldest first, while there is room for the first of them.
    fn admit(&mut self) {
        while self.running.len() < SEQUENCES_MAX {
            let Some(sequence) = self.waiting.pop_front() else {
                return;
            };
            match self.memory.take(sequence.kv_tokens()) {
                Ok(Some(table)) => self.running.push(Running { sequence, table }),
                Ok(None) => return self.waiting.push_front(sequence),
                // It fitted when it came: blocks were lost since, because they could not be cleaned.
                Err(error) => self.answer(sequence.request, Outcome::Internal, error.to_string()),
            }
        }
    }

    /// The next step's rows, and which of them end a sequence's known tokens (row, sequence).
    fn plan(&mut self) -> (Vec<Row>, Vec<(usize, usize)>) {
        let budget = self.cost.units_within(self.step_limit_ns) as usize;
        let asks: Vec<_> = self
            .running
            .iter()
            .map(|running| running.sequence.ask())
            .collect();
        let given = share(&asks, budget.min(STEP_TOKENS_MAX), self.turn);
        self.turn = self.turn.wrapping_add(1);
        let (mut rows, mut ends) = (Vec::new(), Vec::new());
        for (table, (running, given)) in self.running.iter_mut().zip(given).enumerate() {
            let sequence = &mut running.sequence;
            for position in sequence.computed..sequence.computed + given {
                rows.push(Row {
                    token: sequence.tokens[position],
                    position,
                    table,
                });
            }
            sequence.computed += given;
            if given > 0 && sequence.is_computed() {
                ends.push((rows.len() - 1, table));
            }
        }
        (rows, ends)
    }

    /// Ends every running sequence: what their blocks hold is not known any more.
    fn fail(&mut self, error: &DeviceError) {
        while let Some(last) = self.running.len().checked_sub(1) {
            let request = self.running[last].sequence.request;
            self.end(last);
            self.answer(request, Outcome::Internal, error.to_string());
        }
    }

    /// Ends the sequence at `at`: its blocks are zeroed here.
    fn end(&mut self, at: usize) {
        let Running { sequence, table } = self.running.remove(at);
        drop(sequence);
        self.memory.end(table, self.decoder.as_mut());
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

    fn assign(&mut self, quota_bytes: u64, step_limit_ns: u64) {
        self.step_limit_ns = step_limit_ns;
        let blocks = self.decoder.assign(quota_bytes);
        self.memory = Memory::new(blocks, self.shape.block_bytes);
    }

    fn add(&mut self, item: WorkItem) {
        match item.job {
            Some(Job::Generate(job)) => self.add_job(item.request, job),
            _ => {
                let detail = "this model generates text and does nothing else".to_owned();
                self.answer(item.request, Outcome::Invalid, detail);
            }
        }
    }

    fn cancel(&mut self, request: u64) {
        let waiting = self.waiting.len();
        self.waiting.retain(|sequence| sequence.request != request);
        let running = self
            .running
            .iter()
            .position(|one| one.sequence.request == request);
        if let Some(at) = running {
            self.end(at);
        }
        if running.is_some() || self.waiting.len() < waiting {
            self.answer(request, Outcome::Cancelled, String::new());
        }
    }

    fn has_work(&self) -> bool {
        !(self.waiting.is_empty() && self.running.is_empty() && self.answers.is_empty())
    }

    fn step(&mut self, now_ns: &dyn Fn() -> u64) -> StepOutcome {
        let began = now_ns();
        self.admit();
        let mut outcome = StepOutcome {
            finished: std::mem::take(&mut self.answers),
            ..StepOutcome::default()
        };
        if self.running.is_empty() {
            return outcome;
        }
        let (rows, ends) = self.plan();
        let wanted: Vec<usize> = ends.iter().map(|(row, _)| *row).collect();
        let tables: Vec<&[u32]> = self
            .running
            .iter()
            .map(|running| running.table.blocks())
            .collect();
        let logits = match self.decoder.forward(&rows, &wanted, &tables) {
            Ok(logits) => logits,
            Err(error) => {
                self.fail(&error);
                return outcome;
            }
        };
        let over = choose(
            &mut self.running,
            &ends,
            logits.chunks_exact_mut(self.shape.vocabulary),
            &self.codec,
            &mut outcome,
        );
        outcome.sequences = self.running.len() as u32;
        for at in over.into_iter().rev() {
            self.end(at);
        }
        outcome.tokens = rows.len() as u32;
        self.cost
            .observe(rows.len() as u64, now_ns().saturating_sub(began));
        outcome
    }

    fn kv_bytes(&self) -> u64 {
        self.memory.held_bytes()
    }

    /// Scratch is only needed inside a step, so all of it is zeroed and read back, whoever is live.
    fn scrub(&mut self) -> Scrubbed {
        let blocks = self.memory.scrub(self.decoder.as_mut());
        sum(blocks, self.decoder.scrub())
    }
}

/// Chooses the next token of every sequence in `ends`; returns which sequences are over.
fn choose<'a>(
    running: &mut [Running],
    ends: &[(usize, usize)],
    logits: impl Iterator<Item = &'a mut [f32]>,
    codec: &TextCodec,
    outcome: &mut StepOutcome,
) -> Vec<usize> {
    let mut over = Vec::new();
    for ((_, at), logits) in ends.iter().zip(logits) {
        let sequence = &mut running[*at].sequence;
        let mut next = sequence.next(logits, codec);
        let (request, output_tokens) = (sequence.request, sequence.generated());
        outcome.pieces.extend(next.piece(request, output_tokens));
        if let Some(finished) = next.finished {
            over.push(*at);
            outcome.finished.push(Finished {
                request,
                input_tokens: sequence.prompt_tokens as u32,
                output_tokens,
                ..finished
            });
        }
    }
    over
}
