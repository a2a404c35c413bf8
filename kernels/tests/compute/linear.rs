//! Matrix products of every kind of weights.

use crate::{apart, at_each_level, noise};
use bulkhead_kernels::compute::{GROUP, Linear, Rows, linear, reference};
use proptest::prelude::*;

fn affine(count: usize, bits: usize, seed: u64) -> Rows {
    let top = ((1 << bits) - 1) as f32;
    let groups = count / GROUP;
    let quantised = |x: &f32| ((x + 1.0) / 2.0 * top).round() as u8;
    Rows::Affine {
        scale: noise(groups, seed).iter().map(|x| x / top).collect(),
        offset: noise(groups, seed + 1),
        q: noise(count, seed + 2).iter().map(quantised).collect(),
        bits,
    }
}

fn bits(count: usize, seed: u64) -> Vec<u16> {
    let upper = |x: &f32| (x.to_bits() >> 16) as u16;
    noise(count, seed).iter().map(upper).collect()
}

/// Weights of a kind by number, and how many inputs they have for `size`.
fn weights(kind: usize, size: usize, outputs: usize, seed: u64) -> (usize, Rows) {
    let groups = size.div_ceil(GROUP) * GROUP;
    match kind {
        0 => (size, Rows::F32(noise(size * outputs, seed))),
        1 => (size, Rows::Bf16(bits(size * outputs, seed))),
        // Without the upper bit of the exponent: values below 2 in half precision.
        2 => {
            let bits = bits(size * outputs, seed);
            (
                size,
                Rows::F16(bits.iter().map(|bits| bits & 0xBBFF).collect()),
            )
        }
        3 => (groups, affine(groups * outputs, 4, seed)),
        _ => (groups, affine(groups * outputs, 8, seed)),
    }
}

fn check(kind: usize, size: usize, outputs: usize, rows: usize, seed: u64) {
    let (inputs, weights) = weights(kind, size, outputs, seed);
    let (x, bias) = (noise(rows * inputs, seed + 7), noise(outputs, seed + 8));
    let exact = reference::linear(inputs, &weights, &bias, &x);
    let rounded = reference::linear(inputs, &weights, &bias, &reference::rounded(&x));
    // No activation is moved by more than half a step, and no weight is beyond 2.
    assert!(apart(&rounded, &exact) < inputs as f32 / 32767.0);
    let matrix = Linear::new(inputs, outputs, &weights, &bias).expect("sizes agree");
    at_each_level(|level| {
        let mut out = vec![f32::NAN; rows * outputs];
        matrix.forward(&x, &mut out, |_| ());
        for (x, together) in x.chunks(inputs).zip(out.chunks(outputs)) {
            let mut alone = vec![f32::NAN; outputs];
            matrix.forward(x, &mut alone, |_| ());
            assert_eq!(alone, together, "{level:?}, kind {kind}, {rows} rows");
        }
        let apart = apart(
            &out,
            if kind >= 3 && linear::rounds() {
                &rounded
            } else {
                &exact
            },
        );
        assert!(
            apart < 2e-6 * inputs as f32 + 1e-5,
            "{level:?}, kind {kind}, {rows} rows of {inputs} times {outputs}: {apart}"
        );
    });
    let mut row = vec![0f32; inputs];
    let plain = weights.values();
    for output in [0, outputs / 2, outputs - 1] {
        matrix.weights_of(output, &mut row);
        assert!(apart(&row, &plain[output * inputs..][..inputs]) < 1e-6);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn a_product_is_that_of_the_plain_loops(
        kind in 0usize..5,
        size in 1usize..200,
        outputs in 1usize..200,
        rows in 1usize..40,
        seed in any::<u32>(),
    ) {
        check(kind, size, outputs, rows, u64::from(seed));
    }
}

#[test]
fn many_rows_are_divided_among_the_threads_and_none_is_lost() {
    for kind in 0..5 {
        for rows in [47, 64, 97, 300] {
            check(kind, 64, 70, rows, 5);
        }
    }
}

#[test]
fn whole_rows_are_finished_once() {
    at_each_level(|level| {
        for (rows, outputs) in [(1, 3), (5, 64), (40, 100), (500, 33)] {
            let weights = Rows::F32(noise(32 * outputs, 1));
            let linear = Linear::new(32, outputs, &weights, &[]).expect("sizes agree");
            let x = noise(rows * 32, 2);
            let (mut plain, mut finished) = (vec![0.0; rows * outputs], vec![0.0; rows * outputs]);
            linear.forward(&x, &mut plain, |_| ());
            linear.forward(&x, &mut finished, |part| {
                assert!(part.len() % outputs == 0);
                part.iter_mut().for_each(|x| *x += 1000.0);
            });
            plain.iter_mut().for_each(|x| *x += 1000.0);
            assert_eq!(apart(&finished, &plain), 0.0, "{level:?}");
        }
    });
}

#[test]
fn activations_that_are_no_numbers_make_no_number_of_a_result() {
    for kind in 3..5 {
        let (inputs, weights) = weights(kind, 96, 40, 3);
        let matrix = Linear::new(inputs, 40, &weights, &[]).expect("sizes agree");
        at_each_level(|level| {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                for at in [0, 50, 95] {
                    let mut x = noise(2 * inputs, 1);
                    x[at] = bad;
                    let mut out = vec![0.0; 2 * 40];
                    matrix.forward(&x, &mut out, |_| ());
                    assert!(out[..40].iter().all(|x| !x.is_finite()), "{level:?}, {bad}");
                    assert!(out[40..].iter().all(|x| x.is_finite()));
                }
            }
        });
    }
}

#[test]
fn activations_of_any_size_are_rounded_by_their_own() {
    let (inputs, weights) = weights(3, 128, 33, 9);
    let matrix = Linear::new(inputs, 33, &weights, &[]).expect("sizes agree");
    let mut x = noise(inputs, 1);
    for (group, size) in x.chunks_mut(GROUP).zip([0.0, 1e-38, 1e4, 1e-3]) {
        group.iter_mut().for_each(|x| *x *= size);
    }
    let want = reference::linear(inputs, &weights, &[], &x);
    at_each_level(|level| {
        let mut out = vec![0.0; 33];
        matrix.forward(&x, &mut out, |_| ());
        assert!(
            apart(&out, &want) < 1e4 * GROUP as f32 / 32767.0,
            "{level:?}"
        );
        // The group of thousandths beside that of thousands: exactly as it is alone.
        let mut small = x.clone();
        small[2 * GROUP..3 * GROUP].fill(0.0);
        let want = reference::linear(inputs, &weights, &[], &small);
        matrix.forward(&small, &mut out, |_| ());
        assert!(apart(&out, &want) < 1e-6, "{level:?}");
    });
}
