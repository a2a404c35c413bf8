//! The hot loops' vector code, written once over `pulp`'s safe vectors and chosen at run time for what
//! the processor has (AVX-512, AVX2, NEON, or plain).
//!
//! Elementwise functions are plain loops that the compiler vectorises inside the chosen instruction
//! set. Nothing here allocates or keeps anything of what it computes.

use pulp::{Arch, Simd, WithSimd};
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction sets, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// No vectors at all.
    Scalar,
    /// 256 bits and fused multiply-add.
    Avx2,
    /// 512 bits.
    Avx512,
    /// The most that the processor has.
    Best,
}

static LIMIT: AtomicU8 = AtomicU8::new(Level::Best as u8);

/// From now on this process uses nothing beyond `level`: to test and compare the lesser paths on a
/// machine that has the best. What the processor lacks is never used, whatever is said here.
pub fn limit(level: Level) {
    LIMIT.store(level as u8, Ordering::Relaxed);
}

/// The limit.
#[inline]
pub(super) fn level() -> Level {
    match LIMIT.load(Ordering::Relaxed) {
        0 => Level::Scalar,
        1 => Level::Avx2,
        2 => Level::Avx512,
        _ => Level::Best,
    }
}

/// The instruction set to use.
#[inline]
pub(super) fn arch() -> Arch {
    let limit = level();
    if limit >= Level::Avx512 {
        return Arch::new();
    }
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    if limit == Level::Avx2
        && let Some(simd) = pulp::x86::V3::try_new()
    {
        return Arch::V3(simd);
    }
    Arch::Scalar
}

/// Runs `op` compiled for the best instruction set that this processor has.
#[inline]
pub fn run<Op: WithSimd>(op: Op) -> Op::Output {
    arch().dispatch(op)
}

/// e^x, relative error below 3e-7 in the range that f32 can hold.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding this brings the rounded integer into the low bits of the mantissa.
    const ROUND: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    // ln 2 in two parts, so that the difference keeps its last bits.
    let r = (x - n * 0.693_359_4) + n * 2.121_944_4e-4;
    let p = 1.0
        + r * (1.0
            + r * (0.5
                + r * (0.166_666_66 + r * (0.041_666_5 + r * (0.008_333_45 + r * 0.001_39)))));
    p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
}

/// The exact (erf) GELU; erf after Abramowitz and Stegun 7.1.26, absolute error below 2e-7.
#[inline(always)]
fn gelu_one(x: f32) -> f32 {
    let z = x * std::f32::consts::FRAC_1_SQRT_2;
    let a = z.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * a);
    let poly = t
        * (0.254_829_6
            + t * (-0.284_496_73 + t * (1.421_413_8 + t * (-1.453_152 + t * 1.061_405_4))));
    let erf = (1.0 - poly * exp(-a * a)).copysign(z);
    0.5 * x * (1.0 + erf)
}

/// The tanh form of GELU, with tanh(u) = 1 - 2 / (1 + e^2u).
#[inline(always)]
fn gelu_tanh_one(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    let u = SQRT_2_OVER_PI * (x + 0.044_715 * x * x * x);
    x - x / (1.0 + exp(2.0 * u))
}

#[inline(always)]
fn silu_one(x: f32) -> f32 {
    x / (1.0 + exp(-x))
}

/// What a feed-forward layer applies to each value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// Exact, by the error function.
    Gelu,
    /// The approximation by tanh.
    GeluTanh,
    Silu,
    Relu,
}

impl Activation {
    /// Applies it in place.
    pub fn apply(self, values: &mut [f32]) {
        run(Apply(self, values));
    }
}

struct Apply<'a>(Activation, &'a mut [f32]);
impl WithSimd for Apply<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        match self.0 {
            Activation::Gelu => each(self.1, gelu_one),
            Activation::GeluTanh => each(self.1, gelu_tanh_one),
            Activation::Silu => each(self.1, silu_one),
            // As it stands, it leaves NaN alone.
            Activation::Relu => each(self.1, |x| if x < 0.0 { 0.0 } else { x }),
        }
    }
}

