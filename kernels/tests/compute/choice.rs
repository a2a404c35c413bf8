//! Filters and draws against plain ones that sort everything.

use bulkhead_kernels::compute::choice::{BLOCK, Filters, Rank, Weights, draw, make_finite, mass};
use proptest::prelude::*;

/// Every token's weight.
fn all(weights: &Weights<'_>) -> Vec<f32> {
    let mut all = Vec::new();
    weights.each(0.0, |block| all.extend_from_slice(block.values()));
    all
}

/// The ids that are left, in order, by sorting all weights and going down.
fn kept_by_sorting(weights: &[f32], filters: &Filters) -> Vec<u32> {
    let mut order: Vec<u32> = (0..weights.len() as u32).collect();
    let weight = |id: &u32| weights[*id as usize];
    order.retain(|id| weight(id) > 0.0);
    order.sort_by(|a, b| weight(b).total_cmp(&weight(a)).then(a.cmp(b)));
    if filters.top_k > 0 {
        order.truncate(filters.top_k as usize);
    }
    if filters.top_p < 1.0 {
        let masses = order.iter().map(|id| mass(weight(id)));
        let all = match filters.top_k {
            0 => {
                weights.iter().map(|weight| f64::from(*weight)).sum::<f64>()
                    * f64::from(mass(1.0) as f32)
            }
            _ => masses.clone().sum::<u64>() as f64,
        };
        let enough = (f64::from(filters.top_p) * all).ceil() as u64;
        let sums = masses.scan(0, |sum, mass| {
            *sum += mass;
            Some(*sum)
        });
        let short = sums.take_while(|sum| *sum < enough).count();
        order.truncate(short + 1);
    }
    order.retain(|id| weight(id) >= filters.min_p);
    order.sort_unstable();
    order
}

fn kept(weights: &[f32], least: Rank) -> Vec<u32> {
    let ids = 0..weights.len() as u32;
    ids.filter(|id| least.admits(weights[*id as usize], *id))
        .collect()
}

/// Logits of all kinds: spread, crowded, with many ties, and some that are no numbers.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![
        8 => -20f32..20.0,
        8 => (-6i8..6).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::NAN),
        1 => -1e4f32..-1e3,
    ];
    let few = proptest::collection::vec(one.clone(), 1..300);
    let many = proptest::collection::vec(one, BLOCK * 3..BLOCK * 5);
    prop_oneof![few, many]
}

proptest! {
    #[test]
    fn filters_keep_what_sorting_keeps(
        mut logits in logits(),
        temperature in 0.05f32..8.0,
        top_k in 0u32..40,
        top_p in prop_oneof![Just(1f32), 0.001f32..1.0],
        min_p in prop_oneof![Just(0f32), Just(1f32), 0f32..0.5],
    ) {
        make_finite(&mut logits);
        let filters = Filters { top_k, top_p, min_p };
        if let Some(weights) = Weights::new(&logits, 1.0 / temperature) {
            let all = all(&weights);
            let least = filters.least(&weights);
            prop_assert_eq!(kept(&all, least), kept_by_sorting(&all, &filters));
        }
    }

    #[test]
    fn a_draw_is_the_token_in_which_the_running_sum_passes_it(
        mut logits in logits(),
        top_k in 0u32..40,
        at in 0f64..1.0,
    ) {
        make_finite(&mut logits);
        let filters = Filters { top_k, top_p: 1.0, min_p: 0.0 };
        if let Some(weights) = Weights::new(&logits, 1.0) {
            let all = all(&weights);
            let kept = kept_by_sorting(&all, &filters);
            let total: f64 = kept.iter().map(|id| f64::from(all[*id as usize])).sum();
            let mut sum = 0.0;
            let expected = kept.into_iter().find(|id| {
                sum += f64::from(all[*id as usize]);
                sum > at * total
            });
            prop_assert_eq!(draw(&weights, filters.least(&weights), at), expected);
        }
    }
}
