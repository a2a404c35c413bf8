//! One pass by candle's operations.

use super::failed;
use super::kv::CandleKv;
use super::weights::{Matrix, OnDevice};
use crate::models::decoder::ops::{SLOTS, Slot, Step};
use crate::models::decoder::rope::Pairs;
use crate::models::decoder::{Config, DeviceError, Given, Row};
use bulkhead_kernels::compute::paged::BLOCK_TOKENS;
use candle_core::{D, Device, Result, Tensor};
use std::ops::Range;

/// What an operation of a step answers.
type Done = std::result::Result<(), DeviceError>;

/// Scores of an attention that are held at once, at most: bounds memory.
const SCORES_MAX: usize = 1 << 24;

/// The rows of one sequence.
struct Group {
    /// Which rows they are.
    rows: Range<usize>,
    /// The place of the first of them in the sequence; the others follow.
    position: usize,
    /// Rows of the pool that hold the sequence's tokens, in their order.
    places: Vec<u32>,
}

/// One pass, while it is computed: rows in order of their sequences.
pub(super) struct CandleStep<'a> {
    config: &'a Config,
    device: &'a Device,
    kv: &'a CandleKv,
    ids: Tensor,
    /// Cosine and sine of every row's pairs: [rows, 1, pairs].
    turns: [Tensor; 2],
    /// The row of the pool that each row's key and value go to, once for each of their numbers.
    places: Tensor,
    groups: Vec<Group>,
    wanted: Tensor,
    slots: [Option<Tensor>; SLOTS],
    logits: Vec<f32>,
}

impl<'a> CandleStep<'a> {
    /// From the first layer on, or with the rows of a pass that was left on its way.
    pub(super) fn new(
        config: &'a Config,
        device: &'a Device,
        kv: &'a CandleKv,
        given: Given<'_>,
        left: Option<Tensor>,
    ) -> std::result::Result<Self, DeviceError> {
        let mut step = Self::prepare(config, device, kv, given).map_err(failed)?;
        step.slots[Slot::Rows as usize] = left;
        Ok(step)
    }

    fn prepare(
        config: &'a Config,
        device: &'a Device,
        kv: &'a CandleKv,
        given: Given<'_>,
    ) -> Result<Self> {
        let Given {
            rows,
            wanted,
            tables,
        } = given;
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by_key(|row| rows[*row].table);
        let mut moved = vec![0u32; rows.len()];
        for (to, from) in order.iter().enumerate() {
            moved[*from] = to as u32;
        }
        let sorted: Vec<Row> = order.iter().map(|row| rows[*row]).collect();
        let last = config.vocabulary as u32 - 1;
        let ids: Vec<u32> = sorted.iter().map(|row| row.token.min(last)).collect();
        let wanted: Vec<u32> = wanted.iter().map(|row| moved[*row]).collect();
        let place = |row: &Row, position: usize| {
            tables[row.table][position / BLOCK_TOKENS] * BLOCK_TOKENS as u32
                + (position % BLOCK_TOKENS) as u32
        };
        let places: Vec<u32> = sorted.iter().map(|row| place(row, row.position)).collect();
        let places = Tensor::new(places, device)?.unsqueeze(1)?;
        let mut groups = Vec::new();
        for rows in sorted.chunk_by(|a, b| a.table == b.table) {
            let start = groups.last().map_or(0, |group: &Group| group.rows.end);
            let end = rows[rows.len() - 1].position;
            groups.push(Group {
                rows: start..start + rows.len(),
                position: rows[0].position,
                places: (0..=end)
                    .map(|position| place(&rows[0], position))
                    .collect(),
            });
        }
        Ok(CandleStep {
            turns: turns(config, &sorted, device)?,
            ids: Tensor::new(ids, device)?,
            places: places
                .broadcast_as((rows.len(), config.keys()))?
                .contiguous()?,
            wanted: Tensor::new(wanted, device)?,
            config,
            device,
            kv,
            groups,
            slots: Default::default(),
            logits: Vec::new(),
        })
    }

    /// The rows, to go on with them later.
    pub(super) fn into_rows(mut self) -> std::result::Result<Tensor, DeviceError> {
        let rows = self.slots[Slot::Rows as usize].take();
        rows.ok_or_else(|| DeviceError("no rows were computed".into()))
    }

    /// The logits of the wanted rows, on the host.
    pub(super) fn into_logits(self) -> Vec<f32> {
        self.logits
    }

    fn slot(&self, slot: Slot) -> Result<&Tensor> {
        match &self.slots[slot as usize] {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("{slot:?} was read before it was written"),
        }
    }

