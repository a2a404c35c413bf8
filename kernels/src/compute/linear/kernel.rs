//! The kernels in f32: a few rows times one tile of 32 outputs, all sums in registers.

use super::half::widen;
use super::{GROUP, TILE};
use crate::compute::simd;
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// What is to be computed of a product: some tiles of outputs.
pub(super) struct Part<'a> {
    pub(super) inputs: usize,
    /// Of all outputs, the last tile filled up.
    pub(super) bias: &'a [f32],
    pub(super) tiles: Range<usize>,
    /// Rows of these tiles, as far as they go.
    pub(super) out: &'a mut [f32],
    /// Floats from one row of `out` to the next.
    pub(super) stride: usize,
}

impl Part<'_> {
    /// For whole rows `x`, in f32.
    pub(super) fn exact(self, x: &[f32], weights: impl Weights) {
        simd::run(Tiles {
            part: self,
            x,
            weights,
        });
    }

    /// The bias of a tile.
    #[inline(always)]
    pub(super) fn start<S: Simd, const V: usize>(&self, tile: usize) -> [S::f32s; V] {
        let (bias, _) = S::as_simd_f32s(&self.bias[tile * TILE..][..TILE]);
        std::array::from_fn(|v| bias[v])
    }

    /// Writes a row's sums of a tile.
    #[inline(always)]
    pub(super) fn keep<S: Simd, const V: usize>(
        &mut self,
        row: usize,
        tile: usize,
        sums: &[S::f32s; V],
    ) {
        let column = (tile - self.tiles.start) * TILE;
        let kept = TILE.min(self.stride - column);
        let out = &mut self.out[row * self.stride + column..][..kept];
        if kept == TILE {
            S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
        } else {
            let mut whole = [0f32; TILE];
            S::as_mut_simd_f32s(&mut whole).0.copy_from_slice(sums);
            out.copy_from_slice(&whole[..kept]);
        }
    }
}

struct Tiles<'a, W> {
    part: Part<'a>,
    x: &'a [f32],
    weights: W,
}

/// A kind of weights. Each is compiled by itself: together they would take each other's registers.
pub(super) trait Weights {
    /// R rows, from `row` on, times tile `tile`, added to `acc`.
    fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        row: usize,
        x: [&[f32]; R],
        acc: [[S::f32s; V]; R],
    ) -> [[S::f32s; V]; R];
}

impl<W: Weights> WithSimd for Tiles<'_, W> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let rows = self.x.len() / self.part.inputs;
        let tiles = self.part.tiles.clone();
        // Vectors per tile, and rows at a time as registers allow.
        match S::F32_LANES {
            16 => each::<S, 8, 2>(simd, tiles, rows, &mut self),
            8 => each::<S, 3, 4>(simd, tiles, rows, &mut self),
            4 => each::<S, 3, 8>(simd, tiles, rows, &mut self),
            _ => each::<S, 1, 32>(simd, tiles, rows, &mut self),
        }
    }
}

/// A product that is computed by rows and tiles, with what vectors are (`C`).
pub(super) trait ByRows<C> {
    /// R rows, from `row` on, of one tile of V vectors; says R.
    fn rows<const R: usize, const V: usize>(&mut self, with: C, tile: usize, row: usize) -> usize;
}

/// All rows of some tiles, R of V vectors at a time and fewer at the end.
#[inline(always)]
pub(super) fn each<C: Copy, const R: usize, const V: usize>(
    with: C,
    tiles: Range<usize>,
    rows: usize,
    product: &mut impl ByRows<C>,
) {
    for tile in tiles {
        let mut row = 0;
        while row < rows {
            row += match rows - row {
                left if left >= R => product.rows::<R, V>(with, tile, row),
                left if left >= 4 && R > 4 => product.rows::<4, V>(with, tile, row),
                left if left >= 2 && R > 2 => product.rows::<2, V>(with, tile, row),
                _ => product.rows::<1, V>(with, tile, row),
            };
        }
    }
}

impl<S: Simd, W: Weights> ByRows<S> for Tiles<'_, W> {
    #[inline(always)]
    fn rows<const R: usize, const V: usize>(&mut self, simd: S, tile: usize, row: usize) -> usize {
        let inputs = self.part.inputs;
        let x = std::array::from_fn(|r| &self.x[(row + r) * inputs..][..inputs]);
        let start = [self.part.start::<S, V>(tile); R];
        let sums = self.weights.multiply(simd, tile, row, x, start);
        for (r, sums) in sums.iter().enumerate() {
            self.part.keep::<S, V>(row + r, tile, sums);
        }
        R
    }
}

/// Plain, per tile: [input][output].
pub(super) struct Plain<'a>(pub(super) &'a [f32]);

