//! Products of packed weights in integers: activations rounded to 16 bits, two multiply-adds in one lane.
//!
//! What is rounded belongs to one call and is dropped with it. Activations that are no numbers make
//! results that are none.

use super::kernel::{ByRows, Part, each};
use super::pairs::{Available, Pairs, WithPairs, Words};
use super::{GROUP, ROUNDED, TILE};
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Words of one group.
const WORDS: usize = GROUP / 2;
/// Groups that one thread rounds before another would have something to do.
const GROUPS_PER_TASK: usize = 256;
/// Groups of less are zero: dividing by their steps would be no number.
const LEAST: f32 = 1e-30;

/// Rows of activations in signed 16 bits, per group of inputs.
pub(super) struct Rounded {
    with: Available,
    /// Per row and group: two activations in a word, as two weights come out of theirs.
    words: Vec<[u32; WORDS]>,
    /// Per row and group.
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Default)]
struct Step {
    /// What a product of integers is worth, by the range of the weights.
    product: f32,
    /// Sum of the group's rounded activations.
    sum: f32,
}

impl Rounded {
    /// Rounds `x`, whole rows, for weights of so many bits.
    pub(super) fn new(with: Available, x: &[f32], bits: usize) -> Self {
        let (x, _) = x.as_chunks::<GROUP>();
        let mut words = vec![[0; WORDS]; x.len()];
        let mut steps = vec![Step::default(); x.len()];
        words
            .par_chunks_mut(GROUPS_PER_TASK)
            .zip(steps.par_chunks_mut(GROUPS_PER_TASK))
            .zip(x.par_chunks(GROUPS_PER_TASK))
            .for_each(|((words, steps), x)| {
                super::simd::run(Round {
                    bits,
                    x,
                    words,
                    steps,
                });
            });
        Rounded { with, words, steps }
    }

    /// Those of these groups.
    pub(super) fn of(&self, groups: Range<usize>) -> Rows<'_> {
        Rows {
            with: self.with,
            words: &self.words[groups.clone()],
            steps: &self.steps[groups],
        }
    }
}

struct Round<'a> {
    bits: usize,
    x: &'a [[f32; GROUP]],
    words: &'a mut [[u32; WORDS]],
    steps: &'a mut [Step],
}

impl WithSimd for Round<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for ((x, words), step) in self.x.iter().zip(self.words).zip(self.steps) {
            let (integers, size, sum) = integers(simd, x);
            step.sum = size * sum;
            if self.bits == 4 {
                *words = paired::<8>(&integers);
                step.product = size / 16.0;
            } else {
                *words = paired::<4>(&integers);
                step.product = size / 256.0;
            }
        }
    }
}

/// A group's integers in the lower halves of words, the size of one step of theirs, and their sum.
#[inline(always)]
fn integers<S: Simd>(simd: S, x: &[f32; GROUP]) -> ([u32; GROUP], f32, f32) {
    // Adding this brings the rounded integer into the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let (x, _) = S::as_simd_f32s(x);
    let mut top = simd.splat_f32s(0.0);
    for x in x {
        top = simd.max_f32s(top, simd.abs_f32s(*x));
    }
    let top = simd.reduce_max_f32s(top);
    let inverse = simd.splat_f32s(if top > LEAST { ROUNDED / top } else { 0.0 });
    let round = simd.splat_f32s(ROUND);
    let mut integers = [0f32; GROUP];
    let mut sum = simd.splat_f32s(0.0);
    for (x, to) in x.iter().zip(S::as_mut_simd_f32s(&mut integers).0) {
        *to = simd.add_f32s(simd.mul_f32s(*x, inverse), round);
        sum = simd.add_f32s(sum, simd.sub_f32s(*to, round));
    }
    (
        integers.map(f32::to_bits),
        top / ROUNDED,
        simd.reduce_sum_f32s(sum),
    )
}

/// Of every PER integers, each of the first half with the one that is as far into the second half.
#[inline(always)]
fn paired<const PER: usize>(integers: &[u32; GROUP]) -> [u32; WORDS] {
    let half = PER / 2;
    std::array::from_fn(|at| {
        let first = at / half * PER + at % half;
        integers[first] & 0xFFFF | integers[first + half] << 16
    })
}

/// Some rows of [`Rounded`].
pub(super) struct Rows<'a> {
    with: Available,
    words: &'a [[u32; WORDS]],
    steps: &'a [Step],
}

