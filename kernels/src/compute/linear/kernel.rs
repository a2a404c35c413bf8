//! The kernels: a few rows times one tile of 32 outputs, all sums in registers.

use super::half::{Format, widen};
use super::pack::Packed;
use super::{GROUP, Linear, TILE};
use pulp::{Simd, WithSimd};

/// Rows of `x` times `count` tiles, from tile `first` on.
pub(super) struct Tiles<'a> {
    pub(super) linear: &'a Linear,
    pub(super) first: usize,
    pub(super) count: usize,
    pub(super) x: &'a [f32],
    /// Sums of `x` by group of inputs; empty for plain weights.
    pub(super) groups: &'a [f32],
    pub(super) out: &'a mut [f32],
    /// Floats from one row of `out` to the next.
    pub(super) stride: usize,
}

impl WithSimd for Tiles<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        // Vectors per tile, and rows at a time as registers allow.
        match S::F32_LANES {
            16 => self.each::<S, 8, 2>(simd),
            8 => self.each::<S, 3, 4>(simd),
            4 => self.each::<S, 3, 8>(simd),
            _ => self.each::<S, 1, 32>(simd),
        }
    }
}

impl Tiles<'_> {
    #[inline(always)]
    fn each<S: Simd, const R: usize, const V: usize>(&mut self, simd: S) {
        let rows = self.x.len() / self.linear.inputs;
        for tile in 0..self.count {
            let mut row = 0;
            while row < rows {
                row += match rows - row {
                    left if left >= R => self.rows::<S, R, V>(simd, tile, row),
                    left if left >= 4 && R > 4 => self.rows::<S, 4, V>(simd, tile, row),
                    left if left >= 2 && R > 2 => self.rows::<S, 2, V>(simd, tile, row),
                    _ => self.rows::<S, 1, V>(simd, tile, row),
                };
            }
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        tile: usize,
        row: usize,
    ) -> usize {
        let inputs = self.linear.inputs;
        let at = self.first + tile;
        let x: [&[f32]; R] = std::array::from_fn(|r| &self.x[(row + r) * inputs..][..inputs]);
        let (bias, _) = S::as_simd_f32s(&self.linear.bias[at * TILE..][..TILE]);
        let start: [S::f32s; V] = std::array::from_fn(|v| bias[v]);
        let result = match &self.linear.packed {
            Packed::F32(w) => {
                let w = &w[at * inputs * TILE..][..inputs * TILE];
                plain::<S, R, V>(simd, x, w, [start; R])
            }
            Packed::Half { words, format } => {
                let size = inputs.div_ceil(2) * TILE;
                let words = &words[at * size..][..size];
                match format {
                    Format::Bf16 => halves::<S, R, V, false>(simd, x, words, [start; R]),
                    Format::F16 => halves::<S, R, V, true>(simd, x, words, [start; R]),
                }
            }
            Packed::Affine {
                scales,
                words,
                bits,
            } => {
                let groups = inputs / GROUP;
                let sums = std::array::from_fn(|r| &self.groups[(row + r) * groups..][..groups]);
                let scales = &scales[at * groups * 2 * TILE..][..groups * 2 * TILE];
                let words = &words[at * groups * bits * TILE..][..groups * bits * TILE];
                if *bits == 4 {
                    affine::<S, R, V, 4>(simd, x, sums, scales, words, [start; R])
                } else {
                    affine::<S, R, V, 8>(simd, x, sums, scales, words, [start; R])
                }
            }
        };
        for (r, result) in result.iter().enumerate() {
            let to = (row + r) * self.stride + tile * TILE;
            let keep = TILE.min(self.stride - tile * TILE);
            if keep == TILE {
                let (to, _) = S::as_mut_simd_f32s(&mut self.out[to..][..TILE]);
                to.copy_from_slice(result);
            } else {
                let mut whole = [0f32; TILE];
                S::as_mut_simd_f32s(&mut whole).0.copy_from_slice(result);
                self.out[to..][..keep].copy_from_slice(&whole[..keep]);
            }
        }
        R
    }
}

/// R rows times one tile of plain weights.
#[inline(always)]
fn plain<S: Simd, const R: usize, const V: usize>(
    simd: S,
    x: [&[f32]; R],
    w: &[f32],
    mut acc: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    let (w, _) = S::as_simd_f32s(w);
    let (w, _) = w.as_chunks::<V>();
    for (at, w) in w.iter().enumerate() {
        for r in 0..R {
            let x = simd.splat_f32s(x[r][at]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_f32s(x, w[v], acc[r][v]);
            }
        }
    }
    acc
}

/// R rows times one tile of weights of 16 bits.
#[inline(always)]
fn halves<S: Simd, const R: usize, const V: usize, const F16: bool>(
    simd: S,
    x: [&[f32]; R],
    words: &[u32],
    mut acc: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    let (words, _) = S::as_simd_u32s(words);
    let (words, _) = words.as_chunks::<V>();
    for (pair, words) in words.iter().enumerate() {
        let w: [[S::f32s; 2]; V] = std::array::from_fn(|v| widen::<S, F16>(simd, words[v]));
        for r in 0..R {
            let first = simd.splat_f32s(x[r][2 * pair]);
            // An odd number of inputs leaves the last word half empty.
            let second = simd.splat_f32s(x[r].get(2 * pair + 1).copied().unwrap_or(0.0));
            for v in 0..V {
                acc[r][v] = simd.mul_add_f32s(first, w[v][0], acc[r][v]);
                acc[r][v] = simd.mul_add_f32s(second, w[v][1], acc[r][v]);
            }
        }
    }
    acc
}

/// R rows times one tile of packed weights of B bits.
#[inline(always)]
fn affine<S: Simd, const R: usize, const V: usize, const B: usize>(
    simd: S,
    x: [&[f32]; R],
    sums: [&[f32]; R],
    scales: &[f32],
    words: &[u32],
    mut acc: [[S::f32s; V]; R],
) -> [[S::f32s; V]; R] {
    let (scales, _) = S::as_simd_f32s(scales);
    let (scales, _) = scales.as_chunks::<V>();
    let (scales, _) = scales.as_chunks::<2>();
    let (words, _) = S::as_simd_u32s(words);
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
                    w[v] = simd.transmute_f32s_u32s(simd.or_u32s(simd.and_u32s(moved, mask), one));
                }
                for r in 0..R {
                    let x = simd.splat_f32s(x[r][group * GROUP + word * (32 / B) + nth]);
                    for v in 0..V {
                        part[r][v] = simd.mul_add_f32s(x, w[v], part[r][v]);
                    }
                }
            }
        }
        for r in 0..R {
            let sum = simd.splat_f32s(sums[r][group]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_f32s(scale[v], part[r][v], acc[r][v]);
                acc[r][v] = simd.mul_add_f32s(offset[v], sum, acc[r][v]);
            }
        }
    }
    acc
}
