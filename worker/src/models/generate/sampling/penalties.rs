//! What changes single tokens' logits before they are compared.
//!
//! Repetition as transformers' `RepetitionPenaltyLogitsProcessor` has it (after CTRL, Keskar et al. 2019):
//! once for every token that occurs in prompt or answer. Presence and frequency as OpenAI's API defines
//! them: over the answer alone. All state follows from the sequence's tokens, and only logits of tokens
//! that occur are touched, so a step costs by the tokens that differ, not by the vocabulary.

use super::History;
use bulkhead_kernels::compute::choice::{Change, Counted, Penalty};
use std::collections::BTreeMap;

/// Biases of one request at most.
pub const BIASES_MAX: usize = 1024;

/// One sequence's penalties and biases.
#[derive(Debug)]
pub struct Penalties {
    penalty: Penalty,
    bias: BTreeMap<u32, f32>,
    occurrences: Occurrences,
}

/// How often each token of a sequence occurs in its answer: 0 for those of the prompt alone.
#[derive(Debug, Default)]
struct Occurrences {
    counts: BTreeMap<u32, u32>,
    /// Tokens of the sequence that are counted.
    counted: usize,
}

impl Occurrences {
    /// Counts the tokens that came since the last time, from `from` on.
    fn follow(&mut self, history: History<'_>, from: usize) {
        let from = self.counted.max(from);
        for (at, token) in history.tokens.iter().enumerate().skip(from) {
            let count = self.counts.entry(*token).or_default();
            *count += u32::from(at >= history.prompt_tokens);
        }
        self.counted = history.tokens.len();
    }
}

impl Penalties {
    /// A `repetition` of 1 is off, the others are at 0. Several biases of one token add up.
    pub fn new(penalty: Penalty, biases: Vec<(u32, f32)>) -> Self {
        let mut bias = BTreeMap::new();
        for (token, more) in biases {
            *bias.entry(token).or_insert(0.0) += more;
        }
        Penalties {
            penalty,
            bias,
            occurrences: Occurrences::default(),
        }
    }

    /// What is done to tokens that occurred.
    pub fn penalty(&self) -> Penalty {
        self.penalty
    }

    /// Changes the logits of a sequence's next token.
    pub fn apply(&mut self, logits: &mut [f32], history: History<'_>, changed: &mut Changed) {
        for (token, bias) in &self.bias {
            changed.set(logits, *token, |x| x + bias);
        }
        let penalty = self.penalty;
        for (token, count) in self.counted(history) {
            changed.set(logits, *token, |x| penalty.of(x, *count));
        }
    }

    /// The same as a list, with those that are banned.
    pub fn changes(
        &mut self,
        history: History<'_>,
        banned: impl Iterator<Item = u32>,
    ) -> Vec<Change> {
        let mut changes = BTreeMap::new();
        let plain = |token, bias| Change {
            token,
            bias,
            counted: Counted::Not,
        };
        for (token, bias) in &self.bias {
            changes.insert(*token, plain(*token, *bias));
        }
        let mut count = |token: u32, counted| {
            let change = changes.entry(token).or_insert(plain(token, 0.0));
            change.counted = counted;
        };
        for (token, times) in self.counted(history) {
            count(*token, Counted::Times(*times));
        }
        banned.for_each(|token| count(token, Counted::Banned));
        changes.into_values().collect()
    }

    /// The tokens that a penalty is of, and how often each is in the answer.
    fn counted(&mut self, history: History<'_>) -> &BTreeMap<u32, u32> {
        let Penalty {
            repetition,
            presence,
            frequency,
        } = self.penalty;
        match (repetition == 1.0, presence, frequency) {
            // None was ever counted.
            (true, 0.0, 0.0) => {}
            (true, ..) => self.occurrences.follow(history, history.prompt_tokens),
            (false, ..) => self.occurrences.follow(history, 0),
        }
        &self.occurrences.counts
    }
}

/// Logits that were changed, so that they can be put back.
#[derive(Debug, Default)]
pub struct Changed {
    /// Ids and former values, in order.
    before: Vec<(u32, f32)>,
}

impl Changed {
    /// Changes one logit. Tokens that the model does not have are left alone.
    pub fn set(&mut self, logits: &mut [f32], token: u32, change: impl Fn(f32) -> f32) {
        if let Some(logit) = logits.get_mut(token as usize) {
            self.before.push((token, *logit));
            *logit = change(*logit);
        }
    }

    /// Puts all back.
    pub fn undo(self, logits: &mut [f32]) {
        for (token, logit) in self.before.into_iter().rev() {
            logits[token as usize] = logit;
        }
    }
}
