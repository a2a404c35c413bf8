//! Quantised blocks become packed rows.
//!
//! The common 4 and 8 bit formats are affine per 32 weights, as our packed form is, and are taken over
//! bit by bit. The others are read by candle, a piece at a time, and become 8 bits per 32 weights, which
//! moves no weight by more than 1/510 of its group's range.

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
        GgmlDType::Q8_0 => packed.q8_0(bytes),
        _ => pieces(dtype, bytes, |values| packed.requantise(values))?,
    }
    let bits = match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q4_1 => 4,
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

    /// 16 bytes of low nibbles (the first 16 weights) and high nibbles (the others).
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
    fn formats_taken_over_bit_by_bit_agree_with_candle() {
        for dtype in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q8_0] {
            check(dtype, 1e-5);
        }
    }

    #[test]
    fn other_formats_lose_less_than_a_step() {
        for dtype in [
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q2K,
            GgmlDType::Q3K,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ] {
            // Values lie between -3 and 3, and a little beyond after quantisation.
            check(dtype, 8.0 / 510.0);
        }
    }
}