    /// Queries, keys and values: [rows, heads, width] each.
    fn qkv(&self) -> Result<[Tensor; 3]> {
        let (rows, _) = self.slot(Slot::Qkv)?.dims2()?;
        let (queries, keys, width) = (self.config.queries(), self.config.keys(), self.config.width);
        let part = |start: usize, length: usize| {
            let part = self.slot(Slot::Qkv)?.narrow(1, start, length)?;
            part.reshape((rows, length / width, width))
        };
        Ok([
            part(0, queries)?,
            part(queries, keys)?,
            part(queries + keys, keys)?,
        ])
    }

    fn set_qkv(&mut self, parts: [Tensor; 3]) -> Result<()> {
        let parts = parts.map(|part| part.flatten_from(1));
        let [queries, keys, values] = parts;
        let all = Tensor::cat(&[queries?, keys?, values?], 1)?;
        self.slots[Slot::Qkv as usize] = Some(all);
        Ok(())
    }

    fn normed(&self, x: &Tensor, weight: &Tensor) -> Result<Tensor> {
        let square = x.sqr()?.mean_keepdim(D::Minus1)?;
        let root = (square + f64::from(self.config.epsilon))?.sqrt()?;
        x.broadcast_div(&root)?.broadcast_mul(weight)
    }

    /// Turns heads [rows, heads, width].
    fn turned(&self, heads: &Tensor) -> Result<Tensor> {
        let (rows, count, width) = heads.dims3()?;
        let [cos, sin] = &self.turns;
        // The dimension in which the two of a pair lie.
        let (paired, dim) = match self.config.rope.pairs {
            Pairs::Neighbours => (heads.reshape((rows, count, width / 2, 2))?, 3),
            Pairs::Halves => (heads.reshape((rows, count, 2, width / 2))?, 2),
        };
        let a = paired.narrow(dim, 0, 1)?.squeeze(dim)?;
        let b = paired.narrow(dim, 1, 1)?.squeeze(dim)?;
        let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
        let second = (a.broadcast_mul(sin)? + b.broadcast_mul(cos)?)?;
        Tensor::stack(&[first, second], dim)?.reshape((rows, count, width))
    }

    /// Attention of one sequence's queries [rows, heads, width], as [rows, heads × width].
    fn attended(
        &self,
        group: &Group,
        queries: &Tensor,
        layer: usize,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let Config {
            heads,
            kv_heads,
            width,
            ..
        } = *self.config;
        let first = seen_from(group.position, window);
        let length = group.places.len() - first;
        let places = Tensor::new(&group.places[first..], self.device)?;
        let gathered = |tensor: &Tensor| {
            tensor
                .index_select(&places, 0)?
                .reshape((length, kv_heads, width))
        };
        let [keys, values] = self.kv.layer(layer)?;
        let keys = gathered(keys)?.permute((1, 2, 0))?.contiguous()?;
        let values = gathered(values)?.transpose(0, 1)?.contiguous()?;
        let scale = 1.0 / (width as f64).sqrt();
        let shared = heads / kv_heads;
        let mut out = Vec::new();
        let together = (SCORES_MAX / (heads * length)).max(1);
        for start in (0..group.rows.len()).step_by(together) {
            let count = together.min(group.rows.len() - start);
            let queries = queries
                .narrow(0, group.rows.start + start, count)?
                .reshape((count, kv_heads, shared, width))?
                .permute((1, 2, 0, 3))?
                .reshape((kv_heads, shared * count, width))?;
            let scores = (queries.contiguous()?.matmul(&keys)? * scale)?;
            let scores = scores.reshape((kv_heads, shared, count, length))?;
            let mask = self.mask(group.position + start, count, first..first + length, window)?;
            let shares = softmax(&scores.broadcast_add(&mask)?)?;
            let mixed = shares
                .reshape((kv_heads, shared * count, length))?
                .matmul(&values)?
                .reshape((kv_heads, shared, count, width))?
                .permute((2, 0, 1, 3))?
                .reshape((count, heads * width))?;
            out.push(mixed);
        }
        Tensor::cat(&out, 0)
    }

    /// Zero where the token at a position may look, and minus infinity elsewhere: [rows, positions].
    fn mask(
        &self,
        position: usize,
        rows: usize,
        positions: Range<usize>,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let length = positions.len();
        let mut mask = Vec::with_capacity(rows * length);
        for own in position..position + rows {
            let seen = seen_from(own, window)..own + 1;
            let at = |other| {
                if seen.contains(&other) {
                    0.0
                } else {
                    f32::NEG_INFINITY
                }
            };
            mask.extend(positions.clone().map(at));
        }
        Tensor::from_vec(mask, (rows, length), self.device)
    }
}

/// First position that the token at `position` attends to.
fn seen_from(position: usize, window: Option<usize>) -> usize {
    (position + 1).saturating_sub(window.unwrap_or(usize::MAX))
}

