//! Passes over all logits, in vector code: what is finite, which is the greatest, and each token's
//! weight, which is its probability as a share of the likeliest token's.
//!
//! Weights are computed block by block into a kilobyte that stays in the cache, and again where they are
//! needed again: that is cheaper than memory for all of them. Blocks whose likeliest token is too unlikely
//! for a pass are left out of it.
//!
//! Sums are taken in one order wherever they are computed, and nothing is contracted: `cuda/weights.cu` computes the very
//! same numbers.

use crate::compute::simd::{exp, run};
use pulp::{Simd, WithSimd};

/// Tokens of one block.
pub const BLOCK: usize = 256;
/// Accumulators of a sum or maximum, so that neighbours do not wait for each other.
const LANES: usize = 16;
/// Logarithm of the least weight that counts: the least number that [`exp`] makes.
const LOG_MIN: f32 = -87.0;

/// The weights of a row of logits at a temperature. The greatest weight is 1.
#[derive(Clone, Debug)]
pub struct Weights<'a> {
    logits: &'a [f32],
    scale: Scale,
    /// Each block's greatest weight.
    tops: Vec<f32>,
}

/// How a logit becomes a weight.
#[derive(Clone, Copy, Debug)]
struct Scale {
    top: f32,
    inverse: f32,
}

impl Scale {
    #[inline(always)]
    fn weight(self, logit: f32) -> f32 {
        let log = (logit - self.top) * self.inverse;
        let weight = exp(log).min(1.0);
        if log > LOG_MIN { weight } else { 0.0 }
    }
}

/// One block's weights.
#[derive(Debug)]
pub struct Block {
    values: [f32; BLOCK],
    len: usize,
    /// The id of its first token.
    first: u32,
}

impl<'a> Weights<'a> {
    /// Of logits without NaN and +∞, at the inverse of a temperature. `None` if there is none above -∞.
    pub fn new(logits: &'a [f32], inverse: f32) -> Option<Self> {
        let mut tops: Vec<f32> = logits.chunks(BLOCK).map(top).collect();
        let scale = Scale {
            top: top(&tops),
            inverse,
        };
        for top in &mut tops {
            *top = scale.weight(*top);
        }
        (scale.top > f32::NEG_INFINITY).then_some(Weights {
            logits,
            scale,
            tops,
        })
    }

    /// The greatest logit.
    pub fn top(&self) -> f32 {
        self.scale.top
    }

    /// The greatest weight of each block.
    pub fn tops(&self) -> &[f32] {
        &self.tops
    }

    /// Computes every block that has a weight of at least `least`, in order of ids.
    pub fn each(&self, least: f32, mut take: impl FnMut(&Block)) {
        let mut block = Block::new();
        for (index, top) in self.tops.iter().enumerate() {
            if *top >= least {
                self.compute(index, &mut block);
                take(&block);
            }
        }
    }

    /// One block.
    pub fn block(&self, index: usize) -> Block {
        let mut block = Block::new();
        self.compute(index, &mut block);
        block
    }

    fn compute(&self, index: usize, block: &mut Block) {
        let start = index * BLOCK;
        let logits = &self.logits[start..self.logits.len().min(start + BLOCK)];
        block.first = start as u32;
        block.len = logits.len();
        run(Exp {
            scale: self.scale,
            logits,
            out: &mut block.values[..logits.len()],
        });
    }

    /// For each of some weights, the sum of the weights that are no less.
    pub fn sums<const N: usize>(&self, least: [f32; N]) -> [f64; N] {
        let mut sums = [0.0; N];
        self.each(Rank::LOWEST.weight, |block| {
            for (sum, least) in sums.iter_mut().zip(least) {
                *sum += block.sum(Rank {
                    weight: least,
                    id: u32::MAX,
                });
            }
        });
        sums
    }
}

impl Block {
    fn new() -> Self {
        Block {
            values: [0.0; BLOCK],
            len: 0,
            first: 0,
        }
    }

