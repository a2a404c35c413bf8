//! Choosing a token of a row of logits: the greatest, or one drawn among those that filters leave.
//!
//! Here for the processor, in vector code; for a device in `cuda/choose.cu`, which is held to choose the very same
//! token. So every step is one whose result does not depend on who computes it: weights by single operations in one
//! order, sums of them in one order, and what is added up in any order in integers. Of equals the lowest id comes
//! first, everywhere.
//!
//! Nothing here keeps anything of a row, and nothing is as large as the vocabulary: weights are computed in blocks,
//! as often as they are needed.

mod draw;
mod filters;
mod penalty;
mod weights;

pub use draw::{draw, uniform};
pub use filters::{Filters, mass};
pub use penalty::{Change, Counted, Penalty};
pub use weights::{BLOCK, Block, Rank, Weights, make_finite, top};

/// Temperatures below this are greedy: the division would leave nothing else, or no number at all.
const GREEDY_BELOW: f32 = 1e-5;

/// How one token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// What logits are divided by; below 1e-5 the greatest is taken.
    pub temperature: f32,
    /// Which tokens are left to draw from.
    pub filters: Filters,
    /// Where in the sum of the weights left the draw falls, from 0 to below 1.
    pub at: f64,
}

impl Choice {
    /// True where nothing is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_BELOW
    }

    /// What the distances of logits from the greatest are multiplied with.
    pub fn inverse(&self) -> f32 {
        1.0 / self.temperature
    }

    /// The token, of logits without NaN and +∞. `None` if none is above -∞.
    pub fn of(&self, logits: &[f32]) -> Option<u32> {
        if self.is_greedy() {
            return weights::greatest(logits);
        }
        let weights = Weights::new(logits, self.inverse())?;
        let least = self.filters.least(&weights);
        draw(&weights, least, self.at)
    }
}

/// Everything that there is to know to choose the token after one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// How, once the logits are changed.
    pub choice: Choice,
    /// How logits of tokens that occurred are changed.
    pub penalty: Penalty,
    /// Which logits are changed: of each token once, in order of ids. Those that a row does not have are left out.
    pub changes: Vec<Change>,
}

impl Wish {
    /// The token, of a row as a model gave it, which is changed. `None` if nothing is left to choose from. A device's
    /// `choose` is held to find the same.
    pub fn of(&self, logits: &mut [f32]) -> Option<u32> {
        make_finite(logits);
        for change in &self.changes {
            if let Some(logit) = logits.get_mut(change.token as usize) {
                *logit = change.of(*logit, &self.penalty);
            }
        }
        self.choice.of(logits)
    }
}
