//! Attention over paged keys and values, and inside texts.

use crate::{apart, at_each_level, noise};
use bulkhead_kernels::compute::paged::{self, Attention, BLOCK_TOKENS, Layout, Query};
use bulkhead_kernels::compute::simd::Level;
use bulkhead_kernels::compute::{ragged, reference};
use proptest::prelude::*;
use std::ops::Range;

/// Sequences with their tables of blocks (none shared, in no order), each with some new tokens at
/// its end.
struct Step {
    tables: Vec<Vec<u32>>,
    /// Of each sequence: positions of its new tokens.
    new: Vec<Range<usize>>,
}

impl Step {
    fn new(sequences: &[(usize, usize)]) -> Self {
        let blocks = |(past, new): &(usize, usize)| (past + new).div_ceil(BLOCK_TOKENS);
        let all: usize = sequences.iter().map(blocks).sum();
        let mut free = (0..all as u32).rev();
        Step {
            tables: (sequences.iter())
                .map(|sequence| free.by_ref().take(blocks(sequence)).collect())
                .collect(),
            new: (sequences.iter())
                .map(|(past, new)| *past..past + new)
                .collect(),
        }
    }

    fn queries(&self) -> Vec<Query<'_>> {
        let mut queries = Vec::new();
        for (blocks, new) in self.tables.iter().zip(&self.new) {
            queries.extend(new.clone().map(|position| Query { blocks, position }));
        }
        queries
    }

    fn blocks(&self) -> usize {
        self.tables.iter().map(Vec::len).sum()
    }
}

fn check_paged(
    sequences: &[(usize, usize)],
    layout: Layout,
    shared_by: usize,
    window: Option<usize>,
    seed: u64,
) {
    let step = Step::new(sequences);
    let queries = step.queries();
    let heads = layout.heads * shared_by;
    // Keys and values lie behind the queries in a row, as the fused product leaves them.
    let stride = (heads + 2 * layout.heads) * layout.width;
    let q = noise(queries.len() * stride, seed);
    let kv = noise(step.blocks() * layout.block(), seed + 1);
    for layer in 0..layout.layers {
        let how = Attention {
            scale: 0.3,
            window,
            ..Attention::new(layout, layer)
        };
        let want = reference::paged(&q, stride, &queries, &kv, &how, heads);
        at_each_level(|level| {
            let mut out = vec![f32::NAN; want.len()];
            paged::attend(&q, stride, &queries, &kv, &how, &mut out);
            let rows = out.chunks(heads * layout.width).zip(q.chunks(stride));
            for (query, (together, q)) in queries.iter().zip(rows) {
                let mut alone = vec![f32::NAN; together.len()];
                paged::attend(q, stride, &[*query], &kv, &how, &mut alone);
                assert_eq!(alone, together, "{level:?} {sequences:?} {window:?}");
            }
            let apart = apart(&out, &want);
            assert!(
                apart < 2e-5,
                "{level:?} {layout:?} {sequences:?} {window:?}: {apart}"
            );
        });
    }
}

fn sequences() -> impl Strategy<Value = Vec<(usize, usize)>> {
    proptest::collection::vec((0usize..150, 1usize..40), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_token_sees_its_own_sequence_and_no_later_token(
        sequences in sequences(),
        layers in 1usize..3,
        kv_heads in 1usize..4,
        shared_by in 1usize..4,
        quads in 1usize..20,
        window in proptest::option::of(1usize..100),
        seed in any::<u32>(),
    ) {
        let layout = Layout { layers, heads: kv_heads, width: 4 * quads };
        check_paged(&sequences, layout, shared_by, window, u64::from(seed));
    }

    #[test]
    fn a_token_of_a_text_sees_that_text_alone(
        lengths in proptest::collection::vec(1usize..90, 1..5),
        heads in 1usize..4,
        width in 1usize..40,
        seed in any::<u32>(),
    ) {
        let hidden = heads * width;
        let mut texts = Vec::new();
        let mut tokens = 0;
        for length in lengths {
            texts.push(tokens..tokens + length);
            tokens += length;
        }
        let qkv = noise(tokens * 3 * hidden, u64::from(seed));
        let want = reference::ragged(&qkv, &texts, hidden, heads);
        at_each_level(|level| {
            let mut out = vec![f32::NAN; want.len()];
            ragged::attend(&qkv, &texts, hidden, heads, &mut out);
            for text in &texts {
                let mut alone = vec![f32::NAN; text.len() * hidden];
                let its = &qkv[text.start * 3 * hidden..text.end * 3 * hidden];
                ragged::attend(its, std::slice::from_ref(&(0..text.len())), hidden, heads, &mut alone);
                let together = &out[text.start * hidden..text.end * hidden];
                assert_eq!(alone, together, "{level:?} {texts:?}");
            }
            let apart = apart(&out, &want);
            assert!(apart < 2e-5, "{level:?} {texts:?}: {apart}");
        });
    }
}

#[test]
fn thousands_of_positions_are_as_exact_as_few() {
    let layout = Layout {
        layers: 1,
        heads: 1,
        width: 64,
    };
    let sequences = [(4000, 20), (0, 1), (2999, 1), (1010, 30)];
    check_paged(&sequences, layout, 3, None, 1);
    check_paged(&sequences, layout, 3, Some(1000), 2);
}

/// What their parts leave is more than is kept at a time.
#[test]
fn many_tokens_after_thousands_are_as_each_alone() {
    let layout = Layout {
        layers: 1,
        heads: 2,
        width: 64,
    };
    let step = Step::new(&[(2980, 320)]);
    let queries = step.queries();
    let stride = 8 * layout.width;
    let q = noise(queries.len() * stride, 1);
    let kv = noise(step.blocks() * layout.block(), 2);
    let how = Attention::new(layout, 0);
    at_each_level(|level| {
        if level != Level::Best {
            return;
        }
        let mut out = vec![f32::NAN; queries.len() * 4 * layout.width];
        paged::attend(&q, stride, &queries, &kv, &how, &mut out);
        let rows = out.chunks(4 * layout.width).zip(q.chunks(stride));
        for (query, (together, q)) in queries.iter().zip(rows) {
            let mut alone = vec![f32::NAN; together.len()];
            paged::attend(q, stride, &[*query], &kv, &how, &mut alone);
            assert_eq!(alone, together, "{}", query.position);
        }
    });
}

#[test]
fn scores_beyond_f32_give_no_number() {
    let layout = Layout {
        layers: 1,
        heads: 1,
        width: 4,
    };
    let step = Step::new(&[(2, 1)]);
    let queries = step.queries();
    for key in [-1e30, 1e30] {
        let mut kv = vec![1.0; step.blocks() * layout.block()];
        kv[..layout.part()].fill(key);
        at_each_level(|level| {
            let (q, mut out) = ([1e30; 12], [0.0; 4]);
            let how = Attention::new(layout, 0);
            paged::attend(&q, 12, &queries, &kv, &how, &mut out);
            assert!(out.iter().all(|x| x.is_nan()), "{level:?} {key}: {out:?}");
        });
    }
}
