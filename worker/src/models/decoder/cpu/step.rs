//! One pass in place: every operation reads one buffer that is kept and writes another.

use super::kv::Kv;
use super::weights::Packed;
use crate::engine::Scrubbed;
use crate::models::decoder::ops::{SLOTS, Slot, Step};
use crate::models::decoder::rope::Pairs;
use crate::models::decoder::{Config, DeviceError, Given, Row};
use crate::models::scratch::{Buffer, sum};
use bulkhead_kernels::compute::Linear;
use bulkhead_kernels::compute::paged::{Attention, BLOCK_TOKENS, Query, attend};
use bulkhead_kernels::compute::simd::{rms_norm, swiglu};
use bulkhead_worker_core::PassKind;
use rayon::prelude::*;

/// Rows that one task of an elementwise operation takes at least: fewer are not worth a hand-over.
const ROWS_PER_TASK: usize = 8;

/// A pass that was left on its way: before which stage, and its rows.
#[derive(Debug, Default)]
struct Left {
    stage: Option<usize>,
    rows: Buffer,
}

/// What a pass computes in.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    slots: [Buffer; SLOTS],
    /// Cosines and sines of the pass's positions.
    turns: Buffer,
    pub(super) logits: Buffer,
    left: [Left; 2],
}

impl Scratch {
    /// Zeroes and reads back everything but the rows of passes that are on their way.
    pub(super) fn scrub(&mut self) -> Scrubbed {
        let others = [&mut self.turns, &mut self.logits];
        let left = self.left.iter_mut().filter(|left| left.stage.is_none());
        let left = left.map(|left| &mut left.rows);
        let all = self.slots.iter_mut().chain(others).chain(left);
        all.fold(Scrubbed::default(), |all, buffer| sum(all, buffer.scrub()))
    }

    /// The stage before which the pass of this kind was left, if one was.
    pub(super) fn left(&mut self, kind: PassKind) -> &mut Option<usize> {
        &mut self.left[kind as usize].stage
    }

    /// Keeps these rows alone of a pass that was left, `width` wide.
    pub(super) fn keep(&mut self, kind: PassKind, kept: &[usize], width: usize) -> Scrubbed {
        let left = &mut self.left[kind as usize];
        match left.stage {
            Some(_) => left.rows.keep(kept, width),
            None => Scrubbed::default(),
        }
    }

    /// Two slots at once.
    fn pair(&mut self, from: Slot, to: Slot) -> (&mut Buffer, &mut Buffer) {
        match self.slots.get_disjoint_mut([from as usize, to as usize]) {
            Ok([from, to]) => (from, to),
            Err(_) => unreachable!("no operation writes what it reads"),
        }
    }
}

/// One pass, while it is computed.
pub(super) struct CpuStep<'a> {
    config: &'a Config,
    rows: &'a [Row],
    /// Rows that are still computed.
    count: usize,
    wanted: &'a [usize],
    queries: Vec<Query<'a>>,
    kv: &'a mut Kv,
    scratch: &'a mut Scratch,
}

impl<'a> CpuStep<'a> {
    pub(super) fn new(
        config: &'a Config,
        given: Given<'a>,
        kv: &'a mut Kv,
        scratch: &'a mut Scratch,
    ) -> Self {
        let Given {
            rows,
            wanted,
            tables,
        } = given;
        let turns = scratch.turns.take(rows.len() * config.width);
        for (row, turns) in rows.iter().zip(turns.chunks_exact_mut(config.width)) {
            config.rope.turns(row.position, turns);
        }
        let query = |row: &Row| Query {
            blocks: tables[row.table],
            position: row.position,
        };
        CpuStep {
            config,
            rows,
            count: rows.len(),
            wanted,
            queries: rows.iter().map(query).collect(),
            kv,
            scratch,
        }
    }

    /// Takes up the rows of a pass that was left before `stage`.
    pub(super) fn resume(&mut self, kind: PassKind, stage: usize) {
        if stage == self.config.layers {
            self.count = self.wanted.len();
        }
        let length = self.length(Slot::Rows);
        let Scratch { slots, left, .. } = &mut *self.scratch;
        let rows = slots[Slot::Rows as usize].take(length);
        rows.copy_from_slice(left[kind as usize].rows.take(length));
    }

