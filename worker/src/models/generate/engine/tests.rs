//! Whoever chooses tokens, the engine or the decoder, answers are the same.

use super::*;
use crate::models::decoder::{Answers, DeviceError, Given};
use bulkhead_kernels::compute::choice::Wish;
use bulkhead_proto::internal::Piece;
use bulkhead_worker_core::{GoOn, PassKind};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";

/// A decoder whose logits follow from a token and its place by a formula.
struct Formula {
    /// Whether it chooses where it is wished for.
    chooses: bool,
    logits: Vec<f32>,
    /// Tokens that it chose.
    chosen: Arc<AtomicUsize>,
}

impl Formula {
    fn compute(&mut self, given: Given<'_>) {
        let last = |row: &usize| given.rows[*row];
        let each = given.wanted.iter().map(last).flat_map(|row| {
            (0..LETTERS.len()).map(move |id| {
                let mixed = (id + 1) * (row.position + 3) * (row.token as usize + 7);
                (mixed % 31) as f32 / 5.0
            })
        });
        self.logits = each.collect();
    }
}

impl Decoder for Formula {
    fn shape(&self) -> Shape {
        Shape {
            vocabulary: LETTERS.len(),
            context_tokens: 100,
            layers: 1,
            block_bytes: 64,
            weights_bytes: 0,
        }
    }

    fn assign(&mut self, quota_bytes: u64) -> u32 {
        (quota_bytes / 64) as u32
    }

    fn advance(
        &mut self,
        _: PassKind,
        given: Given<'_>,
        _: &mut GoOn<'_>,
    ) -> Result<Option<&mut [f32]>, DeviceError> {
        self.compute(given);
        Ok(Some(&mut self.logits))
    }

    fn chooses(&self) -> bool {
        self.chooses
    }

    fn answer(
        &mut self,
        _: PassKind,
        given: Given<'_>,
        wishes: &[Option<Wish>],
        _: &mut GoOn<'_>,
    ) -> Result<Option<Answers<'_>>, DeviceError> {
        assert_eq!(
            wishes.len(),
            if self.chooses { given.wanted.len() } else { 0 }
        );
        self.compute(given);
        let (mut left, mut chosen) = (Vec::new(), Vec::new());
        let rows = self.logits.chunks_mut(LETTERS.len());
        for (row, wish) in rows.zip(wishes.iter().chain(std::iter::repeat(&None))) {
            match wish {
                Some(wish) => chosen.push(wish.of(row)),
                None => left.extend_from_slice(row),
            }
        }
        self.chosen.fetch_add(chosen.len(), Relaxed);
        self.logits = left;
        let logits = &mut self.logits;
        Ok(Some(Answers { logits, chosen }))
    }

    fn keep(&mut self, _: PassKind, _: &[usize], _: &[usize]) -> Scrubbed {
        Scrubbed::default()
    }

    fn clean(&mut self, _: Range<u32>) -> Scrubbed {
        Scrubbed::default()
    }

    fn scrub(&mut self) -> Scrubbed {
        Scrubbed::default()
    }
}

/// Requests of all kinds, each with another number.
fn jobs() -> Vec<GenerateJob> {
    let plain = |nth: usize| GenerateJob {
        prompt: LETTERS[nth..nth + 9].to_owned(),
        max_tokens: 20 + nth as u32,
        seed: nth as u64,
        ..GenerateJob::default()
    };
    let mut jobs: Vec<_> = (0..8).map(plain).collect();
    for (nth, job) in jobs.iter_mut().enumerate().skip(1) {
        job.temperature = 0.5 + nth as f32 / 4.0;
    }
    (jobs[2].top_k, jobs[3].top_p, jobs[4].min_p) = (5, 0.8, 0.1);
    (jobs[5].repetition_penalty, jobs[5].presence_penalty) = (1.2, 0.5);
    jobs[5].logit_bias = [(4, 3.0), (7, -2.0)].into();
    (jobs[6].stop_token_ids, jobs[6].min_tokens) = ((0..13).collect(), 10);
    // Their logits are needed where they are.
    (jobs[1].logprobs, jobs[7].logprobs) = (Some(3), Some(0));
    jobs
}

/// What is told of each request, and how many tokens the decoder chose.
fn told(chooses: bool) -> (Vec<Piece>, Vec<Finished>, usize) {
    let letters: Vec<String> = (LETTERS.chars().zip(0..))
        .map(|(letter, id)| format!("\"{letter}\": {id}"))
        .collect();
    let vocabulary = letters.join(", ");
    let file =
        format!(r#"{{"model": {{"type": "BPE", "vocab": {{{vocabulary}}}, "merges": []}}}}"#);
    let codec = TextCodec::from_json(file.as_bytes(), None, None).expect("it parses");
    let chat = Chat::from_json(None, None, &codec).expect("none");
    let chosen = Arc::new(AtomicUsize::new(0));
    let decoder = Formula {
        chooses,
        logits: Vec::new(),
        chosen: chosen.clone(),
    };
    let mut engine = Generator::new(Box::new(decoder), codec, chat);
    engine.assign(1 << 16, u64::MAX);
    for (request, job) in (1..).zip(jobs()) {
        engine.add(WorkItem {
            request,
            job: Some(Job::Generate(job)),
            ..WorkItem::default()
        });
    }
    let (mut pieces, mut finished) = (Vec::new(), Vec::new());
    while engine.has_work() {
        let outcome = engine.step(&|| 0);
        pieces.extend(outcome.pieces);
        finished.extend(outcome.finished);
    }
    (pieces, finished, chosen.load(Relaxed))
}

#[test]
fn an_answer_is_the_same_whoever_chooses_its_tokens() {
    let (here, there) = (told(false), told(true));
    assert_eq!(here.0, there.0);
    assert_eq!(here.1, there.1);
    let of = |piece: &&Piece| !matches!(piece.request, 2 | 8);
    assert!(here.0.iter().filter(of).count() > 100, "there are answers");
    assert!(here.0.iter().any(|piece| !piece.logprobs.is_empty()));
    // Each token but those whose log-probabilities are told, and that of an end which no piece tells.
    let tokens = here.1.iter().filter(|one| !matches!(one.request, 2 | 8));
    let tokens: u32 = tokens.map(|one| one.output_tokens).sum();
    assert!(there.2 >= tokens as usize && here.2 == 0, "{}", there.2);
}
