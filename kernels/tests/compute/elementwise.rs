//! Activations, norms and softmax.

use crate::{apart, at_each_level, noise};
use bulkhead_kernels::compute::reference;
use bulkhead_kernels::compute::simd::{self, Activation};
use proptest::prelude::*;

#[test]
fn activations_are_exact_enough_from_far_below_zero_to_far_above() {
    let x: Vec<f32> = (-2500..2500).map(|at| at as f32 / 100.0).collect();
    for kind in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Relu,
    ] {
        let want: Vec<f32> = x.iter().map(|x| reference::activation(kind, *x)).collect();
        at_each_level(|level| {
            let mut got = x.clone();
            kind.apply(&mut got);
            for ((x, got), want) in x.iter().zip(&got).zip(&want) {
                let allowed = 2e-6 * want.abs().max(1.0);
                assert!(
                    (got - want).abs() < allowed,
                    "{level:?} {kind:?}({x}): {got}"
                );
            }
        });
    }
}

proptest! {
    #[test]
    fn norms_are_those_of_the_plain_loops(
        width in 1usize..300,
        heads in 1usize..4,
        seed in any::<u32>(),
    ) {
        let seed = u64::from(seed);
        let (row, add) = (noise(width * heads, seed), noise(width * heads, seed + 1));
        let (weight, bias) = (noise(width, seed + 2), noise(width, seed + 3));
        let sum: Vec<f32> = row[..width].iter().zip(&add).map(|(x, a)| x + a).collect();
        at_each_level(|_| {
            let mut got = row[..width].to_vec();
            simd::add_layer_norm(&mut got, &add[..width], &weight, &bias, 1e-3);
            assert!(apart(&got, &reference::layer_norm(&sum, &weight, &bias, 1e-3)) < 1e-4);
            simd::rms_norm(&row[..width], &weight, 1e-5, &mut got);
            assert!(apart(&got, &reference::rms_norm(&row[..width], &weight, 1e-5)) < 1e-5);
            let mut got = row.clone();
            simd::rms_norm_heads(&mut got, &weight, 1e-5);
            let each = row.chunks_exact(width);
            let want: Vec<f32> = each
                .flat_map(|head| reference::rms_norm(head, &weight, 1e-5))
                .collect();
            assert!(apart(&got, &want) < 1e-5);
        });
    }

    #[test]
    fn softmax_and_gates_are_those_of_the_plain_loops(
        width in 1usize..300,
        scale in 0.01f32..30.0,
        seed in any::<u32>(),
    ) {
        let both = noise(2 * width, u64::from(seed));
        let (gate, up) = both.split_at(width);
        let exact: Vec<f64> = gate.iter().map(|x| f64::from(*x)).collect();
        let shares = reference::softmax(&exact, f64::from(scale));
        let shares: Vec<f32> = shares.iter().map(|p| *p as f32).collect();
        let silu = |x: &f32| reference::activation(Activation::Silu, *x);
        let gated: Vec<f32> = gate.iter().zip(up).map(|(g, u)| silu(g) * u).collect();
        at_each_level(|_| {
            let mut got = gate.to_vec();
            simd::softmax(&mut got, scale);
            assert!(apart(&got, &shares) < 1e-5);
            simd::swiglu(&both, &mut got);
            assert!(apart(&got, &gated) < 1e-6);
        });
    }
}

#[test]
fn what_is_beyond_f32_gives_no_number_and_no_zeros() {
    let (weight, bias) = ([1.0; 8], [0.0; 8]);
    at_each_level(|level| {
        for huge in [1e30, f32::INFINITY, f32::NAN] {
            let row = [huge, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
            let mut out = [0.0; 8];
            simd::rms_norm(&row, &weight, 1e-5, &mut out);
            let (mut heads, mut layer, mut gated) = (row, row, row);
            simd::rms_norm_heads(&mut heads, &weight, 1e-5);
            simd::layer_norm(&mut layer, &weight, &bias, 1e-5);
            for row in [out, heads, layer] {
                assert!(row.iter().all(|x| x.is_nan()), "{level:?} {huge}: {row:?}");
            }
            Activation::Relu.apply(&mut gated);
            assert_eq!(gated[0].to_bits(), huge.to_bits());
        }
    });
}
