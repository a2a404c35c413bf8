//! What keys and values are rounded to, by obvious means.

use bulkhead_kernels::gpu::{Bf16, F16, Stored};

/// A kind of storage whose rounding is known here too.
pub trait Rounded: Stored {
    /// The nearest of it.
    fn of(x: f32) -> Self;
    /// Its value.
    fn value(self) -> f32;
}

impl Rounded for f32 {
    fn of(x: f32) -> Self {
        x
    }
    fn value(self) -> f32 {
        self
    }
}

impl Rounded for Bf16 {
    fn of(x: f32) -> Self {
        nearest(x, |bits| Bf16(bits).value()).map_or(Bf16(0x7FC0), Bf16)
    }
    fn value(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }
}

impl Rounded for F16 {
    fn of(x: f32) -> Self {
        nearest(x, |bits| F16(bits).value()).map_or(F16(0x7E00), F16)
    }
    fn value(self) -> f32 {
        let (exponent, fraction) = (i32::from(self.0 >> 10 & 31), f32::from(self.0 & 1023));
        let magnitude = match exponent {
            0 => fraction * 2f32.powi(-24),
            31 if fraction == 0.0 => f32::INFINITY,
            31 => f32::NAN,
            _ => (1024.0 + fraction) * 2f32.powi(exponent - 25),
        };
        if self.0 & 0x8000 == 0 {
            magnitude
        } else {
            -magnitude
        }
    }
}

/// The bits of the nearest value, the even one of two that are as near; `None` of what is no number. Values
/// without a sign ascend with their bits.
fn nearest(x: f32, value: impl Fn(u16) -> f32) -> Option<u16> {
    if x.is_nan() {
        return None;
    }
    let magnitude = x.abs();
    let (mut low, mut high) = (0u16, 0x7FFF);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        // Beyond infinity come those that are no numbers.
        match value(middle) <= magnitude {
            true => low = middle,
            false => high = middle - 1,
        }
    }
    let up = value(low + 1);
    let (below, above) = (magnitude - value(low), up - magnitude);
    let round_up = up.is_finite() && (above < below || (above == below && low % 2 == 1));
    let sign = if x.is_sign_negative() { 0x8000 } else { 0 };
    Some(sign | (low + u16::from(round_up)))
}
