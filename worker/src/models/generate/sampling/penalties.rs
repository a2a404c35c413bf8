//! What changes single tokens' logits before they are compared.
//!
//! Repetition as transformers' `RepetitionPenaltyLogitsProcessor` has it (after CTRL, Keskar et al. 2019):
//! once for every token that occurs in prompt or answer. Presence and frequency as OpenAI's API defines
//! them: over the answer alone. All state follows from the sequence's tokens, and only logits of tokens
//! that occur are touched, so a step costs by the tokens that differ, not by the vocabulary.

use super::History;
use std::collections::BTreeMap;

/// Biases of one request at most.
pub const BIASES_MAX: usize = 1024;

/// One sequence's penalties and biases.
#[derive(Debug)]
pub struct Penalties {
    repetition: f32,
    presence: f32,
    frequency: f32,
    bias: Vec<(u32, f32)>,
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
    /// A `repetition` of 1 is off, the others are at 0.
    pub fn new(repetition: f32, presence: f32, frequency: f32, bias: Vec<(u32, f32)>) -> Self {
        Penalties {
            repetition,
            presence,
            frequency,
            bias,
            occurrences: Occurrences::default(),
        }
    }

    /// Changes the logits of a sequence's next token.
    pub fn apply(&mut self, logits: &mut [f32], history: History<'_>, changed: &mut Changed) {
        for (token, bias) in &self.bias {
            changed.set(logits, *token, |x| x + bias);
        }
        let from = match (self.repetition == 1.0, self.presence, self.frequency) {
            (true, 0.0, 0.0) => return,
            (true, ..) => history.prompt_tokens,
            (false, ..) => 0,
        };
        self.occurrences.follow(history, from);
        for (token, count) in &self.occurrences.counts {
            changed.set(logits, *token, |x| self.penalised(x, *count));
        }
    }

    fn penalised(&self, logit: f32, count: u32) -> f32 {
        let repeated = match logit > 0.0 {
            true => logit / self.repetition,
            false => logit * self.repetition,
        };
        let present = if count > 0 { self.presence } else { 0.0 };
        // A small factor must not make a number that no filter can compare.
        (repeated - self.frequency * count as f32 - present).min(f32::MAX)
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
