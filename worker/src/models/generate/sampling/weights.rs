//! Passes over all logits, in vector code: what is finite, which is the greatest, and each token's
//! weight, which is its probability as a share of the likeliest token's.
//!
//! Weights are computed block by block into a few kilobytes that stay in the cache, and again where they
//! are needed again: that is cheaper than memory for all of them.

use bulkhead_kernels::compute::simd::{exp, run};
use pulp::{Simd, WithSimd};

/// Tokens of one block.
pub const BLOCK: usize = 1024;
/// Accumulators of a sum or maximum, so that neighbours do not wait for each other.
const LANES: usize = 16;
/// Logarithm of the least weight that counts: the least number that [`exp`] makes.
const LOG_MIN: f32 = -87.0;

/// The weights of a row of logits at a temperature. The greatest weight is 1.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    logits: &'a [f32],
    top: f32,
    scale: f32,
}

/// One block's weights.
#[derive(Debug)]
pub struct Block {
    values: [f32; BLOCK],
    len: usize,
    /// The id of its first token.
    pub first: u32,
}

impl<'a> Weights<'a> {
    /// Of logits without NaN and +∞. `None` if there is none above -∞.
    pub fn new(logits: &'a [f32], temperature: f32) -> Option<Self> {
        let top = run(Top(logits));
        (top > f32::NEG_INFINITY).then_some(Weights {
            logits,
            top,
            scale: 1.0 / temperature,
        })
    }

    /// The greatest logit.
    pub fn top(&self) -> f32 {
        self.top
    }

    /// How many blocks there are.
    pub fn blocks(&self) -> usize {
        self.logits.len().div_ceil(BLOCK)
    }

    /// Computes the `index`-th block.
    pub fn block(&self, index: usize, block: &mut Block) {
        let start = index * BLOCK;
        let logits = &self.logits[start..self.logits.len().min(start + BLOCK)];
        block.first = start as u32;
        block.len = logits.len();
        run(Exp {
            weights: *self,
            logits,
            out: &mut block.values[..logits.len()],
        });
    }
}

impl Block {
    /// An empty one.
    pub fn new() -> Self {
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

    /// The sum of the weights that are at least `least` in rank.
    pub fn sum(&self, least: Rank) -> f64 {
        run(Sum { block: self, least })
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
    weights: Weights<'a>,
    logits: &'a [f32],
    out: &'a mut [f32],
}
impl WithSimd for Exp<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Weights { top, scale, .. } = self.weights;
        for (out, x) in self.out.iter_mut().zip(self.logits) {
            let log = (*x - top) * scale;
            let weight = exp(log).min(1.0);
            *out = if log > LOG_MIN { weight } else { 0.0 };
        }
    }
}

struct Sum<'a> {
    block: &'a Block,
    least: Rank,
}
impl WithSimd for Sum<'_> {
    type Output = f64;
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> f64 {
        let Sum { block, least } = self;
        let kept = |weight: f32, id: u32| {
            let weight = if least.admits(weight, id) {
                weight
            } else {
                0.0
            };
            f64::from(weight)
        };
        let (body, tail) = block.values().as_chunks::<LANES>();
        let mut lanes = [0f64; LANES];
        let mut first = block.first;
        for chunk in body {
            for (lane, weight) in chunk.iter().enumerate() {
                lanes[lane] += kept(*weight, first + lane as u32);
            }
            first += LANES as u32;
        }
        let tail = tail.iter().zip(first..).map(|(w, id)| kept(*w, id));
        lanes.iter().sum::<f64>() + tail.sum::<f64>()
    }
}