impl Part<'_> {
    /// For such rows, in integers, times weights of B bits as [`super::pack::Packed::Affine`] has them.
    pub(super) fn rounded<const B: usize>(self, x: Rows<'_>, scales: &[f32], words: &[u32]) {
        x.with.run(Tiles::<B> {
            part: self,
            x,
            scales,
            words,
        });
    }
}

struct Tiles<'a, const B: usize> {
    part: Part<'a>,
    x: Rows<'a>,
    scales: &'a [f32],
    words: &'a [u32],
}

impl<const B: usize> WithPairs for Tiles<'_, B> {
    #[inline(always)]
    fn with_pairs<P: Pairs>(mut self, pairs: P) {
        let rows = self.x.steps.len() / (self.part.inputs / GROUP);
        let tiles = self.part.tiles.clone();
        // Vectors per tile, and rows at a time as registers allow.
        match P::S::F32_LANES {
            16 => each::<P, 8, 2>(pairs, tiles, rows, &mut self),
            _ => each::<P, 2, 4>(pairs, tiles, rows, &mut self),
        }
    }
}

impl<P: Pairs, const B: usize> ByRows<P> for Tiles<'_, B> {
    #[inline(always)]
    fn rows<const R: usize, const V: usize>(&mut self, pairs: P, tile: usize, row: usize) -> usize {
        let groups = self.part.inputs / GROUP;
        let x = std::array::from_fn(|r| &self.x.words[(row + r) * groups..][..groups]);
        let steps = std::array::from_fn(|r| &self.x.steps[(row + r) * groups..][..groups]);
        let size = groups * TILE;
        let scales = &self.scales[tile * size * 2..][..size * 2];
        let words = &self.words[tile * size * B..][..size * B];
        let start = [self.part.start::<P::S, V>(tile); R];
        let sums = affine::<P, R, V, B>(pairs, x, steps, scales, words, start);
        for (r, sums) in sums.iter().enumerate() {
            self.part.keep::<P::S, V>(row + r, tile, sums);
        }
        R
    }
}

/// R rows times one tile of packed weights of B bits.
#[inline(always)]
fn affine<P: Pairs, const R: usize, const V: usize, const B: usize>(
    pairs: P,
    x: [&[[u32; WORDS]]; R],
    steps: [&[Step]; R],
    scales: &[f32],
    words: &[u32],
    mut acc: [[<P::S as Simd>::f32s; V]; R],
) -> [[<P::S as Simd>::f32s; V]; R] {
    let simd = pairs.simd();
    let (scales, _) = P::S::as_simd_f32s(scales);
    let (scales, _) = scales.as_chunks::<V>();
    let (scales, _) = scales.as_chunks::<2>();
    let (words, _) = P::S::as_simd_u32s(words);
    let (words, _) = words.as_chunks::<V>();
    let (words, _) = words.as_chunks::<B>();
    let zero = simd.splat_u32s(0);
    let mask = simd.splat_u32s(((1 << B) - 1) * 0x0001_0001);
    let per_word = 16 / B;
    for (group, ([scale, offset], words)) in scales.iter().zip(words).enumerate() {
        let x: [&[u32; WORDS]; R] = std::array::from_fn(|r| &x[r][group]);
        let mut part = [[zero; V]; R];
        for (word, packed) in words.iter().enumerate() {
            for nth in 0..per_word {
                let by = simd.splat_u32s((nth * B) as u32);
                let w: [Words<P>; V] = std::array::from_fn(|v| {
                    simd.and_u32s(simd.wrapping_dyn_shr_u32s(packed[v], by), mask)
                });
                for r in 0..R {
                    let x = simd.splat_u32s(x[r][word * per_word + nth]);
                    for v in 0..V {
                        part[r][v] = pairs.dot(part[r][v], x, w[v]);
                    }
                }
            }
        }
        for r in 0..R {
            let product = simd.splat_f32s(steps[r][group].product);
            let sum = simd.splat_f32s(steps[r][group].sum);
            for v in 0..V {
                // The scales are of weights that stand for 1 + q / 2^B.
                let part = simd.mul_add_e_f32s(pairs.floats(part[r][v]), product, sum);
                acc[r][v] = simd.mul_add_e_f32s(scale[v], part, acc[r][v]);
                acc[r][v] = simd.mul_add_e_f32s(offset[v], sum, acc[r][v]);
            }
        }
    }
    acc
}
