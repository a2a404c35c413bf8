//! Rows of weights as a file has them, and as tiles that the kernels read.

use super::half::{self, Format};
use super::{GROUP, TILE};
use crate::alloc::Lasting;

/// A matrix in rows (one per output), before it is packed.
#[derive(Debug)]
pub enum Rows {
    /// Plain.
    F32(Vec<f32>),
    /// The upper halves of f32, raw bits. They stay 16 bits wide in memory.
    Bf16(Vec<u16>),
    /// IEEE half precision, raw bits, finite. They stay 16 bits wide in memory.
    F16(Vec<u16>),
    /// `scale * q + offset`, per group of [`GROUP`] inputs.
    Affine {
        /// One per group.
        scale: Vec<f32>,
        /// One per group.
        offset: Vec<f32>,
        /// One per weight.
        q: Vec<u8>,
        /// 4 or 8: what `q` fits in.
        bits: usize,
    },
}

impl Rows {
    /// Puts the rows of `other`, which have as many inputs, behind these. Rows of different kinds
    /// become plain ones.
    pub fn append(&mut self, other: Rows) {
        match (&mut *self, other) {
            (Rows::F32(all), Rows::F32(more)) => all.extend(more),
            (Rows::Bf16(all), Rows::Bf16(more)) | (Rows::F16(all), Rows::F16(more)) => {
                all.extend(more);
            }
            (
                Rows::Affine {
                    scale,
                    offset,
                    q,
                    bits,
                },
                Rows::Affine {
                    scale: scale2,
                    offset: offset2,
                    q: q2,
                    bits: bits2,
                },
            ) => {
                scale.extend(scale2);
                offset.extend(offset2);
                q.extend(q2);
                *bits = (*bits).max(bits2);
            }
            (_, other) => {
                let mut all = self.values();
                all.extend(other.values());
                *self = Rows::F32(all);
            }
        }
    }

    /// Writes the values of one row, as wide as `out`, into it.
    pub fn copy_row(&self, row: usize, out: &mut [f32]) {
        let range = row * out.len()..(row + 1) * out.len();
        match self {
            Rows::F32(values) => out.copy_from_slice(&values[range]),
            Rows::Bf16(bits) => fill(out, bits[range].iter().map(|bits| half::bf16(*bits))),
            Rows::F16(bits) => fill(out, bits[range].iter().map(|bits| half::f16(*bits))),
            Rows::Affine {
                scale, offset, q, ..
            } => fill(
                out,
                range.map(|at| scale[at / GROUP] * f32::from(q[at]) + offset[at / GROUP]),
            ),
        }
    }

    /// Whether every weight is a finite number.
    pub fn are_finite(&self) -> bool {
        let finite = |values: &[f32]| values.iter().all(|x| x.is_finite());
        match self {
            Rows::F32(values) => finite(values),
            Rows::Bf16(bits) => bits.iter().all(|bits| bits & 0x7F80 != 0x7F80),
            Rows::F16(bits) => bits.iter().all(|bits| bits & 0x7C00 != 0x7C00),
            Rows::Affine { scale, offset, .. } => finite(scale) && finite(offset),
        }
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        match self {
            Rows::F32(values) => size_of_val(values.as_slice()),
            Rows::Bf16(bits) | Rows::F16(bits) => size_of_val(bits.as_slice()),
            Rows::Affine {
                scale, offset, q, ..
            } => size_of_val(scale.as_slice()) + size_of_val(offset.as_slice()) + q.len(),
        }
    }

    /// Every weight's value.
    pub fn values(&self) -> Vec<f32> {
        match self {
            Rows::F32(values) => values.clone(),
            Rows::Bf16(bits) => bits.iter().map(|bits| half::bf16(*bits)).collect(),
            Rows::F16(bits) => bits.iter().map(|bits| half::f16(*bits)).collect(),
            Rows::Affine {
                scale, offset, q, ..
            } => (q.iter().enumerate())
                .map(|(at, q)| scale[at / GROUP] * f32::from(*q) + offset[at / GROUP])
                .collect(),
        }
    }
}

