//! A weight matrix and its product with the rows of a step.
//!
//! Weights are kept in tiles of 32 outputs, so that one vector load gives many outputs their weight for
//! one input, and a tile is read once for up to eight rows. Quantised weights (4 or 8 bits, affine per
//! 32 inputs) stay packed and are unpacked in registers. Where the processor multiplies integers,
//! activations are rounded for them to 16 bits per group, far finer than any weight of theirs; elsewhere
//! the result is that of f32 arithmetic on the file's weights.

mod half;
mod integer;
mod kernel;
mod pack;
mod pairs;

use super::simd;
use integer::Rounded;
use kernel::{Affine, Halves, Part, Plain};
use pairs::Available;
use rayon::prelude::*;
use std::ops::Range;

use half::Format;
pub use pack::Rows;
use pack::{Packed, pack_affine, pack_f32, pack_half, padded};

/// Outputs of one tile.
const TILE: usize = 32;
/// Inputs that share a scale.
pub const GROUP: usize = 32;
/// Rows per thread from which on the rows are divided among the threads. With fewer, the outputs are:
/// that divides evenly, and each weight is read by one thread only.
const ROWS_PER_THREAD: usize = 48;
/// Rows of one thread are a multiple of this, so that most go through the widest kernel.
const ROWS_TOGETHER: usize = 8;
/// The greatest integer that an activation is rounded to.
pub(super) const ROUNDED: f32 = 32767.0;

/// Rows of activations.
struct Activations<'a> {
    exact: &'a [f32],
    by_group: ByGroup,
}

/// What packed weights are multiplied with beside or instead of the activations.
enum ByGroup {
    /// Sums of the activations, for the weights' offsets; none for weights that have no groups.
    Sums(Vec<f32>),
    Rounded(Rounded),
}

/// Whether products with packed weights round activations here: [`super::reference::rounded`] is how.
pub fn rounds() -> bool {
    Available::best().is_some()
}

/// A packed matrix, ready to multiply.
#[derive(Debug)]
pub struct Linear {
    inputs: usize,
    outputs: usize,
    packed: Packed,
    bias: Vec<f32>,
}

impl Linear {
    /// Packs `rows`; none if their number does not fit `inputs` and `outputs`. `bias` may be empty.
    pub fn new(inputs: usize, outputs: usize, rows: &Rows, bias: &[f32]) -> Option<Self> {
        let count = inputs.checked_mul(outputs)?;
        if count == 0 || !(bias.is_empty() || bias.len() == outputs) {
            return None;
        }
        let packed = match rows {
            Rows::F32(w) if w.len() == count => Packed::F32(pack_f32(inputs, outputs, w)),
            Rows::Bf16(w) if w.len() == count => pack_half(inputs, outputs, w, Format::Bf16),
            Rows::F16(w) if w.len() == count => pack_half(inputs, outputs, w, Format::F16),
            Rows::Affine {
                scale,
                offset,
                q,
                bits,
            } if q.len() == count
                && inputs.is_multiple_of(GROUP)
                && scale.len() == count / GROUP
                && offset.len() == count / GROUP
                && (*bits == 4 || *bits == 8) =>
            {
                pack_affine(inputs, outputs, scale, offset, q, *bits)
            }
            _ => return None,
        };
        let mut padded_bias = bias.to_vec();
        padded_bias.resize(padded(outputs), 0.0);
        Some(Linear {
            inputs,
            outputs,
            packed,
            bias: padded_bias,
        })
    }

    /// Bytes that weights and biases take.
    pub fn bytes(&self) -> usize {
        self.packed.bytes() + size_of_val(self.bias.as_slice())
    }

