//! Weights of 16 bits: what their bits mean, one by one and a vector at a time.
//!
//! A word holds two weights of one output. Widening is shifts and masks alone, so that it needs no
//! instruction beyond those of every vector set. Half precision's exponent is brought to that of f32
//! by one product, which is exact, also for subnormal numbers.

use pulp::Simd;

/// Which 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Bf16,
    F16,
}

/// What f32's exponent has more than half precision's: 2^(127 - 15).
const REBIAS: f32 = 5.192_297e33;
/// Exponent and fraction of a half-precision number, where f32 has them.
const F16_MAGNITUDE: u32 = 0x7FFF << 13;
const SIGN: u32 = 1 << 31;

/// The value of bfloat16 bits.
pub(super) fn bf16(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The value of half-precision bits; infinities and NaN read as numbers beyond 65,504.
pub(super) fn f16(bits: u16) -> f32 {
    let bits = u32::from(bits) << 16;
    f32::from_bits(bits & SIGN | bits >> 3 & F16_MAGNITUDE) * REBIAS
}

/// The value of one weight of a word.
pub(super) fn value(format: Format, word: u32, upper: bool) -> f32 {
    let bits = if upper { word >> 16 } else { word & 0xFFFF } as u16;
    match format {
        Format::Bf16 => bf16(bits),
        Format::F16 => f16(bits),
    }
}

/// A vector of words as the vectors of their lower and upper weights.
#[inline(always)]
pub(super) fn widen<S: Simd, const F16: bool>(simd: S, words: S::u32s) -> [S::f32s; 2] {
    let upper_of_lower = simd.wrapping_dyn_shl_u32s(words, simd.splat_u32s(16));
    if F16 {
        [f16s(simd, upper_of_lower), f16s(simd, words)]
    } else {
        let upper = simd.and_u32s(words, simd.splat_u32s(0xFFFF_0000));
        [
            simd.transmute_f32s_u32s(upper_of_lower),
            simd.transmute_f32s_u32s(upper),
        ]
    }
}

/// The half-precision numbers in the upper halves of words.
#[inline(always)]
fn f16s<S: Simd>(simd: S, words: S::u32s) -> S::f32s {
    let sign = simd.and_u32s(words, simd.splat_u32s(SIGN));
    let moved = simd.wrapping_dyn_shr_u32s(words, simd.splat_u32s(3));
    let magnitude = simd.and_u32s(moved, simd.splat_u32s(F16_MAGNITUDE));
    let bits = simd.transmute_f32s_u32s(simd.or_u32s(sign, magnitude));
    simd.mul_f32s(bits, simd.splat_f32s(REBIAS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_have_their_values() {
        for (bits, want) in [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x0001, 5.960_464_5e-8),
            (0x03FF, 6.097_555e-5),
            (0x7BFF, 65504.0),
            (0x8000, -0.0),
        ] {
            assert_eq!(f16(bits).to_bits(), f32::to_bits(want), "{bits:#x}");
        }
        assert_eq!(bf16(0xBF80), -1.0);
    }
}
