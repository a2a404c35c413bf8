//! Which tokens are left to draw from: top-k, then top-p of what is left (Holtzman et al. 2020), then
//! min-p (Nguyen et al. 2024).
//!
//! Each keeps the head of the same order, so together they are one least rank. It is found without
//! sorting the vocabulary: a histogram over the weights' leading bits says in which bin the limit is, and
//! only that bin's few tokens are sorted. Tokens that cannot be in the head are not even counted.
//!
//! What a head reaches is added up in integers, which come out the same in any order: a device that adds by
//! thousands of threads finds the same limit.

use super::weights::{Rank, Weights};

/// Bits of a weight that do not count for its bin: sixteen bins for each power of two.
const BIN_SHIFT: u32 = 19;
/// Bins for weights from 0 to 1, whose bits as an integer are in the order of their values.
const BINS: usize = (1f32.to_bits() >> BIN_SHIFT) as usize + 1;
/// The greatest weight as an integer: 2⁴⁰, so that a million of them have room in 64 bits.
const WHOLE: f32 = 1_099_511_627_776.0;
/// Weights from which on tokens may be enough for top-p: all, and some that leave most of a vocabulary
/// out where a model is sure.
const FLOORS: [f32; 5] = [Rank::LOWEST.weight, 1e-6, 1e-4, 1e-3, 1e-2];

/// The numbers of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
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
        if self.top_k == 0 {
            return self.top_p(weights);
        }
        let bins = Bins::of(weights, self.top_k_floor(weights));
        let (least, mass) = bins.descend(weights, |taken| taken.tokens >= self.top_k);
        if self.top_p >= 1.0 {
            return least;
        }
        let enough = (f64::from(self.top_p) * mass as f64).ceil() as u64;
        let reached = |taken: Taken| taken.mass >= enough || taken.tokens >= self.top_k;
        bins.descend(weights, reached).0
    }

    /// The least rank of the head that reaches `top_p` of all weights.
    fn top_p(&self, weights: &Weights<'_>) -> Rank {
        let masses = weights.sums(FLOORS);
        let share = f64::from(self.top_p) * masses[0];
        let enough = (share * f64::from(WHOLE)).ceil() as u64;
        let mut floors = FLOORS.iter().zip(masses).rev();
        let floor = floors.find(|(_, mass)| *mass >= share);
        let mut bins = Bins::of(weights, floor.map_or(FLOORS[0], |(floor, _)| *floor));
        // Integers leave something out of every weight, so all from the floor on may fall short by that.
        if bins.mass() < enough {
            bins = Bins::of(weights, FLOORS[0]);
        }
        bins.descend(weights, |taken| taken.mass >= enough).0
    }

    /// A weight that so many tokens reach: each of so many blocks has one.
    fn top_k_floor(&self, weights: &Weights<'_>) -> f32 {
        let mut tops = weights.tops().to_vec();
        let k = self.top_k as usize;
        if k > tops.len() {
            return Rank::LOWEST.weight;
        }
        let (_, kth, _) = tops.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
        kth.max(Rank::LOWEST.weight)
    }
}

/// A weight as an integer, of which the greatest weight has [`WHOLE`].
pub fn mass(weight: f32) -> u64 {
    (weight * WHOLE) as u64
}

/// How many tokens, and the sum of their weights as integers.
#[derive(Clone, Copy, Debug, Default)]
struct Taken {
    tokens: u32,
    mass: u64,
}

impl Taken {
    fn and(self, other: Taken) -> Taken {
        Taken {
            tokens: self.tokens + other.tokens,
            mass: self.mass + other.mass,
        }
    }
}

struct Bins {
    bins: [Taken; BINS],
    floor: f32,
}

impl Bins {
    /// Of the tokens with a weight of at least `floor`.
    fn of(weights: &Weights<'_>, floor: f32) -> Self {
        let mut bins = [Taken::default(); BINS];
        weights.each(floor, |block| {
            for (weight, _) in block.entries().filter(|(weight, _)| *weight >= floor) {
                let bin = &mut bins[bin_of(weight)];
                bin.tokens += 1;
                bin.mass += mass(weight);
            }
        });
        Bins { bins, floor }
    }

    /// Of all its tokens.
    fn mass(&self) -> u64 {
        self.bins.iter().map(|bin| bin.mass).sum()
    }

    /// Goes down from the likeliest token to the first with which `reached` holds. Returns its rank, or
    /// the floor, and the sum of the weights on the way.
    fn descend(&self, weights: &Weights<'_>, reached: impl Fn(Taken) -> bool) -> (Rank, u64) {
        let mut taken = Taken::default();
        for (bin, content) in self.bins.iter().enumerate().rev() {
            let whole = taken.and(*content);
            if content.tokens == 0 || !reached(whole) {
                taken = whole;
                continue;
            }
            for (weight, id) in ranked(weights, bin, content.tokens as usize) {
                taken = taken.and(Taken {
                    tokens: 1,
                    mass: mass(weight),
                });
                if reached(taken) {
                    return (Rank { weight, id }, taken.mass);
                }
            }
        }
        let all = Rank {
            weight: self.floor,
            id: u32::MAX,
        };
        (all, taken.mass)
    }
}

fn bin_of(weight: f32) -> usize {
    (weight.to_bits() >> BIN_SHIFT) as usize
}

/// A bin's tokens, the likeliest first.
fn ranked(weights: &Weights<'_>, bin: usize, tokens: usize) -> Vec<(f32, u32)> {
    let mut found = Vec::with_capacity(tokens);
    let least = f32::from_bits((bin as u32) << BIN_SHIFT);
    weights.each(least, |block| {
        found.extend(block.entries().filter(|(w, _)| bin_of(*w) == bin));
    });
    // Stable, and the ids came in order. Equal weights are one run, which costs nothing.
    found.sort_by(|a, b| b.0.total_cmp(&a.0));
    found
}