    /// Puts the rows where the next pass does not write.
    pub(super) fn leave(&mut self, kind: PassKind) {
        let length = self.length(Slot::Rows);
        let Scratch { slots, left, .. } = &mut *self.scratch;
        let rows = slots[Slot::Rows as usize].take(length);
        left[kind as usize].rows.take(length).copy_from_slice(rows);
    }

    /// Floats of a slot.
    fn length(&self, slot: Slot) -> usize {
        let width = match slot {
            Slot::Rows | Slot::Normed | Slot::Change => self.config.hidden,
            Slot::Qkv => self.config.qkv(),
            Slot::Mixed => self.config.queries(),
            Slot::GateUp => 2 * self.config.inner,
            Slot::Inner => self.config.inner,
        };
        self.count * width
    }

    /// What `from` holds, and `to` to be overwritten.
    fn pair(&mut self, from: Slot, to: Slot) -> (&[f32], &mut [f32]) {
        let (read, write) = (self.length(from), self.length(to));
        let (from, to) = self.scratch.pair(from, to);
        (from.take(read), to.take(write))
    }

    fn slot(&mut self, slot: Slot) -> &mut [f32] {
        let length = self.length(slot);
        self.scratch.slots[slot as usize].take(length)
    }
}

impl Step<Packed> for CpuStep<'_> {
    fn embed(&mut self, table: &Linear) -> Result<(), DeviceError> {
        let (rows, hidden, last) = (self.rows, self.config.hidden, self.config.vocabulary - 1);
        let x = self.slot(Slot::Rows);
        for (row, x) in rows.iter().zip(x.chunks_exact_mut(hidden)) {
            table.weights_of((row.token as usize).min(last), x);
        }
        Ok(())
    }

    fn norm(&mut self, weight: &Vec<f32>) -> Result<(), DeviceError> {
        let (hidden, epsilon) = (self.config.hidden, self.config.epsilon);
        let (x, out) = self.pair(Slot::Rows, Slot::Normed);
        x.par_chunks_exact(hidden)
            .zip(out.par_chunks_exact_mut(hidden))
            .with_min_len(ROWS_PER_TASK)
            .for_each(|(x, out)| rms_norm(x, weight, epsilon, out));
        Ok(())
    }

    fn linear(&mut self, matrix: &Linear, from: Slot, to: Slot) -> Result<(), DeviceError> {
        let (x, out) = self.pair(from, to);
        matrix.forward(x, out, |_| ());
        Ok(())
    }

    fn head_norms(&mut self, queries: &Vec<f32>, keys: &Vec<f32>) -> Result<(), DeviceError> {
        let (width, epsilon, stride) = (self.config.width, self.config.epsilon, self.config.qkv());
        let (of_queries, of_keys) = (self.config.queries(), self.config.keys());
        self.slot(Slot::Qkv)
            .par_chunks_exact_mut(stride)
            .with_min_len(ROWS_PER_TASK)
            .for_each(|qkv| {
                let (q, rest) = qkv.split_at_mut(of_queries);
                norm_heads(q, queries, width, epsilon);
                norm_heads(&mut rest[..of_keys], keys, width, epsilon);
            });
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), DeviceError> {
        let (width, stride) = (self.config.width, self.config.qkv());
        let (turned, pairs) = (
            self.config.queries() + self.config.keys(),
            self.config.rope.pairs,
        );
        let (count, length) = (self.count, self.length(Slot::Qkv));
        let turns = self.scratch.turns.take(count * width);
        self.scratch.slots[Slot::Qkv as usize]
            .take(length)
            .par_chunks_exact_mut(stride)
            .zip(turns.par_chunks_exact(width))
            .with_min_len(ROWS_PER_TASK)
            .for_each(|(qkv, turns)| {
                for head in qkv[..turned].chunks_exact_mut(width) {
                    rotate_head(head, turns, pairs);
                }
            });
        Ok(())
    }

    fn store(&mut self, layer: usize) -> Result<(), DeviceError> {
        let (layout, stride, length) = (
            self.config.layout(),
            self.config.qkv(),
            self.length(Slot::Qkv),
        );
        let (of_queries, of_keys) = (self.config.queries(), self.config.keys());
        let (width, part) = (layout.width, layout.part());
        let qkv = self.scratch.slots[Slot::Qkv as usize].take(length);
        let kv = self.kv.floats_mut();
        for (query, qkv) in self.queries.iter().zip(qkv.chunks_exact(stride)) {
            let block = query.blocks[query.position / BLOCK_TOKENS] as usize;
            let slot = query.position % BLOCK_TOKENS;
            let (keys, values) = qkv[of_queries..].split_at(of_keys);
            for head in 0..layout.heads {
                let start = layout.keys(block, layer, head);
                let (to_keys, to_values) = kv[start..start + 2 * part].split_at_mut(part);
                let of = head * width..(head + 1) * width;
                let columns = to_keys.chunks_exact_mut(BLOCK_TOKENS);
                for (k, to) in keys[of.clone()].iter().zip(columns) {
                    to[slot] = *k;
                }
                to_values[slot * width..][..width].copy_from_slice(&values[of]);
            }
        }
        Ok(())
    }

    fn attend(&mut self, layer: usize, window: Option<usize>) -> Result<(), DeviceError> {
        let how = Attention {
            window,
            ..Attention::new(self.config.layout(), layer)
        };
        let (read, write) = (self.length(Slot::Qkv), self.length(Slot::Mixed));
        let (qkv, mixed) = self.scratch.pair(Slot::Qkv, Slot::Mixed);
        attend(
            qkv.take(read),
            self.config.qkv(),
            &self.queries,
            self.kv.floats(),
            &how,
            mixed.take(write),
        );
        Ok(())
    }

    fn keep_wanted(&mut self) -> Result<(), DeviceError> {
        let wanted = self.wanted;
        for (slot, width) in [
            (Slot::Rows, self.config.hidden),
            (Slot::Mixed, self.config.queries()),
        ] {
            let rows = self.slot(slot);
            // They ascend, so none is overwritten before it was moved.
            for (to, from) in wanted.iter().enumerate() {
                rows.copy_within(from * width..(from + 1) * width, to * width);
            }
        }
        self.count = wanted.len();
        Ok(())
    }

    fn swiglu(&mut self) -> Result<(), DeviceError> {
        let width = self.config.inner;
        let (gate_up, inner) = self.pair(Slot::GateUp, Slot::Inner);
        gate_up
            .par_chunks_exact(2 * width)
            .zip(inner.par_chunks_exact_mut(width))
            .with_min_len(ROWS_PER_TASK / 2)
            .for_each(|(gate_up, inner)| swiglu(gate_up, inner));
        Ok(())
    }

    fn add(&mut self) -> Result<(), DeviceError> {
        let (change, x) = self.pair(Slot::Change, Slot::Rows);
        for (x, change) in x.iter_mut().zip(change) {
            *x += change;
        }
        Ok(())
    }

    fn logits(&mut self, output: &Linear) -> Result<(), DeviceError> {
        let (read, write) = (
            self.length(Slot::Normed),
            self.count * self.config.vocabulary,
        );
        let normed = self.scratch.slots[Slot::Normed as usize].take(read);
        output.forward(normed, self.scratch.logits.take(write), |_| ());
        Ok(())
    }
}

/// Every head through a norm, in place.
fn norm_heads(heads: &mut [f32], weight: &[f32], width: usize, epsilon: f32) {
    for head in heads.chunks_exact_mut(width) {
        let square = head.iter().map(|x| x * x).sum::<f32>() / width as f32;
        let scale = 1.0 / (square + epsilon).sqrt();
        for (x, weight) in head.iter_mut().zip(weight) {
            *x *= scale * weight;
        }
    }
}

/// Turns one head; `turns` are cosine and sine of each pair.
fn rotate_head(head: &mut [f32], turns: &[f32], pairs: Pairs) {
    let turns = turns.as_chunks::<2>().0;
    let turn = |a: &mut f32, b: &mut f32, [cos, sin]: &[f32; 2]| {
        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
    };
    match pairs {
        Pairs::Neighbours => {
            for ([a, b], by) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                turn(a, b, by);
            }
        }
        Pairs::Halves => {
            let (lower, upper) = head.split_at_mut(head.len() / 2);
            for ((a, b), by) in lower.iter_mut().zip(upper).zip(turns) {
                turn(a, b, by);
            }
        }
    }
}