fn softmax(scores: &Tensor) -> Result<Tensor> {
    let top = scores.max_keepdim(D::Minus1)?;
    let shares = scores.broadcast_sub(&top)?.exp()?;
    shares.broadcast_div(&shares.sum_keepdim(D::Minus1)?)
}

fn turns(config: &Config, rows: &[Row], device: &Device) -> Result<[Tensor; 2]> {
    let mut turns = vec![0f32; rows.len() * config.width];
    for (row, turns) in rows.iter().zip(turns.chunks_exact_mut(config.width)) {
        config.rope.turns(row.position, turns);
    }
    let turns = Tensor::from_vec(turns, (rows.len(), 1, config.width / 2, 2), device)?;
    let part = |which| turns.narrow(3, which, 1)?.squeeze(3)?.contiguous();
    Ok([part(0)?, part(1)?])
}

/// The operations, before their errors become the decoder's.
impl CandleStep<'_> {
    fn put(&mut self, slot: Slot, tensor: Result<Tensor>) -> Done {
        self.slots[slot as usize] = Some(tensor.map_err(failed)?);
        Ok(())
    }

    fn with_head_norms(&mut self, queries: &Tensor, keys: &Tensor) -> Result<()> {
        let [q, k, v] = self.qkv()?;
        let normed = [self.normed(&q, queries)?, self.normed(&k, keys)?, v];
        self.set_qkv(normed)
    }

    fn with_turns(&mut self) -> Result<()> {
        let [q, k, v] = self.qkv()?;
        let turned = [self.turned(&q)?, self.turned(&k)?, v];
        self.set_qkv(turned)
    }

    fn stored(&mut self, layer: usize) -> Result<()> {
        let [_, k, v] = self.qkv()?;
        let [keys, values] = self.kv.layer(layer)?;
        keys.scatter_set(&self.places, &k.flatten_from(1)?.contiguous()?, 0)?;
        values.scatter_set(&self.places, &v.flatten_from(1)?.contiguous()?, 0)
    }

    fn mixed(&self, layer: usize, window: Option<usize>) -> Result<Tensor> {
        let [queries, ..] = self.qkv()?;
        let groups = self.groups.iter();
        let each = groups.map(|group| self.attended(group, &queries, layer, window));
        Tensor::cat(&each.collect::<Result<Vec<_>>>()?, 0)
    }

    fn product(&self) -> Result<Tensor> {
        let inner = self.config.inner;
        let gate_up = self.slot(Slot::GateUp)?;
        gate_up.narrow(1, 0, inner)?.silu()? * gate_up.narrow(1, inner, inner)?
    }

    fn output(&self, output: &Matrix) -> Result<Vec<f32>> {
        let logits = output.forward(self.slot(Slot::Normed)?)?;
        logits.flatten_all()?.to_vec1()
    }

    fn kept(&self, slot: Slot) -> Result<Tensor> {
        self.slot(slot)?.index_select(&self.wanted, 0)
    }
}

impl Step<OnDevice> for CandleStep<'_> {
    fn embed(&mut self, table: &Matrix) -> Done {
        self.put(Slot::Rows, table.rows(&self.ids))
    }

    fn norm(&mut self, weight: &Tensor) -> Done {
        let normed = self
            .slot(Slot::Rows)
            .and_then(|rows| self.normed(rows, weight));
        self.put(Slot::Normed, normed)
    }

    fn linear(&mut self, matrix: &Matrix, from: Slot, to: Slot) -> Done {
        let out = self.slot(from).and_then(|x| matrix.forward(x));
        self.put(to, out)
    }

    fn head_norms(&mut self, queries: &Tensor, keys: &Tensor) -> Done {
        self.with_head_norms(queries, keys).map_err(failed)
    }

    fn rotate(&mut self) -> Done {
        self.with_turns().map_err(failed)
    }

    fn store(&mut self, layer: usize) -> Done {
        self.stored(layer).map_err(failed)
    }

    fn attend(&mut self, layer: usize, window: Option<usize>) -> Done {
        self.put(Slot::Mixed, self.mixed(layer, window))
    }

    fn swiglu(&mut self) -> Done {
        self.put(Slot::Inner, self.product())
    }

    fn add(&mut self) -> Done {
        let sum = self
            .slot(Slot::Rows)
            .and_then(|rows| rows + self.slot(Slot::Change)?);
        self.put(Slot::Rows, sum)
    }

    fn keep_wanted(&mut self) -> Done {
        self.put(Slot::Rows, self.kept(Slot::Rows))?;
        self.put(Slot::Mixed, self.kept(Slot::Mixed))
    }

    fn logits(&mut self, output: &Matrix) -> Done {
        self.logits = self.output(output).map_err(failed)?;
        Ok(())
    }
}