    /// Values of one result row.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// `out = x · Wᵀ + bias`, and then `finish` over whole rows of `out`. Uses the threads of the pool
    /// that it is called in. `x` holds whole rows; `out` as many.
    pub fn forward(&self, x: &[f32], out: &mut [f32], finish: impl Fn(&mut [f32]) + Sync) {
        let rows = x.len() / self.inputs;
        if rows == 0 {
            return;
        }
        let threads = rayon::current_num_threads();
        let x = self.activations(x);
        let width = self.outputs;
        if rows >= ROWS_PER_THREAD * threads {
            let chunk = rows.div_ceil(threads).next_multiple_of(ROWS_TOGETHER);
            out.par_chunks_mut(chunk * width)
                .enumerate()
                .for_each(|(at, out)| {
                    let first = at * chunk;
                    let count = out.len() / width;
                    self.tiles(
                        &x,
                        first..first + count,
                        0..padded(width) / TILE,
                        out,
                        width,
                    );
                    finish(out);
                });
        } else {
            let tiles = padded(width) / TILE;
            let chunk = tiles.div_ceil(threads * 4);
            let mut parts = vec![0f32; tiles * TILE * rows];
            parts
                .par_chunks_mut(chunk * TILE * rows)
                .enumerate()
                .for_each(|(at, part)| {
                    let (first, count) = (at * chunk, part.len() / (TILE * rows));
                    self.tiles(&x, 0..rows, first..first + count, part, count * TILE);
                });
            for (at, part) in parts.chunks(chunk * TILE * rows).enumerate() {
                let (first, count) = (at * chunk * TILE, part.len() / rows);
                for (row, part) in part.chunks(count).enumerate() {
                    let keep = count.min(width - first);
                    out[row * width + first..][..keep].copy_from_slice(&part[..keep]);
                }
            }
            out.par_chunks_mut(width * ROWS_TOGETHER).for_each(&finish);
        }
    }