impl Weights for Plain<'_> {
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        _: usize,
        x: [&[f32]; R],
        mut acc: [[S::f32s; V]; R],
    ) -> [[S::f32s; V]; R] {
        let size = x[0].len() * TILE;
        let (w, _) = S::as_simd_f32s(&self.0[tile * size..][..size]);
        let (w, _) = w.as_chunks::<V>();
        for (at, w) in w.iter().enumerate() {
            for r in 0..R {
                let x = simd.splat_f32s(x[r][at]);
                for v in 0..V {
                    acc[r][v] = simd.mul_add_e_f32s(x, w[v], acc[r][v]);
                }
            }
        }
        acc
    }
}

/// Of 16 bits, per tile: [pair of inputs][output].
pub(super) struct Halves<'a, const F16: bool>(pub(super) &'a [u32]);

impl<const F16: bool> Weights for Halves<'_, F16> {
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        _: usize,
        x: [&[f32]; R],
        mut acc: [[S::f32s; V]; R],
    ) -> [[S::f32s; V]; R] {
        let size = x[0].len().div_ceil(2) * TILE;
        let (words, _) = S::as_simd_u32s(&self.0[tile * size..][..size]);
        let (words, _) = words.as_chunks::<V>();
        for (pair, words) in words.iter().enumerate() {
            let w: [[S::f32s; 2]; V] = std::array::from_fn(|v| widen::<S, F16>(simd, words[v]));
            for r in 0..R {
                let first = simd.splat_f32s(x[r][2 * pair]);
                // An odd number of inputs leaves the last word half empty.
                let second = simd.splat_f32s(x[r].get(2 * pair + 1).copied().unwrap_or(0.0));
                for v in 0..V {
                    acc[r][v] = simd.mul_add_e_f32s(first, w[v][0], acc[r][v]);
                    acc[r][v] = simd.mul_add_e_f32s(second, w[v][1], acc[r][v]);
                }
            }
        }
        acc
    }
}

/// Packed, of B bits, as [`super::pack::Packed::Affine`] has them.
pub(super) struct Affine<'a, const B: usize> {
    pub(super) scales: &'a [f32],
    pub(super) words: &'a [u32],
    /// Sums of the rows' inputs, by group.
    pub(super) sums: &'a [f32],
}

impl<const B: usize> Weights for Affine<'_, B> {
    #[inline(always)]
    fn multiply<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        tile: usize,
        row: usize,
        x: [&[f32]; R],
        mut acc: [[S::f32s; V]; R],
    ) -> [[S::f32s; V]; R] {
        let groups = x[0].len() / GROUP;
        let sums: [&[f32]; R] = std::array::from_fn(|r| &self.sums[(row + r) * groups..][..groups]);
        let (size, words) = (groups * TILE, self.words);
        let (scales, _) = S::as_simd_f32s(&self.scales[tile * size * 2..][..size * 2]);
        let (scales, _) = scales.as_chunks::<V>();
        let (scales, _) = scales.as_chunks::<2>();
        let (words, _) = S::as_simd_u32s(&words[tile * size * B..][..size * B]);
        let (words, _) = words.as_chunks::<V>();
        let (words, _) = words.as_chunks::<B>();
        // The weight's bits at the top of the mantissa of a number between 1 and 2.
        let top = 23 - B;
        let mask = simd.splat_u32s(((1u32 << B) - 1) << top);
        let one = simd.splat_u32s(1f32.to_bits());
        let zero = simd.splat_f32s(0.0);
        for (group, ([scale, offset], words)) in scales.iter().zip(words).enumerate() {
            let mut part = [[zero; V]; R];
            for (word, packed) in words.iter().enumerate() {
                for nth in 0..32 / B {
                    let mut w = [zero; V];
                    for v in 0..V {
                        let moved = if nth * B <= top {
                            let by = simd.splat_u32s((top - nth * B) as u32);
                            simd.wrapping_dyn_shl_u32s(packed[v], by)
                        } else {
                            let by = simd.splat_u32s((nth * B - top) as u32);
                            simd.wrapping_dyn_shr_u32s(packed[v], by)
                        };
                        w[v] =
                            simd.transmute_f32s_u32s(simd.or_u32s(simd.and_u32s(moved, mask), one));
                    }
                    for r in 0..R {
                        let x = simd.splat_f32s(x[r][group * GROUP + word * (32 / B) + nth]);
                        for v in 0..V {
                            part[r][v] = simd.mul_add_e_f32s(x, w[v], part[r][v]);
                        }
                    }
                }
            }
            for r in 0..R {
                let sum = simd.splat_f32s(sums[r][group]);
                for v in 0..V {
                    acc[r][v] = simd.mul_add_e_f32s(scale[v], part[r][v], acc[r][v]);
                    acc[r][v] = simd.mul_add_e_f32s(offset[v], sum, acc[r][v]);
                }
            }
        }
        acc
    }
}
