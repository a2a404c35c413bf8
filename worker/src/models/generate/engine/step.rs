//! The parts of a step: encode, plan, compute, choose, clean, tell.
//!
//! Each keeps to the time that it is given, which follows from the limit and from what the steps before
//! took. What runs is decided in `bulkhead-worker-core`, never here.

use super::{Generator, SIDE_SHARE};
use crate::engine::StepOutcome;
use crate::models::decoder::{DeviceError, Found, Given, Row};
use crate::models::generate::cleaning::Cleaning;
use crate::models::generate::encoding::Decided;
use crate::models::generate::sequence::Sequence;
use crate::models::scratch::sum;
use crate::models::text::TextCodec;
use bulkhead_kernels::compute::choice::Wish;
use bulkhead_proto::internal::{Finished, Outcome};
use bulkhead_worker_core::{
    Advanced, Agent, Arrival, Clock, Dirty, Ended, GoOn, Part, Pass, Room, reading_ns,
};
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

    /// Plans what begins now, and computes that and what is on its way until `until_ns`.
    pub(super) fn compute(&mut self, until_ns: u64, now_ns: &Clock<'_>, outcome: &mut StepOutcome) {
        self.plan(until_ns, now_ns);
        let mut underway = std::mem::take(&mut self.underway);
        let over = underway.run(until_ns, now_ns, &mut |pass, go_on| {
            self.advance(pass, go_on, outcome)
        });
        self.underway = underway;
        self.shrink_passes();
        for (pass, took_ns) in over {
            outcome.expected_ns += pass.expected_ns as u64;
            outcome.computed_ns += took_ns;
            if pass.is_whole() {
                self.model.observe(pass.work, took_ns);
            }
        }
    }

    fn plan(&mut self, until_ns: u64, now_ns: &Clock<'_>) {
        let (prices, dirty) = (self.model.prices(), self.planner.dirty_blocks());
        let share = self.step_limit_ns / SIDE_SHARE;
        let cleaning_ns = (self.model.block_ns() * dirty as f64).min(share as f64);
        let room = Room {
            ns: until_ns.saturating_sub(now_ns()) as f64 - cleaning_ns,
            reading_ns: reading_ns(self.step_limit_ns, self.shape.layers),
            tokens: usize::try_from(self.model.tokens_max()).unwrap_or(usize::MAX),
            answers: usize::try_from(self.model.answers_max()).unwrap_or(usize::MAX),
        };
        let mut cleaning = Cleaning {
            decoder: self.decoder.as_mut(),
            evidence: &mut self.evidence,
            model: &mut self.model,
            now_ns,
        };
        let begun = self
            .planner
            .plan(prices, room, &mut |block| cleaning.block(block));
        // To make room, sequences may have been taken out of a pass.
        self.shrink_passes();
        for pass in begun {
            self.underway.begin(pass, prices, self.shape.layers);
        }
    }

    /// Takes sequences that ended, or lost their blocks, out of the passes that they are in: those blocks may be
    /// another's soon.
    pub(super) fn shrink_passes(&mut self) {
        let Generator {
            underway,
            planner,
            decoder,
            evidence,
            ..
        } = self;
        underway.shrink(|pass| {
            let left = planner.parts(pass);
            if left.len() < pass.parts.len() {
                let (rows, answers) = kept(pass, left);
                let scrubbed = decoder.keep(pass.kind, &rows, &answers);
                *evidence = sum(*evidence, scrubbed);
                pass.parts = left.to_vec();
            }
        });
    }

    /// Computes a pass on, and at its end chooses tokens where sequences are computed to theirs.
    fn advance(
        &mut self,
        pass: &Pass,
        go_on: &mut GoOn<'_>,
        outcome: &mut StepOutcome,
    ) -> Advanced {
        let (rows, wanted) = rows(pass, &self.live);
        let answering = pass.parts.iter().filter(|part| part.answers);
        let answering = answering.map(|part| part.request);
        let wishes = match self.decoder.chooses() {
            true => wishes(answering.clone(), &mut self.live, &self.codec),
            false => Vec::new(),
        };
        let tables: Vec<&[u32]> = pass
            .parts
            .iter()
            .map(|part| self.planner.blocks(part.request))
            .collect();
        let given = Given {
            rows: &rows,
            wanted: &wanted,
            tables: &tables,
        };
        self.scratch_used = true;
        outcome.sequences += pass.parts.len() as u32;
        let answers = match self.decoder.answer(pass.kind, given, &wishes, go_on) {
            Ok(Some(answers)) => answers,
            Ok(None) => return Advanced::Stopped,
            Err(error) => {
                self.fail(pass, &error);
                return Advanced::Failed;
            }
        };
        let over = choose(
            &mut self.live,
            answering.clone(),
            answers.each(self.shape.vocabulary, &wishes),
            &self.codec,
            outcome,
        );
        outcome.tokens += pass
            .parts
            .iter()
            .map(|part| part.tokens as u32)
            .sum::<u32>();
        self.planner.complete(pass);
        answering.for_each(|request| self.planner.push(request));
        for finished in over {
            self.close(finished);
        }
        Advanced::Over
    }

    /// Ends every sequence of the pass, and gives up what is cached: what their blocks hold is not
    /// known any more.
    fn fail(&mut self, pass: &Pass, error: &DeviceError) {
        for part in &pass.parts {
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
        self.shrink_passes();
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

    /// What can be said now. Scratch is only needed inside a step, but for the rows of passes on their way,
    /// in which nothing of an ended sequence is. So all else of it is zeroed and read back before
    /// anything is said to be finished, whoever else is live.
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

/// The rows of a pass, and which of them are wanted: the last one of each part that answers.
fn rows(pass: &Pass, live: &BTreeMap<u64, Sequence>) -> (Vec<Row>, Vec<usize>) {
    let (mut rows, mut wanted) = (Vec::new(), Vec::new());
    for (table, part) in pass.parts.iter().enumerate() {
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

/// Which of a pass's rows belong to the parts that are `left`, and which of its answers.
fn kept(pass: &Pass, left: &[Part]) -> (Vec<usize>, Vec<usize>) {
    let (mut rows, mut answers) = (Vec::new(), Vec::new());
    let (mut row, mut answer) = (0, 0);
    for part in &pass.parts {
        let stays = left.contains(part);
        rows.extend((row..row + part.tokens).filter(|_| stays));
        answers.extend((part.answers && stays).then_some(answer));
        row += part.tokens;
        answer += usize::from(part.answers);
    }
    (rows, answers)
}

/// What each sequence in `answering` wishes for; nothing where its logits are wanted.
fn wishes(
    answering: impl Iterator<Item = u64>,
    live: &mut BTreeMap<u64, Sequence>,
    codec: &TextCodec,
) -> Vec<Option<Wish>> {
    let wish = |request| live.get_mut(&request)?.wish(codec);
    answering.map(wish).collect()
}

/// Takes the next token of every sequence in `answering`; returns those that are over.
fn choose<'a>(
    live: &mut BTreeMap<u64, Sequence>,
    answering: impl Iterator<Item = u64>,
    found: impl Iterator<Item = Found<'a>>,
    codec: &TextCodec,
    outcome: &mut StepOutcome,
) -> Vec<Finished> {
    let mut over = Vec::new();
    for (request, found) in answering.zip(found) {
        let Some(sequence) = live.get_mut(&request) else {
            continue;
        };
        let mut next = sequence.next(found, codec);
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
