//! Quantised blocks become packed rows.
//!
//! Most formats are affine per 32 weights, as our packed form is, and are taken over exactly: their 4 bits
//! stay 4, their 5 bits become 8. Q2_K, Q3_K and Q6_K have a scale for every 16; they are read by candle,
//! a piece at a time, and become 8 bits per 32 weights, which moves no weight by more than 1/510 of its
//! group's range. What each format means is published with ggml (github.com/ggml-org/ggml).

use super::raw::half;
use bulkhead_kernels::compute::{GROUP, Rows};
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{Device, Result};
use std::borrow::Cow;

/// Values that are unpacked at a time: a whole number of blocks of any kind.
const PIECE_VALUES: usize = 1 << 16;

/// All values, one behind the other.
pub(super) fn floats(dtype: GgmlDType, bytes: &[u8]) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(bytes.len() / dtype.type_size() * dtype.block_size());
    pieces(dtype, bytes, |values| all.extend_from_slice(values))?;
    Ok(all)
}

/// Affine rows; the groups are those of the values in their order.
pub(super) fn rows(dtype: GgmlDType, bytes: &[u8]) -> Result<Rows> {
    let groups = bytes.len() / dtype.type_size() * dtype.block_size() / GROUP;
    let mut packed = Groups::with_capacity(groups);
    match dtype {
        GgmlDType::Q4_0 => packed.q4_0(bytes),
        GgmlDType::Q4_1 => packed.q4_1(bytes),
        GgmlDType::Q5_0 => packed.q5_0(bytes),
        GgmlDType::Q5_1 => packed.q5_1(bytes),
        GgmlDType::Q4K => packed.q4_k(bytes),
        GgmlDType::Q5K => packed.q5_k(bytes),
        GgmlDType::Q8_0 => packed.q8_0(bytes),
        _ => pieces(dtype, bytes, |values| packed.requantise(values))?,
    }
    let bits = match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => 4,
        _ => 8,
    };
    Ok(packed.rows(bits))
}

fn pieces(dtype: GgmlDType, bytes: &[u8], mut each: impl FnMut(&[f32])) -> Result<()> {
    let piece_bytes = PIECE_VALUES / dtype.block_size() * dtype.type_size();
    for piece in bytes.chunks(piece_bytes) {
        let values = piece.len() / dtype.type_size() * dtype.block_size();
        // A copy, since the file may have the blocks at any address and candle wants them aligned.
        let copy = piece.to_vec();
        let storage = QStorage::from_data(Cow::Borrowed(&copy), &Device::Cpu, dtype)?;
        let tensor = QTensor::new(storage, values)?;
        each(&tensor.dequantize(&Device::Cpu)?.to_vec1::<f32>()?);
    }
    Ok(())
}

/// Groups as they come.
struct Groups {
    scale: Vec<f32>,
    offset: Vec<f32>,
    q: Vec<u8>,
}

impl Groups {
    fn with_capacity(groups: usize) -> Self {
        Groups {
            scale: Vec::with_capacity(groups),
            offset: Vec::with_capacity(groups),
            q: Vec::with_capacity(groups * GROUP),
        }
    }

    fn rows(self, bits: usize) -> Rows {
        let Groups { scale, offset, q } = self;
        Rows::Affine {
            scale,
            offset,
            q,
            bits,
        }
    }

    fn affine(&mut self, scale: f32, offset: f32) {
        self.scale.push(scale);
        self.offset.push(offset);
    }

    /// Low nibbles of all bytes, and then high ones.
    fn nibbles(&mut self, bytes: &[u8]) {
        self.q.extend(bytes.iter().map(|byte| byte & 15));
        self.q.extend(bytes.iter().map(|byte| byte >> 4));
    }

    fn q4_0(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<18>().0 {
            let d = half(block[0], block[1]);
            self.affine(d, -8.0 * d);
            self.nibbles(&block[2..]);
        }
    }

    fn q4_1(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<20>().0 {
            self.affine(half(block[0], block[1]), half(block[2], block[3]));
            self.nibbles(&block[4..]);
        }
    }

    fn q5_0(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<22>().0 {
            let d = half(block[0], block[1]);
            self.affine(d, -16.0 * d);
            self.fifth_bits(&block[2..6], &block[6..]);
        }
    }

    fn q5_1(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<24>().0 {
            self.affine(half(block[0], block[1]), half(block[2], block[3]));
            self.fifth_bits(&block[4..8], &block[8..]);
        }
    }

