//! Keys and values into blocks and out of them, and attention over them: ragged batches, tables in no order,
//! shared heads, windows, and every kind of storage.

use crate::storage::Rounded;
use crate::{apart, download, noise, on_each_device, upload};
use bulkhead_kernels::compute::paged::{Attention, BLOCK_TOKENS, Layout, Query};
use bulkhead_kernels::compute::reference;
use bulkhead_kernels::gpu::{
    Bf16, Blocks, BlocksMut, Device, F16, LaunchError, Plan, PlanError, Stored, Uploaded, attend,
    gather, store,
};
use std::ops::Range;

/// Sequences with their tables of blocks (none shared, in no order), each with some new tokens at its end.
struct Step {
    tables: Vec<Vec<u32>>,
    new: Vec<Range<usize>>,
}

impl Step {
    fn new(sequences: &[(usize, usize)]) -> Self {
        let blocks = |(past, new): &(usize, usize)| (past + new).div_ceil(BLOCK_TOKENS);
        let all: usize = sequences.iter().map(blocks).sum();
        // 7 is prime to the number of blocks or to all but few of them: neighbours are apart.
        let step = (7..)
            .find(|step| gcd(*step, all) == 1)
            .expect("there is one");
        let mut free = (0..all).map(|nth| ((nth + 3) * step % all) as u32);
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

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Attention of some queries on the device.
fn attended<D: Device, T: Stored>(
    on: &D,
    queries: &[Query<'_>],
    (q, stride): (&[f32], usize),
    kv: &D::Memory,
    how: &Attention,
    shared_by: usize,
) -> Vec<f32> {
    let layout = how.layout;
    let plan = Plan::new(queries, layout.width, shared_by).expect("it can be planned");
    let numbers = upload(on, plan.numbers());
    let room = plan.parts_floats(layout.heads * shared_by);
    let mut parts = upload(on, &vec![f32::NAN; room]);
    // SAFETY: they were just uploaded.
    let plan = unsafe { Uploaded::new(&plan, on.span(&numbers)) };
    let q = upload(on, q);
    let nothing = vec![f32::NAN; queries.len() * layout.heads * shared_by * layout.width];
    let mut out = upload(on, &nothing);
    let (q, kv) = ((on.span(&q), stride), on.span::<T>(kv));
    let (parts, to) = (&mut on.span_mut(&mut parts), &mut on.span_mut(&mut out));
    attend(on, q, kv, how, &plan, parts, to).expect("it runs");
    download(on, &out, &nothing)
}

struct Case<'a> {
    sequences: &'a [(usize, usize)],
    layout: Layout,
    shared_by: usize,
    window: Option<usize>,
}

fn check<D: Device, T: Rounded>(on: &D, case: &Case<'_>) {
    let Case {
        sequences,
        layout,
        shared_by,
        window,
    } = *case;
    let step = Step::new(sequences);
    let queries = step.queries();
    let heads = layout.heads * shared_by;
    let stride = (heads + 2 * layout.heads) * layout.width;
    let q = noise(queries.len() * stride, 11);
    let stored: Vec<T> = noise(step.blocks() * layout.block(), 12)
        .into_iter()
        .map(T::of)
        .collect();
    let kv: Vec<f32> = stored.iter().map(|x| x.value()).collect();
    // What no token has written may be anything.
    let mut garbled = stored.clone();
    for (table, new) in step.tables.iter().zip(&step.new) {
        garble(&mut garbled, layout, table, new.end);
    }
    let memory = upload(on, &garbled);
    for layer in 0..layout.layers {
        let how = Attention {
            scale: 0.3,
            window,
            ..Attention::new(layout, layer)
        };
        let want = reference::paged(&q, stride, &queries, &kv, &how, heads);
        let got = attended::<D, T>(on, &queries, (&q, stride), &memory, &how, shared_by);
        let apart = apart(&got, &want);
        assert!(apart < 2e-5, "{layout:?} {sequences:?} {window:?}: {apart}");
        // The first and the last row alone, bit for bit.
        for row in [0, queries.len() - 1] {
            let alone = &queries[row..row + 1];
            let q = &q[row * stride..][..stride];
            let alone = attended::<D, T>(on, alone, (q, stride), &memory, &how, shared_by);
            assert_eq!(
                alone,
                got[row * alone.len()..][..alone.len()],
                "row {row} of {sequences:?}"
            );
        }
    }
}

/// Overwrites all places of a sequence from a position on with what is no number.
fn garble<T: Rounded>(kv: &mut [T], layout: Layout, table: &[u32], from: usize) {
    for position in from..table.len() * BLOCK_TOKENS {
        let (block, slot) = (
            table[position / BLOCK_TOKENS] as usize,
            position % BLOCK_TOKENS,
        );
        for layer in 0..layout.layers {
            for head in 0..layout.heads {
                let keys = layout.keys(block, layer, head);
                for d in 0..layout.width {
                    kv[keys + d * BLOCK_TOKENS + slot] = T::of(f32::NAN);
                    kv[keys + layout.part() + slot * layout.width + d] = T::of(f32::NAN);
                }
            }
        }
    }
}

fn layout(layers: usize, heads: usize, width: usize) -> Layout {
    Layout {
        layers,
        heads,
        width,
    }
}

pub fn every_token_sees_its_own_sequence_and_no_later_token<D: Device>(on: &D) {
    for (sequences, layout, shared_by, window) in [
        // Decoding, one sequence and a ragged batch.
        (&[(0, 1)][..], layout(1, 1, 64), 1, None),
        (
            &[(37, 1), (0, 1), (15, 1), (16, 1), (100, 1)],
            layout(2, 3, 64),
            3,
            None,
        ),
        (&[(33, 1), (64, 1)], layout(1, 2, 128), 8, None),
        // More heads share than a block has lanes for.
        (&[(20, 1)], layout(1, 1, 64), 21, None),
        (&[(20, 3)], layout(1, 1, 256), 9, None),
        // Prefill by chunks, from the beginning and behind a past, beside decoding.
        (&[(0, 35)], layout(1, 1, 64), 1, None),
        (&[(5, 40), (70, 1), (16, 16)], layout(2, 2, 20), 2, None),
        (&[(31, 33), (0, 2)], layout(1, 1, 128), 4, None),
        // Windows shorter and longer than the past.
        (&[(50, 20), (3, 1)], layout(1, 2, 64), 3, Some(1)),
        (&[(50, 20), (90, 1)], layout(1, 1, 64), 2, Some(17)),
        (&[(10, 5)], layout(1, 1, 64), 2, Some(1000)),
    ] {
        let case = Case {
            sequences,
            layout,
            shared_by,
            window,
        };
        check::<D, f32>(on, &case);
        check::<D, F16>(on, &case);
        check::<D, Bf16>(on, &case);
    }
}

/// The first and the last sequence are long, and so computed span by span where they are alone.
pub fn long_sequences_come_out_the_same_however_they_are_divided<D: Device>(on: &D) {
    let mut many = vec![(5, 1); 70];
    many[0] = (700, 1);
    many[69] = (1100, 2);
    for (sequences, shared_by, window) in [
        (&[(600, 1)][..], 2, None),
        // Before a span's first position, on it, and behind it.
        (&[(511, 1), (512, 1), (1023, 1), (1024, 1)], 1, None),
        // Rows on both sides of it, together.
        (&[(500, 30), (3, 1), (1020, 9)], 2, None),
        // More tiles than are divided.
        (&many, 3, None),
        // Windows that leave spans out, of all rows or of the last.
        (&[(1300, 1), (700, 1)], 2, Some(100)),
        (&[(1015, 20)], 1, Some(510)),
        (&many, 1, Some(600)),
    ] {
        let case = Case {
            sequences,
            layout: layout(1, 2, 12),
            shared_by,
            window,
        };
        check::<D, f32>(on, &case);
        check::<D, F16>(on, &case);
    }
}

pub fn scores_beyond_f32_give_no_number<D: Device>(on: &D) {
    let layout = layout(1, 1, 4);
    for (past, key) in [(2, -1e30), (2, 1e30), (600, 1e30)] {
        let step = Step::new(&[(past, 1)]);
        let mut kv = vec![1.0f32; step.blocks() * layout.block()];
        kv[..layout.part()].fill(key);
        let how = Attention::new(layout, 0);
        let kv = upload(on, &kv);
        let out = attended::<D, f32>(on, &step.queries(), (&[1e30; 12], 12), &kv, &how, 1);
        assert!(out.iter().all(|x| x.is_nan()), "{past} {key}: {out:?}");
    }
}

fn put<D: Device, T: Rounded>(
    on: &D,
    sequences: &[(usize, usize)],
    layout: Layout,
    shared_by: usize,
) {
    let step = Step::new(sequences);
    let queries = step.queries();
    let skip = layout.heads * shared_by * layout.width;
    let stride = skip + 2 * layout.heads * layout.width;
    let rows = noise(queries.len() * stride, 13);
    let before: Vec<T> = noise(step.blocks() * layout.block(), 14)
        .into_iter()
        .map(T::of)
        .collect();
    let mut want: Vec<f32> = before.iter().map(|x| x.value()).collect();
    let plan = Plan::new(&queries, layout.width, shared_by).expect("it can be planned");
    let numbers = upload(on, plan.numbers());
    // SAFETY: they were just uploaded.
    let uploaded = unsafe { Uploaded::new(&plan, on.span(&numbers)) };
    let mut kv = upload(on, &before);
    let on_rows = upload(on, &rows);
    let layer = layout.layers - 1;
    let mut to = BlocksMut {
        all: on.span_mut::<T>(&mut kv),
        layout,
        layer,
    };
    store(on, on.span(&on_rows), (stride, skip), &uploaded, &mut to).expect("it runs");
    let rounded: Vec<f32> = rows.iter().map(|x| T::of(*x).value()).collect();
    reference::store(&rounded, stride, skip, &queries, &mut want, layout, layer);
    let got: Vec<f32> = download(on, &kv, &before)
        .iter()
        .map(|x| x.value())
        .collect();
    assert_eq!(got, want, "{sequences:?} {layout:?}");

    let from = Blocks {
        all: on.span::<T>(&kv),
        layout,
        layer,
    };
    let tile = plan.tiles() - 1;
    let last = queries[queries.len() - 1];
    let nothing = vec![f32::NAN; (last.position + 1) * layout.heads * layout.width];
    let (mut keys, mut values) = (upload(on, &nothing), upload(on, &nothing));
    let (mut to_keys, mut to_values) = (on.span_mut(&mut keys), on.span_mut(&mut values));
    gather(on, from, &uploaded, tile, &mut to_keys, &mut to_values).expect("it runs");
    let (want_keys, want_values) = reference::gather(&want, &last, layout, layer);
    assert_eq!(download(on, &keys, &nothing), want_keys);
    assert_eq!(download(on, &values, &nothing), want_values);
}

pub fn keys_and_values_go_to_their_places_and_come_back<D: Device>(on: &D) {
    for (sequences, layout, shared_by) in [
        (&[(0, 1)][..], layout(1, 1, 64), 1),
        (&[(5, 40), (70, 1), (16, 16)], layout(2, 3, 20), 2),
        (&[(15, 2), (0, 17)], layout(3, 2, 128), 4),
    ] {
        put::<D, f32>(on, sequences, layout, shared_by);
        put::<D, F16>(on, sequences, layout, shared_by);
        put::<D, Bf16>(on, sequences, layout, shared_by);
    }
}

pub fn blocks_that_are_not_there_are_refused<D: Device>(on: &D) {
    let layout = layout(1, 1, 4);
    let blocks = [0, 5];
    let query = Query {
        blocks: &blocks,
        position: 20,
    };
    let plan = Plan::new(&[query], 4, 1).expect("it can be planned");
    let numbers = upload(on, plan.numbers());
    // SAFETY: they were just uploaded.
    let plan = unsafe { Uploaded::new(&plan, on.span(&numbers)) };
    let q = upload(on, &[0f32; 12]);
    let (mut out, mut none) = (upload(on, &[0f32; 4]), upload::<_, f32>(on, &[]));
    for (blocks, fits) in [(5, false), (6, true)] {
        let kv = upload(on, &vec![0f32; blocks * layout.block()]);
        let how = Attention::new(layout, 0);
        let (q, kv) = ((on.span(&q), 12), on.span::<f32>(&kv));
        let (parts, to) = (&mut on.span_mut(&mut none), &mut on.span_mut(&mut out));
        let result = attend(on, q, kv, &how, &plan, parts, to);
        assert_eq!(result.is_ok(), fits, "{blocks}: {result:?}");
    }
    let beyond = Plan::new(
        &[Query {
            position: 32,
            ..query
        }],
        4,
        1,
    );
    assert_eq!(beyond.err(), Some(PlanError::Position { row: 0 }));
    let wide = Plan::new(&[query], 4000, 1);
    assert_eq!(wide.err(), Some(PlanError::Width { width: 4000 }));
    let plan = Plan::new(&[query], 8, 1).expect("it can be planned");
    // SAFETY: nothing is launched.
    let plan = unsafe { Uploaded::new(&plan, on.span(&numbers)) };
    let kv = upload(on, &vec![0f32; 6 * layout.block()]);
    let how = Attention::new(layout, 0);
    let refused = |plan: &Uploaded<'_>, out: &mut D::Memory, parts: &mut D::Memory| {
        let (q, kv) = ((on.span(&q), 12), on.span::<f32>(&kv));
        let (parts, to) = (&mut on.span_mut(parts), &mut on.span_mut(out));
        let result = attend(on, q, kv, &how, plan, parts, to);
        assert!(
            matches!(result, Err(LaunchError::Shape { .. })),
            "{result:?}"
        );
    };
    refused(&plan, &mut out, &mut none);
    // Its parts have no room.
    let blocks = [0; 40];
    let query = Query {
        blocks: &blocks,
        position: 600,
    };
    let plan = Plan::new(&[query], 4, 1).expect("it can be planned");
    // SAFETY: nothing is launched.
    let plan = unsafe { Uploaded::new(&plan, on.span(&numbers)) };
    refused(&plan, &mut out, &mut none);
}

on_each_device! {
    every_token_sees_its_own_sequence_and_no_later_token
    long_sequences_come_out_the_same_however_they_are_divided
    scores_beyond_f32_give_no_number
    keys_and_values_go_to_their_places_and_come_back
    blocks_that_are_not_there_are_refused
}