#[inline(always)]
fn each(values: &mut [f32], one: impl Fn(f32) -> f32) {
    for x in values {
        *x = one(*x);
    }
}

/// Applies the exact GELU in place.
pub fn gelu(values: &mut [f32]) {
    Activation::Gelu.apply(values);
}

struct SwiGlu<'a> {
    gate_up: &'a [f32],
    out: &'a mut [f32],
}
impl WithSimd for SwiGlu<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let width = self.out.len();
        let (gate, up) = self.gate_up.split_at(width);
        for ((out, gate), up) in self.out.iter_mut().zip(gate).zip(up) {
            *out = silu_one(*gate) * up;
        }
    }
}

/// `out = silu(gate) * up`, with gate and up side by side in `gate_up`.
pub fn swiglu(gate_up: &[f32], out: &mut [f32]) {
    run(SwiGlu { gate_up, out });
}

/// What a norm multiplies with. Squares beyond f32 give no number, where their inverse would give zeros.
#[inline(always)]
fn inverse_root(mean: f32, epsilon: f32) -> f32 {
    if mean.is_finite() {
        1.0 / (mean + epsilon).sqrt()
    } else {
        f32::NAN
    }
}

struct Norm<'a> {
    row: &'a mut [f32],
    add: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    epsilon: f32,
}
impl WithSimd for Norm<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Norm {
            row,
            add,
            weight,
            bias,
            epsilon,
        } = self;
        for (x, a) in row.iter_mut().zip(add) {
            *x += a;
        }
        let count = row.len() as f32;
        let mean = sum(simd, row) / count;
        for x in row.iter_mut() {
            *x -= mean;
        }
        let scale = inverse_root(dot(simd, row, row) / count, epsilon);
        for ((x, w), b) in row.iter_mut().zip(weight).zip(bias) {
            *x = *x * scale * w + b;
        }
    }
}

/// `row = layer_norm(row + add)`.
pub fn add_layer_norm(row: &mut [f32], add: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    run(Norm {
        row,
        add,
        weight,
        bias,
        epsilon,
    });
}

/// `row = layer_norm(row)`.
pub fn layer_norm(row: &mut [f32], weight: &[f32], bias: &[f32], epsilon: f32) {
    add_layer_norm(row, &[], weight, bias, epsilon);
}

struct Rms<'a> {
    row: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}
impl WithSimd for Rms<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mean = dot(simd, self.row, self.row) / self.row.len() as f32;
        let scale = inverse_root(mean, self.epsilon);
        for ((out, x), w) in self.out.iter_mut().zip(self.row).zip(self.weight) {
            *out = x * scale * w;
        }
    }
}

/// `out = rms_norm(row) * weight`.
pub fn rms_norm(row: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    run(Rms {
        row,
        weight,
        epsilon,
        out,
    });
}

struct RmsHeads<'a> {
    row: &'a mut [f32],
    weight: &'a [f32],
    epsilon: f32,
}
impl WithSimd for RmsHeads<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for head in self.row.chunks_exact_mut(self.weight.len()) {
            let mean = dot(simd, head, head) / head.len() as f32;
            let scale = inverse_root(mean, self.epsilon);
            for (x, w) in head.iter_mut().zip(self.weight) {
                *x *= scale * w;
            }
        }
    }
}

/// `head = rms_norm(head) * weight` in place, for each of the heads in `row`, which are as wide as
/// `weight`.
pub fn rms_norm_heads(row: &mut [f32], weight: &[f32], epsilon: f32) {
    run(RmsHeads {
        row,
        weight,
        epsilon,
    });
}

struct Softmax<'a> {
    scores: &'a mut [f32],
    scale: f32,
}
impl WithSimd for Softmax<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        softmax_in(simd, self.scores, self.scale);
    }
}

/// Softmax of `scores * scale` in place.
pub fn softmax(scores: &mut [f32], scale: f32) {
    run(Softmax { scores, scale });
}

/// [`softmax`] inside an instruction set that was already chosen.
#[inline(always)]
pub fn softmax_in<S: Simd>(simd: S, scores: &mut [f32], scale: f32) {
    let top = max(simd, scores) * scale;
    for x in scores.iter_mut() {
        *x = exp(*x * scale - top);
    }
    let inverse = 1.0 / sum(simd, scores);
    for x in scores.iter_mut() {
        *x *= inverse;
    }
}

