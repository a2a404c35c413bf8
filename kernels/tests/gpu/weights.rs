//! What a token follows from, to the bit: weights, and sums of them. Two that differ in their last bit seldom choose
//! another token, so a token does not show it.

use crate::choose::{OFF, chosen, chosen_and_rows, row, wish};
use crate::on_each_device;
use bulkhead_kernels::compute::choice::{Filters, Rank, Weights, make_finite};
use bulkhead_kernels::gpu::Device;

pub fn weights_are_the_processors_to_the_bit<D: Device>(on: &D) {
    for (vocabulary, kind) in [(257, 0), (2000, 0), (300, 1), (20, 2), (999, 3), (999, 4)] {
        for temperature in [1e-4, 0.7, 1.0, 10.0] {
            let mut logits = row(kind, vocabulary, 8);
            let how = wish(temperature, OFF, 0.5);
            let (_, got) = chosen_and_rows(on, &logits, vocabulary, &[(0, &how)]);
            make_finite(&mut logits);
            let weights = Weights::new(&logits, how.choice.inverse()).expect("some are left");
            let mut want = Vec::new();
            weights.each(0.0, |block| want.extend_from_slice(block.values()));
            let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&got), bits(&want), "{vocabulary} {kind} {temperature}");
        }
    }
}

/// Where the running sum over the blocks is after each of them, as a share of the whole.
fn edges(weights: &Weights<'_>, least: Rank) -> Vec<f64> {
    let mut sums = Vec::new();
    weights.each(0.0, |block| sums.push(block.sum(least)));
    let whole: f64 = sums.iter().sum();
    let running = sums.iter().scan(0.0, |sum, more| {
        *sum += more;
        Some(*sum)
    });
    running.map(|sum| sum / whole).collect()
}

/// At an edge between two blocks, the last bit of either's sum decides.
pub fn sums_are_the_processors_to_the_bit<D: Device>(on: &D) {
    let vocabulary = 12 * 256 + 77;
    let top_k = |top_k| Filters { top_k, ..OFF };
    let top_p = |top_p| Filters { top_p, ..OFF };
    let min_p = |min_p| Filters { min_p, ..OFF };
    for (kind, filters) in [
        (0, OFF),
        (4, OFF),
        // Limits that fall between equals, in the middle of a block.
        (1, top_k(700)),
        (1, top_k(1333)),
        (2, top_k(1001)),
        (1, top_p(0.7)),
        (0, top_p(0.99)),
        (0, min_p(0.01)),
    ] {
        let mut logits = row(kind, vocabulary, 2);
        let device = logits.clone();
        make_finite(&mut logits);
        let weights = Weights::new(&logits, 1.0 / 1.3).expect("some are left");
        let edges = edges(&weights, filters.least(&weights));
        let around = edges
            .iter()
            .flat_map(|at| [at.next_down(), *at, at.next_up()]);
        for at in around.filter(|at| (0.0..1.0).contains(at)) {
            let how = wish(1.3, filters, at);
            let want = how.choice.of(&logits).expect("some are left");
            let got = chosen(on, &device, vocabulary, &[(0, &how)]);
            assert_eq!(got, [want], "{kind} {filters:?} {at}");
        }
    }
}

on_each_device! {
    weights_are_the_processors_to_the_bit
    sums_are_the_processors_to_the_bit
}
