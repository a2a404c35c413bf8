//! Which tokens are left to draw from: top-k, then top-p of what is left (Holtzman et al. 2020), then
//! min-p (Nguyen et al. 2024).
//!
//! Each keeps the head of the same order, so together they are one least rank. It is found without
//! sorting the vocabulary: a histogram over the weights' leading bits says in which bin the limit is, and
//! only that bin's few tokens are sorted.

use super::weights::{Block, Rank, Weights};

/// Bits of a weight that do not count for its bin: sixteen bins for each power of two.
const BIN_SHIFT: u32 = 19;
/// Bins for weights from 0 to 1, whose bits as an integer are in the order of their values.
const BINS: usize = (1f32.to_bits() >> BIN_SHIFT) as usize + 1;

/// The numbers of one request.
#[derive(Clone, Copy, Debug)]
pub struct Filters {
    /// 0 is off.
    pub top_k: u32,
    /// 1 is off.
    pub top_p: f32,
    /// 0 is off.
    pub min_p: f32,
}

impl Filters {
    /// The least rank that is kept. The likeliest token always is.
    pub fn least(&self, weights: &Weights<'_>) -> Rank {
        let least = if self.top_k > 0 || self.top_p < 1.0 {
            self.head(weights)
        } else {
            Rank::LOWEST
        };
        if self.min_p > least.weight {
            return Rank {
                weight: self.min_p,
                id: u32::MAX,
            };
        }
        least
    }

    fn head(&self, weights: &Weights<'_>) -> Rank {
        let bins = Bins::of(weights);
        let most = match self.top_k {
            0 => u32::MAX,
            k => k,
        };
        let (least, kept) = bins.descend(weights, |taken| taken.tokens >= most);
        if self.top_p >= 1.0 {
            return least;
        }
        let enough = f64::from(self.top_p) * kept.mass;
        let reached = |taken: Taken| taken.mass >= enough || taken.tokens >= most;
        bins.descend(weights, reached).0
    }
}

/// How many tokens, and the sum of their weights.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    tokens: u32,
    mass: f64,
}

impl Taken {
    fn and(self, other: Taken) -> Taken {
        Taken {
            tokens: self.tokens + other.tokens,
            mass: self.mass + other.mass,
        }
    }
}

struct Bins([Taken; BINS]);

impl Bins {
    fn of(weights: &Weights<'_>) -> Self {
        let mut bins = [Taken::default(); BINS];
        let mut block = Block::new();
        for index in 0..weights.blocks() {
            weights.block(index, &mut block);
            for (weight, _) in block.entries() {
                let bin = &mut bins[bin_of(weight)];
                bin.tokens += 1;
                bin.mass += f64::from(weight);
            }
        }
        Bins(bins)
    }

    /// Goes down from the likeliest token to the first with which `reached` holds. Returns its rank, or
    /// the lowest, and what was taken on the way.
    fn descend(&self, weights: &Weights<'_>, reached: impl Fn(Taken) -> bool) -> (Rank, Taken) {
        let mut taken = Taken::default();
        for (bin, content) in self.0.iter().enumerate().rev() {
            let whole = taken.and(*content);
            if content.tokens == 0 || !reached(whole) {
                taken = whole;
                continue;
            }
            for (weight, id) in ranked(weights, bin, content.tokens as usize) {
                let mass = f64::from(weight);
                taken = taken.and(Taken { tokens: 1, mass });
                if reached(taken) {
                    return (Rank { weight, id }, taken);
                }
            }
        }
        (Rank::LOWEST, taken)
    }
}

fn bin_of(weight: f32) -> usize {
    (weight.to_bits() >> BIN_SHIFT) as usize
}

/// A bin's tokens, the likeliest first.
fn ranked(weights: &Weights<'_>, bin: usize, tokens: usize) -> Vec<(f32, u32)> {
    let mut found = Vec::with_capacity(tokens);
    let mut block = Block::new();
    for index in 0..weights.blocks() {
        weights.block(index, &mut block);
        found.extend(block.entries().filter(|(w, _)| bin_of(*w) == bin));
    }
    // Stable, and the ids came in order. Equal weights are one run, which costs nothing.
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}