fn fill(out: &mut [f32], values: impl Iterator<Item = f32>) {
    for (out, value) in out.iter_mut().zip(values) {
        *out = value;
    }
}

/// Weights in tiles.
#[derive(Debug)]
pub(super) enum Packed {
    /// Per tile: [input][output].
    F32(Lasting<f32>),
    /// Per tile: [pair of inputs][output], the first of a pair in the lower half of its word.
    Half { words: Lasting<u32>, format: Format },
    /// Per tile and group: the scales of 32 outputs, their offsets, and words of 8 or 4 weights.
    Affine {
        scales: Lasting<f32>,
        words: Lasting<u32>,
        bits: usize,
    },
}

impl Packed {
    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Packed::F32(w) => size_of_val::<[f32]>(w),
            Packed::Half { words, .. } => size_of_val::<[u32]>(words),
            Packed::Affine { scales, words, .. } => {
                size_of_val::<[f32]>(scales) + size_of_val::<[u32]>(words)
            }
        }
    }
}

/// Outputs with the last tile filled up.
pub(super) fn padded(outputs: usize) -> usize {
    outputs.next_multiple_of(TILE)
}

/// Plain weights, per tile with a tile's outputs side by side.
pub(super) fn pack_f32(inputs: usize, outputs: usize, rows: &[f32]) -> Lasting<f32> {
    let mut packed = Lasting::zeroes(padded(outputs) * inputs);
    for (output, row) in rows.chunks_exact(inputs).enumerate() {
        let tile = &mut packed[output / TILE * inputs * TILE..][..inputs * TILE];
        for (w, to) in row.iter().zip(tile.chunks_exact_mut(TILE)) {
            to[output % TILE] = *w;
        }
    }
    packed
}

/// Weights of 16 bits, two of one output in a word.
pub(super) fn pack_half(inputs: usize, outputs: usize, rows: &[u16], format: Format) -> Packed {
    let pairs = inputs.div_ceil(2);
    let mut words = Lasting::zeroes(padded(outputs) * pairs);
    for (output, row) in rows.chunks_exact(inputs).enumerate() {
        let tile = &mut words[output / TILE * pairs * TILE..][..pairs * TILE];
        for (at, w) in row.iter().enumerate() {
            tile[at / 2 * TILE + output % TILE] |= u32::from(*w) << (at % 2 * 16);
        }
    }
    Packed::Half { words, format }
}

/// A weight q is unpacked by putting its bits at the top of the mantissa of 1.0, which gives
/// 1 + q / 2^bits without any conversion; scale and offset are stored so as to undo that.
pub(super) fn pack_affine(
    inputs: usize,
    outputs: usize,
    scale: &[f32],
    offset: &[f32],
    q: &[u8],
    bits: usize,
) -> Packed {
    let groups = inputs / GROUP;
    let blocks = padded(outputs) / TILE * groups;
    let per_word = 32 / bits;
    let range = (1u32 << bits) as f32;
    let mut scales = Lasting::zeroes(blocks * 2 * TILE);
    let mut words = Lasting::zeroes(blocks * bits * TILE);
    for output in 0..outputs {
        let (tile, lane) = (output / TILE, output % TILE);
        for group in 0..groups {
            let (from, block) = (output * groups + group, tile * groups + group);
            scales[2 * block * TILE + lane] = scale[from] * range;
            scales[(2 * block + 1) * TILE + lane] = offset[from] - scale[from] * range;
            for (at, q) in q[from * GROUP..][..GROUP].iter().enumerate() {
                words[(block * bits + at / per_word) * TILE + lane] |=
                    u32::from(*q) << (at % per_word * bits);
            }
        }
    }
    Packed::Affine {
        scales,
        words,
        bits,
    }
}
