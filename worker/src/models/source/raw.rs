//! One tensor's bytes in their file's own format, and what they become.

use super::blocks;
use crate::models::LoadError;
use bulkhead_kernels::compute::{GROUP, Rows};
use candle_core::quantized::GgmlDType;

/// How a tensor's values are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Quantised in blocks, as ggml has them.
    Blocks(GgmlDType),
}

impl Kind {
    /// Bytes that `count` values take; none if that is no whole number of blocks, or overflows.
    pub fn bytes_of(self, count: usize) -> Option<usize> {
        let (values, bytes) = match self {
            Kind::F32 => (1, 4),
            Kind::F16 | Kind::Bf16 => (1, 2),
            Kind::Blocks(dtype) => (dtype.block_size(), dtype.type_size()),
        };
        match count.is_multiple_of(values) {
            true => (count / values).checked_mul(bytes),
            false => None,
        }
    }
}

/// A tensor inside its file. Its bytes are as many as its kind and shape ask for.
#[derive(Debug)]
pub struct Raw<'a> {
    /// How its values are written.
    pub kind: Kind,
    /// They themselves, little-endian.
    pub bytes: &'a [u8],
    /// Its name, for errors.
    pub name: &'a str,
    /// Its file, for errors.
    pub file: &'a str,
}

impl Raw<'_> {
    /// All values as f32, which are finite.
    pub fn floats(&self) -> Result<Vec<f32>, LoadError> {
        let pairs = || self.bytes.as_chunks::<2>().0.iter();
        let floats: Vec<f32> = match self.kind {
            Kind::F32 => {
                let words = self.bytes.as_chunks::<4>().0;
                words.iter().map(|word| f32::from_le_bytes(*word)).collect()
            }
            Kind::F16 => pairs().map(|[low, high]| half(*low, *high)).collect(),
            Kind::Bf16 => pairs()
                .map(|[low, high]| f32::from_le_bytes([0, 0, *low, *high]))
                .collect(),
            Kind::Blocks(dtype) => {
                blocks::floats(dtype, self.bytes).map_err(|error| self.bad(error))?
            }
        };
        match floats.iter().all(|x| x.is_finite()) {
            true => Ok(floats),
            false => Err(self.not_finite()),
        }
    }

    /// The values, which are finite, as rows of `inputs` each. Most quantised formats are taken over exactly, the
    /// others become 8 bits. Groups that would straddle rows become plain, and 16 bits stay 16 bits.
    pub fn rows(&self, inputs: usize) -> Result<Rows, LoadError> {
        let rows = match self.kind {
            Kind::Blocks(dtype) if inputs.is_multiple_of(GROUP) => {
                blocks::rows(dtype, self.bytes).map_err(|error| self.bad(error))?
            }
            Kind::F16 => Rows::F16(self.bits()),
            Kind::Bf16 => Rows::Bf16(self.bits()),
            _ => return self.floats().map(Rows::F32),
        };
        match rows.are_finite() {
            true => Ok(rows),
            false => Err(self.not_finite()),
        }
    }

    /// One such weight would make all answers meaningless, and those of others whose prompts begin alike.
    fn not_finite(&self) -> LoadError {
        self.bad("a weight in it is infinite or not a number: the file is damaged, fetch it again")
    }

    /// Values of 16 bits, raw.
    fn bits(&self) -> Vec<u16> {
        let pairs = self.bytes.as_chunks::<2>().0;
        pairs.iter().map(|pair| u16::from_le_bytes(*pair)).collect()
    }

    /// An error about this tensor.
    pub fn bad(&self, cause: impl std::fmt::Display) -> LoadError {
        LoadError::bad(self.file, format!("{}: {cause}", self.name))
    }
}

