//! Choosing the next token.
//!
//! The order is that of Hugging Face transformers (`GenerationMixin._get_logits_processor`): bias,
//! repetition penalty, then OpenAI's frequency and presence penalties; temperature; top-k, top-p, min-p;
//! one draw among the tokens left. With temperature 0 the greatest logit after bias and penalties is
//! taken. Of equals, the lowest id comes first, everywhere.
//!
//! The n-th token of a sequence is a function of its logits, its tokens, the request's numbers and n
//! alone, so an answer does not depend on what else ran beside it, how its prompt was divided into steps,
//! whether it was computed again, or whether the processor or a device chose it. The logits are left as they were
//! found.

mod logprobs;
mod penalties;
#[cfg(test)]
mod tests;

use bulkhead_kernels::compute::choice::{Choice, Filters, Penalty, Wish, make_finite, uniform};
pub use logprobs::{LOGPROBS_MAX, Likelihoods};
pub use penalties::BIASES_MAX;
use penalties::{Changed, Penalties};

/// Temperatures above this make noise only.
pub const TEMPERATURE_MAX: f32 = 10.0;
/// Repetition penalties above this leave nothing of a model's opinion.
pub const REPETITION_MAX: f32 = 10.0;
/// How far presence and frequency penalties may be from 0, as in OpenAI's API.
pub const PENALTY_MAX: f32 = 2.0;
/// How far a bias may be from 0, as in OpenAI's API.
pub const BIAS_MAX: f32 = 100.0;

/// A request's numbers. Those of the default are greedy and change nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sampling {
    /// 0 to [`TEMPERATURE_MAX`]; 0 is greedy.
    pub temperature: f32,
    /// Likeliest tokens to keep; 0 is off.
    pub top_k: u32,
    /// Probability that the tokens kept reach together; 0 means 1, which is off.
    pub top_p: f32,
    /// Least share of the likeliest token's probability; 0 is off.
    pub min_p: f32,
    /// Divides positive logits of tokens in prompt and answer, multiplies negative ones; 0 means 1, off.
    pub repetition: f32,
    /// Taken from logits of tokens in the answer.
    pub presence: f32,
    /// Taken from logits of tokens in the answer, as often as they occur.
    pub frequency: f32,
    /// Token ids, and what is added to their logits.
    pub bias: Vec<(u32, f32)>,
    /// Of the draws.
    pub seed: u64,
}

/// Why a request's numbers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// Not a temperature.
    #[error("temperature must be between 0 and {TEMPERATURE_MAX}")]
    Temperature,
    /// Not a share.
    #[error("top_p must be between 0 and 1")]
    TopP,
    /// Not a share.
    #[error("min_p must be between 0 and 1")]
    MinP,
    /// Not a factor.
    #[error("repetition_penalty must be above 0 and at most {REPETITION_MAX}; 1 is off")]
    Repetition,
    /// Out of bounds.
    #[error("presence_penalty must be between -{PENALTY_MAX} and {PENALTY_MAX}")]
    Presence,
    /// Out of bounds.
    #[error("frequency_penalty must be between -{PENALTY_MAX} and {PENALTY_MAX}")]
    Frequency,
    /// Out of bounds.
    #[error("a logit_bias must be between -{BIAS_MAX} and {BIAS_MAX}")]
    Bias,
    /// Too much to keep.
    #[error("logit_bias may name at most {BIASES_MAX} tokens")]
    Biases,
}

/// The tokens of a sequence so far.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    /// The prompt's, then the answer's.
    pub tokens: &'a [u32],
    /// How many are the prompt's.
    pub prompt_tokens: usize,
}

impl History<'_> {
    /// Tokens of the answer so far.
    pub fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }
}

/// How one sequence's tokens are chosen.
#[derive(Debug)]
pub struct Sampler {
    temperature: f32,
    filters: Filters,
    penalties: Penalties,
    seed: u64,
}

impl Sampler {
    /// Checks the numbers.
    pub fn new(sampling: Sampling) -> Result<Self, SamplingError> {
        let within = |x: f32, max: f32, error| match x.abs() <= max {
            true => Ok(x),
            false => Err(error),
        };
        let share = |x: f32, error| match (0.0..=1.0).contains(&x) {
            true => Ok(x),
            false => Err(error),
        };
        if !(0.0..=TEMPERATURE_MAX).contains(&sampling.temperature) {
            return Err(SamplingError::Temperature);
        }
        if !(0.0..=REPETITION_MAX).contains(&sampling.repetition) {
            return Err(SamplingError::Repetition);
        }
        if sampling.bias.len() > BIASES_MAX {
            return Err(SamplingError::Biases);
        }
        for (_, bias) in &sampling.bias {
            within(*bias, BIAS_MAX, SamplingError::Bias)?;
        }
        Ok(Sampler {
            temperature: sampling.temperature,
            filters: Filters {
                top_k: sampling.top_k,
                top_p: or_one(share(sampling.top_p, SamplingError::TopP)?),
                min_p: share(sampling.min_p, SamplingError::MinP)?,
            },
            penalties: Penalties::new(
                Penalty {
                    repetition: or_one(sampling.repetition),
                    presence: within(sampling.presence, PENALTY_MAX, SamplingError::Presence)?,
                    frequency: within(sampling.frequency, PENALTY_MAX, SamplingError::Frequency)?,
                },
                sampling.bias,
            ),
            seed: sampling.seed,
        })
    }

    /// The token that follows `history`, but none of `banned`. `None` where the model left nothing to
    /// choose from. Afterwards the logits are what they were, but NaN became -∞ and ∞ the greatest number.
    pub fn choose(
        &mut self,
        logits: &mut [f32],
        history: History<'_>,
        banned: impl Iterator<Item = u32>,
    ) -> Option<u32> {
        make_finite(logits);
        let mut changed = Changed::default();
        self.penalties.apply(logits, history, &mut changed);
        for token in banned {
            changed.set(logits, token, |_| f32::NEG_INFINITY);
        }
        let token = self.choice(history).of(logits);
        changed.undo(logits);
        token
    }

    /// What there is to know to choose the same token elsewhere, of logits as the model gave them.
    pub fn wish(&mut self, history: History<'_>, banned: impl Iterator<Item = u32>) -> Wish {
        Wish {
            choice: self.choice(history),
            penalty: self.penalties.penalty(),
            changes: self.penalties.changes(history, banned),
        }
    }

    fn choice(&self, history: History<'_>) -> Choice {
        Choice {
            temperature: self.temperature,
            filters: self.filters,
            at: uniform(self.seed, history.generated() as u64),
        }
    }
}

/// Numbers whose absence on the wire means that they are off.
fn or_one(x: f32) -> f32 {
    if x == 0.0 { 1.0 } else { x }
}