    /// Nibbles, and a bit above each: one of `high`'s for each weight in turn.
    fn fifth_bits(&mut self, high: &[u8], nibbles: &[u8]) {
        let start = self.q.len();
        self.nibbles(nibbles);
        for (at, q) in self.q[start..].iter_mut().enumerate() {
            *q |= (high[at / 8] >> (at % 8) & 1) << 4;
        }
    }

    fn q4_k(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<144>().0 {
            self.k_scales(block);
            for nibbles in block[16..].as_chunks::<32>().0 {
                self.nibbles(nibbles);
            }
        }
    }

    fn q5_k(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<176>().0 {
            self.k_scales(block);
            let (high, nibbles) = block[16..].split_at(32);
            let start = self.q.len();
            for nibbles in nibbles.as_chunks::<32>().0 {
                self.nibbles(nibbles);
            }
            // A byte has the fifth bits of the weights at one place in each of the eight groups.
            for (group, weights) in self.q[start..].chunks_exact_mut(GROUP).enumerate() {
                for (q, high) in weights.iter_mut().zip(high) {
                    *q |= (high >> group & 1) << 4;
                }
            }
        }
    }

    /// The eight scales and offsets in front of a block of Q4_K or Q5_K: two halves that multiply scales
    /// and offsets, and 6 bits of each, the upper two of the last four in the bytes of the first four.
    fn k_scales(&mut self, block: &[u8]) {
        let (d, least) = (half(block[0], block[1]), half(block[2], block[3]));
        let six = &block[4..16];
        for nth in 0..4 {
            let (scale, offset) = (six[nth] & 63, six[nth + 4] & 63);
            self.affine(d * f32::from(scale), -least * f32::from(offset));
        }
        for nth in 0..4 {
            let scale = six[nth + 8] & 15 | six[nth] >> 6 << 4;
            let offset = six[nth + 8] >> 4 | six[nth + 4] >> 6 << 4;
            self.affine(d * f32::from(scale), -least * f32::from(offset));
        }
    }

    fn q8_0(&mut self, bytes: &[u8]) {
        for block in bytes.as_chunks::<34>().0 {
            let d = half(block[0], block[1]);
            self.affine(d, -128.0 * d);
            self.q.extend(block[2..].iter().map(|byte| byte ^ 0x80));
        }
    }

    /// Any other format, from its values.
    fn requantise(&mut self, values: &[f32]) {
        for group in values.chunks(GROUP) {
            let low = group.iter().copied().fold(f32::MAX, f32::min);
            let high = group.iter().copied().fold(f32::MIN, f32::max);
            let step = (high - low) / 255.0;
            let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
            self.affine(step, low);
            let levels = group.iter().map(|x| ((x - low) * inverse).round() as u8);
            self.q.extend(levels);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Tensor;

    /// How far from candle's reading ours may be, in units of the values.
    fn check(dtype: GgmlDType, tolerance: f32) {
        let noise: Vec<f32> = (0..1024).map(|at| (at as f32 * 0.7).sin() * 3.0).collect();
        let tensor = Tensor::from_vec(noise, (4, 256), &Device::Cpu).expect("sizes agree");
        let quantised = QTensor::quantize(&tensor, dtype).expect("it quantises");
        let bytes = quantised.data().expect("on the CPU");
        let theirs = quantised
            .dequantize(&Device::Cpu)
            .and_then(|values| values.flatten_all()?.to_vec1::<f32>())
            .expect("on the CPU");
        assert_eq!(floats(dtype, &bytes).expect("it reads"), theirs);
        let ours = rows(dtype, &bytes).expect("it reads").values();
        assert_eq!(ours.len(), theirs.len());
        for (ours, theirs) in ours.iter().zip(theirs) {
            let apart = (ours - theirs).abs();
            assert!(apart <= tolerance, "{dtype:?}: {ours} is not {theirs}");
        }
    }

    #[test]
    fn formats_taken_over_exactly_agree_with_candle() {
        for dtype in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
        ] {
            check(dtype, 2e-6);
        }
    }

    #[test]
    fn other_formats_lose_less_than_a_step() {
        for dtype in [GgmlDType::Q2K, GgmlDType::Q3K, GgmlDType::Q6K] {
            // Values lie between -3 and 3, and a little beyond after quantisation.
            check(dtype, 8.0 / 510.0);
        }
    }

    #[test]
    fn four_bits_stay_four() {
        for (dtype, want) in [
            (GgmlDType::Q4K, 4),
            (GgmlDType::Q5K, 8),
            (GgmlDType::Q6K, 8),
        ] {
            let bytes = vec![0; dtype.type_size()];
            let rows = rows(dtype, &bytes).expect("zeros");
            assert!(matches!(rows, Rows::Affine { bits, .. } if bits == want));
        }
    }
}