    /// `x` as the kernel for these weights reads it.
    fn activations<'a>(&self, exact: &'a [f32]) -> Activations<'a> {
        let by_group = match self.packed {
            Packed::F32(_) | Packed::Half { .. } => ByGroup::Sums(Vec::new()),
            Packed::Affine { bits, .. } => match Available::best() {
                Some(with) => ByGroup::Rounded(Rounded::new(with, exact, bits)),
                None => {
                    let groups = exact.chunks_exact(GROUP);
                    ByGroup::Sums(groups.map(|group| group.iter().sum()).collect())
                }
            },
        };
        Activations { exact, by_group }
    }

    /// So many rows times so many tiles, into rows of `stride`.
    fn tiles(
        &self,
        x: &Activations<'_>,
        rows: Range<usize>,
        tiles: Range<usize>,
        out: &mut [f32],
        stride: usize,
    ) {
        let (inputs, groups) = (self.inputs, self.inputs / GROUP);
        let part = Part {
            inputs,
            bias: &self.bias,
            tiles,
            out,
            stride,
        };
        let exact = &x.exact[rows.start * inputs..rows.end * inputs];
        let of_rows = rows.start * groups..rows.end * groups;
        match &self.packed {
            Packed::F32(w) => part.exact(exact, Plain(w)),
            Packed::Half { words, format } => match format {
                Format::Bf16 => part.exact(exact, Halves::<false>(words)),
                Format::F16 => part.exact(exact, Halves::<true>(words)),
            },
            Packed::Affine {
                scales,
                words,
                bits,
            } => match (&x.by_group, bits) {
                (ByGroup::Sums(sums), 4) => {
                    let sums = &sums[of_rows];
                    part.exact(
                        exact,
                        Affine::<4> {
                            scales,
                            words,
                            sums,
                        },
                    );
                }
                (ByGroup::Sums(sums), _) => {
                    let sums = &sums[of_rows];
                    part.exact(
                        exact,
                        Affine::<8> {
                            scales,
                            words,
                            sums,
                        },
                    );
                }
                (ByGroup::Rounded(x), 4) => part.rounded::<4>(x.of(of_rows), scales, words),
                (ByGroup::Rounded(x), _) => part.rounded::<8>(x.of(of_rows), scales, words),
            },
        }
    }

    /// The weights of one output, unpacked: a row of an embedding table.
    pub fn weights_of(&self, output: usize, out: &mut [f32]) {
        let (tile, lane) = (output / TILE, output % TILE);
        match &self.packed {
            Packed::F32(w) => {
                let tile = &w[tile * self.inputs * TILE..][..self.inputs * TILE];
                for (out, w) in out.iter_mut().zip(tile.chunks_exact(TILE)) {
                    *out = w[lane];
                }
            }
            Packed::Half { words, format } => {
                let pairs = self.inputs.div_ceil(2);
                let tile = &words[tile * pairs * TILE..][..pairs * TILE];
                for (at, out) in out.iter_mut().enumerate() {
                    let word = tile[at / 2 * TILE + lane];
                    *out = half::value(*format, word, at % 2 == 1);
                }
            }
            Packed::Affine {
                scales,
                words,
                bits,
            } => {
                let per_word = 32 / bits;
                let mask = (1u32 << bits) - 1;
                let range = (mask + 1) as f32;
                let groups = self.inputs / GROUP;
                for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
                    let block = tile * groups + group;
                    let scale = scales[(2 * block) * TILE + lane] / range;
                    let offset = scales[(2 * block + 1) * TILE + lane] + scale * range;
                    for (at, out) in out.iter_mut().enumerate() {
                        let word = words[(block * bits + at / per_word) * TILE + lane];
                        let q = word >> (at % per_word * bits) & mask;
                        *out = scale * q as f32 + offset;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed | 1;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(step).collect()
    }

    /// Compares with the plain triple loop.
    fn check(inputs: usize, outputs: usize, rows: usize, weights: &Rows, plain: &[f32]) {
        let bias = noise(outputs, 3);
        let linear = Linear::new(inputs, outputs, weights, &bias).expect("sizes agree");
        let x = noise(rows * inputs, 7);
        let mut out = vec![0f32; rows * outputs];
        linear.forward(&x, &mut out, |_| ());
        for row in 0..rows {
            for output in 0..outputs {
                let w = &plain[output * inputs..][..inputs];
                let exact: f64 = x[row * inputs..][..inputs]
                    .iter()
                    .zip(w)
                    .map(|(x, w)| f64::from(*x) * f64::from(*w))
                    .sum();
                let got = f64::from(out[row * outputs + output]) - f64::from(bias[output]);
                assert!(
                    (got - exact).abs() < 2e-4,
                    "{rows}×{outputs}: {got} is not {exact}"
                );
            }
        }
        let mut row = vec![0f32; inputs];
        linear.weights_of(outputs - 1, &mut row);
        for (got, want) in row.iter().zip(&plain[(outputs - 1) * inputs..]) {
            assert!((got - want).abs() < 1e-4);
        }
    }

    #[test]
    fn every_number_of_rows_and_outputs_multiplies_right() {
        for (inputs, outputs) in [(64, 32), (96, 70), (32, 1), (128, 160)] {
            let w = noise(inputs * outputs, 1);
            for rows in (1..20).chain([33, 64, 1000]) {
                check(inputs, outputs, rows, &Rows::F32(w.clone()), &w);
            }
        }
    }

    #[test]
    fn weights_of_16_bits_multiply_like_their_values() {
        for (inputs, outputs) in [(64, 32), (33, 70)] {
            let bits: Vec<u16> = noise(inputs * outputs, 5)
                .iter()
                .map(|x| (x.to_bits() >> 16) as u16)
                .collect();
            // The same bits in half precision, with exponents that keep the values small.
            let halves = bits.iter().map(|bits| bits & 0xBBFF).collect();
            for rows in [Rows::Bf16(bits), Rows::F16(halves)] {
                for count in [1, 2, 3, 5, 8, 13, 100] {
                    check(inputs, outputs, count, &rows, &rows.values());
                }
            }
        }
    }

    #[test]
    fn rows_of_different_kinds_can_be_put_together() {
        let affine = Rows::Affine {
            scale: vec![0.5; 2],
            offset: vec![-1.0; 2],
            q: (0..64).map(|q| q % 16).collect(),
            bits: 4,
        };
        let mut all = Rows::Bf16(vec![0x3F80; 64]);
        all.append(Rows::Bf16(vec![0x4000; 64]));
        assert!(matches!(&all, Rows::Bf16(bits) if bits.len() == 128));
        let want = [all.values(), affine.values()].concat();
        all.append(affine);
        assert!(matches!(all, Rows::F32(_)));
        assert_eq!(all.values(), want);
        check(64, 3, 5, &all, &want);
    }

    #[test]
    fn sizes_that_disagree_are_refused() {
        assert!(Linear::new(4, 4, &Rows::F32(vec![0.0; 15]), &[]).is_none());
        assert!(Linear::new(4, 4, &Rows::F16(vec![0; 17]), &[]).is_none());
        assert!(Linear::new(4, 4, &Rows::F32(vec![0.0; 16]), &[0.0]).is_none());
        assert!(Linear::new(usize::MAX, 4, &Rows::F32(vec![]), &[]).is_none());
    }
}