    /// The weights, in order of ids.
    pub fn values(&self) -> &[f32] {
        &self.values[..self.len]
    }

    /// Weights above 0 with their ids.
    pub fn entries(&self) -> impl Iterator<Item = (f32, u32)> {
        let all = self.values().iter().copied().zip(self.first..);
        all.filter(|(weight, _)| *weight > 0.0)
    }

    /// Which block it is.
    pub fn index(&self) -> usize {
        self.first as usize / BLOCK
    }

    /// The sum of the weights that are at least `least` in rank: equal weights count up to its id.
    pub fn sum(&self, least: Rank) -> f64 {
        let equals = (least.id.saturating_add(1)).saturating_sub(self.first) as usize;
        let (with_equals, without) = self.values().split_at(equals.min(self.len));
        let sum = |weights, least| run(Sum { weights, least });
        sum(with_equals, least.weight) + sum(without, least.weight.next_up())
    }
}

/// A token's place in the order from the likeliest down: by weight, and of equals the lowest id first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rank {
    pub weight: f32,
    pub id: u32,
}

impl Rank {
    /// Below every token that can be chosen.
    pub const LOWEST: Rank = Rank {
        weight: f32::MIN_POSITIVE,
        id: u32::MAX,
    };

    /// True for this rank and all above it.
    #[inline(always)]
    pub fn admits(self, weight: f32, id: u32) -> bool {
        (weight > self.weight) | ((weight == self.weight) & (id <= self.id))
    }
}

/// Makes a row fit to be ranked: NaN becomes -∞ and +∞ the greatest number.
pub fn make_finite(logits: &mut [f32]) {
    run(Finite(logits));
}

/// The id of the greatest logit, the lowest of equals; `None` if there is none above -∞.
pub fn greatest(logits: &[f32]) -> Option<u32> {
    let top = run(Top(logits));
    let at = logits.iter().position(|x| *x == top);
    at.filter(|_| top > f32::NEG_INFINITY).map(|at| at as u32)
}

/// The greatest of some logits without NaN.
pub fn top(logits: &[f32]) -> f32 {
    run(Top(logits))
}

struct Finite<'a>(&'a mut [f32]);
impl WithSimd for Finite<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for x in self.0 {
            *x = if x.is_nan() {
                f32::NEG_INFINITY
            } else {
                x.min(f32::MAX)
            };
        }
    }
}

struct Top<'a>(&'a [f32]);
impl WithSimd for Top<'_> {
    type Output = f32;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f32 {
        let greater = |a: f32, b: f32| if b > a { b } else { a };
        let (body, tail) = self.0.as_chunks::<LANES>();
        let mut lanes = [f32::NEG_INFINITY; LANES];
        for chunk in body {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane = greater(*lane, *x);
            }
        }
        let all = lanes.iter().chain(tail);
        all.fold(f32::NEG_INFINITY, |a, b| greater(a, *b))
    }
}

struct Exp<'a> {
    scale: Scale,
    logits: &'a [f32],
    out: &'a mut [f32],
}
impl WithSimd for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        for (out, logit) in self.out.iter_mut().zip(self.logits) {
            *out = self.scale.weight(*logit);
        }
    }
}

struct Sum<'a> {
    weights: &'a [f32],
    /// Of the least weight that counts.
    least: f32,
}
impl WithSimd for Sum<'_> {
    type Output = f64;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Sum { weights, least } = self;
        let counts = |weight: &f32| f64::from(if *weight >= least { *weight } else { 0.0 });
        let (body, tail) = weights.as_chunks::<LANES>();
        let mut lanes = [0f64; LANES];
        for chunk in body {
            for (lane, weight) in lanes.iter_mut().zip(chunk) {
                *lane += counts(weight);
            }
        }
        for (lane, weight) in lanes.iter_mut().zip(tail) {
            *lane += counts(weight);
        }
        // Halves onto halves: the order in which lanes of a warp exchange.
        for half in [8, 4, 2, 1] {
            let (low, high) = lanes.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                *low += *high;
            }
        }
        lanes[0]
    }
}
