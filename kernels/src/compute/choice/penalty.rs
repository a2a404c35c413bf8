//! What changes single logits before they are compared.

/// How logits of tokens that occurred are changed: repetition as transformers has it, presence and frequency as
/// OpenAI's API defines them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Penalty {
    /// Divides positive logits, multiplies the others; 1 is off.
    pub repetition: f32,
    /// Taken from logits of tokens that are in the answer.
    pub presence: f32,
    /// Taken from them as often as they are.
    pub frequency: f32,
}

impl Penalty {
    /// The logit of a token that is `count` times in the answer.
    pub fn of(&self, logit: f32, count: u32) -> f32 {
        let repeated = match logit > 0.0 {
            true => logit / self.repetition,
            false => logit * self.repetition,
        };
        let present = if count > 0 { self.presence } else { 0.0 };
        // A small factor must not make a number that no filter can compare.
        (repeated - self.frequency * count as f32 - present).min(f32::MAX)
    }
}

/// What one token's occurrences mean for its logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    /// Nothing.
    Not,
    /// The penalty of so many times in the answer.
    Times(u32),
    /// It must not be chosen.
    Banned,
}

/// A change of one token's logit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Which token.
    pub token: u32,
    /// What is added first.
    pub bias: f32,
    /// What follows.
    pub counted: Counted,
}

impl Change {
    /// The logit after it.
    pub fn of(&self, logit: f32, penalty: &Penalty) -> f32 {
        let biased = logit + self.bias;
        match self.counted {
            Counted::Not => biased,
            Counted::Times(count) => penalty.of(biased, count),
            Counted::Banned => f32::NEG_INFINITY,
        }
    }
}
