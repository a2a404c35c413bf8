//! The parts of a step: encode, plan, compute, choose, clean, tell.
//!
//! Each keeps to the time that it is given, which follows from the limit and from what the steps before
//! took. What runs is decided in `bulkhead-worker-core`, never here.

use super::{Generator, SIDE_SHARE};
use crate::engine::StepOutcome;
use crate::models::decoder::{DeviceError, Row};
use crate::models::generate::cleaning::Cleaning;
use crate::models::generate::encoding::Decided;
use crate::models::generate::sequence::Sequence;
use crate::models::scratch::sum;
use crate::models::text::TextCodec;
use bulkhead_proto::internal::{Finished, Outcome};
use bulkhead_worker_core::{Agent, Arrival, Dirty, Ended, Plan, Room};
use std::collections::BTreeMap;

impl Generator {
    /// Encodes prompts until `until_ns`, and at least a piece of one.
    pub(super) fn encode(&mut self, until_ns: u64, now_ns: &dyn Fn() -> u64) {
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
    pub(super) fn compute(
        &mut self,
        until_ns: u64,
        now_ns: &dyn Fn() -> u64,
        outcome: &mut StepOutcome,
    ) {
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
    pub(super) fn close(&mut self, finished: Finished) {
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

    /// Cleans blocks until `until_ns`, and at least one: of sequences that ended, then of the cache those
    /// whose time has come; where nothing else is left to do, those that were in use a second time.
    pub(super) fn clean(&mut self, until_ns: u64, now_ns: &dyn Fn() -> u64) {
        let mut cleaning = Cleaning {
            decoder: self.decoder.as_mut(),
            evidence: &mut self.evidence,
            model: &mut self.model,
            now_ns,
            spent_ns: 0,
        };
        let idle = !self.planner.has_sequences() && self.arrivals.is_empty();
        loop {
            let mut clean = |block: &Dirty| cleaning.block(block);
            if self.planner.dirty_blocks() > 0 {
                self.planner.clean_one(&mut clean);
            } else if self.planner.expire_one(self.prefix_idle_ns, &mut clean) {
                // One whose time had come.
            } else if idle && self.planner.blocks_to_recheck() > 0 {
                self.planner.recheck_one(&mut clean);
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
    pub(super) fn report(&mut self, outcome: &mut StepOutcome) {
        outcome.finished.append(&mut self.answers);
        let planner = &self.planner;
        let clean = |finished: &mut Finished| planner.is_clean(finished.request);
        outcome.finished.extend(self.closing.extract_if(.., clean));
        if !outcome.finished.is_empty() {
            self.scrub_scratch();
        }
        outcome.residue_bytes = self.evidence.residue;
    }

    pub(super) fn scrub_scratch(&mut self) {
        if std::mem::take(&mut self.scratch_used) {
            self.evidence = sum(self.evidence, self.decoder.scrub());
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