#[inline(always)]
pub(super) fn sum<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(values);
    let mut all = simd.splat_f32s(0.0);
    for x in body {
        all = simd.add_f32s(all, *x);
    }
    simd.reduce_sum_f32s(all) + tail.iter().sum::<f32>()
}

#[inline(always)]
pub(super) fn max<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let (body, tail) = S::as_simd_f32s(values);
    let mut all = simd.splat_f32s(f32::NEG_INFINITY);
    for x in body {
        all = simd.max_f32s(all, *x);
    }
    tail.iter()
        .fold(simd.reduce_max_f32s(all), |top, x| top.max(*x))
}

#[inline(always)]
fn dot<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f32 {
    let (left, left_tail) = S::as_simd_f32s(left);
    let (right, right_tail) = S::as_simd_f32s(right);
    let mut all = simd.splat_f32s(0.0);
    for (l, r) in left.iter().zip(right) {
        all = simd.mul_add_e_f32s(*l, *r, all);
    }
    let tail: f32 = left_tail.iter().zip(right_tail).map(|(l, r)| l * r).sum();
    simd.reduce_sum_f32s(all) + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exact_enough() {
        for step in -8600..8700 {
            let x = step as f32 / 100.0;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp(x)) - exact).abs() <= exact * 5e-7, "{x}");
        }
        assert!(exp(f32::NEG_INFINITY) < 1e-37);
    }

    #[test]
    fn gelu_meets_known_values() {
        let mut x = [-6.0, -1.0, -0.1, 0.0, 0.5, 1.0, 3.0];
        gelu(&mut x);
        let known = [
            -5.9e-9,
            -0.158_655_26,
            -0.046_017_22,
            0.0,
            0.345_731_23,
            0.841_344_7,
            2.995_950_2,
        ];
        for (got, want) in x.iter().zip(known) {
            assert!((got - want).abs() < 1e-6, "{got} is not {want}");
        }
    }

    #[test]
    fn activations_meet_known_values() {
        let all = |activation: Activation| {
            let mut x = [-3.0, -0.5, 0.0, 0.5, 3.0, 40.0, -40.0];
            activation.apply(&mut x);
            x
        };
        let known = [
            (
                Activation::GeluTanh,
                [
                    -0.003_637_39,
                    -0.154_286,
                    0.0,
                    0.345_714,
                    2.996_362_6,
                    40.0,
                    0.0,
                ],
            ),
            (
                Activation::Silu,
                [
                    -0.142_277_62,
                    -0.188_770_33,
                    0.0,
                    0.311_229_68,
                    2.857_722_3,
                    40.0,
                    0.0,
                ],
            ),
            (Activation::Relu, [0.0, 0.0, 0.0, 0.5, 3.0, 40.0, 0.0]),
        ];
        for (activation, known) in known {
            for (got, want) in all(activation).iter().zip(known) {
                assert!(
                    (got - want).abs() < 1e-6,
                    "{activation:?}: {got} is not {want}"
                );
            }
        }
    }

    #[test]
    fn every_head_is_normalised_for_itself() {
        let mut row = [3.0, 4.0, 0.3, 0.4];
        rms_norm_heads(&mut row, &[1.0, 2.0], 0.0);
        let root = 12.5f32.sqrt();
        for (got, want) in row.iter().zip([3.0, 8.0, 3.0, 8.0]) {
            assert!((got - want / root).abs() < 1e-6, "{got}");
        }
        let mut row = [1.0, 3.0];
        layer_norm(&mut row, &[1.0, 2.0], &[0.5, 0.0], 0.0);
        assert_eq!(row, [-0.5, 2.0]);
    }

    #[test]
    fn softmax_sums_to_one_for_every_length() {
        for length in 1..70 {
            let mut scores: Vec<f32> = (0..length).map(|at| (at * 7 % 13) as f32).collect();
            softmax(&mut scores, 0.5);
            assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-5);
        }
    }
}