/// A half-precision number's value.
pub(super) fn half(low: u8, high: u8) -> f32 {
    let bits = u32::from(u16::from_le_bytes([low, high]));
    let (sign, exponent, fraction) = (bits >> 15 << 31, bits >> 10 & 31, bits & 1023);
    let magnitude = match exponent {
        0 => fraction as f32 / (1 << 24) as f32,
        31 => f32::from_bits(0xFF << 23 | fraction << 13),
        _ => f32::from_bits((exponent + 112) << 23 | fraction << 13),
    };
    f32::from_bits(magnitude.to_bits() | sign)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_that_are_no_finite_numbers_are_refused() {
        let refused = |kind, bytes: &[u8], inputs| {
            let raw = Raw {
                kind,
                bytes,
                name: "w",
                file: "f",
            };
            for error in [raw.floats().err(), raw.rows(inputs).err()] {
                let said = error.expect("refused").to_string();
                assert!(said.contains("infinite or not a number"), "{said}");
            }
        };
        let words = |bad: f32| [1f32.to_le_bytes(), bad.to_le_bytes()].concat();
        refused(Kind::F32, &words(f32::NAN), 2);
        refused(Kind::F32, &words(f32::NEG_INFINITY), 2);
        for high in [0x7C, 0xFC, 0x7E] {
            refused(Kind::F16, &[0, 0x3C, 0, high], 2);
        }
        for (low, high) in [(0x80, 0x7F), (0x80, 0xFF), (0xC0, 0x7F)] {
            refused(Kind::Bf16, &[0x80, 0x3F, low, high], 2);
        }
        // A block of Q8_0 is its scale in half precision, and 32 numbers.
        let mut block = [1u8; 34];
        block[..2].copy_from_slice(&[0, 0x7C]);
        refused(Kind::Blocks(GgmlDType::Q8_0), &block, 32);
    }

    #[test]
    fn halves_have_their_values() {
        for (bits, value) in [
            (0x3C00u16, 1.0),
            (0xC000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x7BFF, 65504.0),
            (0, 0.0),
        ] {
            let [low, high] = bits.to_le_bytes();
            assert_eq!(half(low, high), value);
        }
        assert!(half(0x00, 0x7C).is_infinite() && half(0x01, 0x7C).is_nan());
    }

    #[test]
    fn every_kind_says_how_many_bytes_it_takes() {
        assert_eq!(Kind::F32.bytes_of(3), Some(12));
        assert_eq!(Kind::Bf16.bytes_of(3), Some(6));
        assert_eq!(Kind::Blocks(GgmlDType::Q8_0).bytes_of(64), Some(68));
        assert_eq!(Kind::Blocks(GgmlDType::Q8_0).bytes_of(33), None);
        assert_eq!(Kind::F32.bytes_of(usize::MAX), None);
    }

    #[test]
    fn two_byte_kinds_widen_exactly() {
        let raw = |kind, bytes| Raw {
            kind,
            bytes,
            name: "x",
            file: "y",
        };
        let bf16 = raw(Kind::Bf16, &[0x80, 0x3F, 0x49, 0xC0][..]);
        assert_eq!(bf16.floats().expect("plain"), [1.0, -3.140_625]);
        let f16 = raw(Kind::F16, &[0x00, 0x3C, 0x48, 0xC2][..]);
        assert_eq!(f16.floats().expect("plain"), [1.0, -3.140_625]);
    }

    #[test]
    fn rows_stay_as_narrow_as_they_are_unless_groups_would_straddle_them() {
        let raw = |kind, bytes| Raw {
            kind,
            bytes,
            name: "x",
            file: "y",
        };
        let halves = raw(Kind::F16, &[0x00, 0x3C][..]).rows(1).expect("plain");
        assert!(matches!(halves, Rows::F16(bits) if bits == [0x3C00]));
        let block = [&[0x00, 0x3C][..], &[2; 32]].concat();
        let q8 = raw(Kind::Blocks(GgmlDType::Q8_0), &block);
        assert!(matches!(q8.rows(32), Ok(Rows::Affine { bits: 8, .. })));
        assert!(matches!(q8.rows(16), Ok(Rows::F32(values)) if values == [2.0; 32]));
    }
}
