//! One pass on a GPU: candle's products, and kernels of our own between them.

use super::ops::{Attend, Choose, HeadNorm, Norm, Rotate, Store};
use crate::models::decoder::candle::failed;
use crate::models::decoder::candle::weights::{Matrix, OnDevice};
use crate::models::decoder::ops::{SLOTS, Slot, Step};
use crate::models::decoder::rope::Pairs;
use crate::models::decoder::{Config, DeviceError, Given};
use bulkhead_kernels::compute::choice::Wish;
use bulkhead_kernels::compute::paged::{Attention, Query};
use bulkhead_kernels::gpu::cuda::{Gpu, PlanOnGpu};
use bulkhead_kernels::gpu::{Plan, Rotation, Wishes};
use bulkhead_kernels::pool::CudaPool;
use candle_core::{Device, Result, Tensor};

type Done = std::result::Result<(), DeviceError>;

/// One pass, while it is computed.
pub(super) struct CudaStep<'a> {
    config: &'a Config,
    gpu: &'a Gpu,
    kv: &'a mut CudaPool,
    plan: PlanOnGpu,
    ids: Tensor,
    /// Cosine and sine of every row's pairs: [rows, width].
    turns: Tensor,
    wanted: Tensor,
    slots: [Option<Tensor>; SLOTS],
    /// For wanted rows, where tokens are to be chosen.
    wishes: &'a [Option<Wish>],
    /// Of wanted rows without a wish.
    logits: Vec<f32>,
    /// Of those with one.
    chosen: Vec<Option<u32>>,
}

fn told(error: impl ToString) -> DeviceError {
    DeviceError(error.to_string())
}

impl<'a> CudaStep<'a> {
    /// From the first layer on, or with the rows of a pass that was left on its way.
    pub(super) fn new(
        config: &'a Config,
        device: &Device,
        gpu: &'a Gpu,
        kv: &'a mut CudaPool,
        given: Given<'_>,
        left: Option<Tensor>,
    ) -> std::result::Result<Self, DeviceError> {
        let Given {
            rows,
            wanted,
            tables,
        } = given;
        let query = |row: &crate::models::decoder::Row| Query {
            blocks: tables[row.table],
            position: row.position,
        };
        let queries: Vec<Query<'_>> = rows.iter().map(query).collect();
        let plan = Plan::new(&queries, config.width, config.heads / config.kv_heads);
        let plan = PlanOnGpu::new(gpu, plan.map_err(told)?).map_err(told)?;
        let mut turns = vec![0f32; rows.len() * config.width];
        for (row, turns) in rows.iter().zip(turns.chunks_exact_mut(config.width)) {
            config.rope.turns(row.position, turns);
        }
        let last = config.vocabulary as u32 - 1;
        let ids: Vec<u32> = rows.iter().map(|row| row.token.min(last)).collect();
        let wanted: Vec<u32> = wanted.iter().map(|row| *row as u32).collect();
        let turns = Tensor::from_vec(turns, (rows.len(), config.width), device);
        let mut step = CudaStep {
            plan,
            ids: Tensor::new(ids, device).map_err(failed)?,
            turns: turns.map_err(failed)?,
            wanted: Tensor::new(wanted, device).map_err(failed)?,
            config,
            gpu,
            kv,
            slots: Default::default(),
            wishes: &[],
            logits: Vec::new(),
            chosen: Vec::new(),
        };
        step.slots[Slot::Rows as usize] = left;
        Ok(step)
    }

    /// The rows, to go on with them later.
    pub(super) fn into_rows(mut self) -> std::result::Result<Tensor, DeviceError> {
        let rows = self.slots[Slot::Rows as usize].take();
        rows.ok_or_else(|| DeviceError("no rows were computed".into()))
    }

    /// After these of the wanted rows tokens are to be chosen.
    pub(super) fn wish(&mut self, wishes: &'a [Option<Wish>]) {
        self.wishes = wishes;
    }

    /// The logits of wanted rows without a wish, on the host, and the tokens of those with one.
    pub(super) fn into_answers(self) -> (Vec<f32>, Vec<Option<u32>>) {
        (self.logits, self.chosen)
    }

    fn slot(&self, slot: Slot) -> Result<&Tensor> {
        match &self.slots[slot as usize] {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!("{slot:?} was read before it was written"),
        }
    }

    fn put(&mut self, slot: Slot, tensor: Result<Tensor>) -> Done {
        self.slots[slot as usize] = Some(tensor.map_err(failed)?);
        Ok(())
    }

    fn normed(&self, weight: &Tensor) -> Result<Tensor> {
        let norm = Norm {
            gpu: self.gpu,
            epsilon: self.config.epsilon,
        };
        let rows = self.slot(Slot::Rows)?.contiguous()?;
        rows.apply_op2_no_bwd(weight, &norm)
    }

    fn with_head_norm(&self, weight: &Tensor, skip: usize, heads: usize) -> Result<()> {
        let norm = HeadNorm {
            gpu: self.gpu,
            epsilon: self.config.epsilon,
            stride: self.config.qkv(),
            skip,
            heads,
        };
        self.slot(Slot::Qkv)?.inplace_op2(weight, &norm)
    }

    fn turned(&self) -> Result<()> {
        let how = Rotation {
            heads: self.config.heads + self.config.kv_heads,
            width: self.config.width,
            stride: self.config.qkv(),
            neighbours: self.config.rope.pairs == Pairs::Neighbours,
        };
        let rotate = Rotate { gpu: self.gpu, how };
        self.slot(Slot::Qkv)?.inplace_op2(&self.turns, &rotate)
    }

    fn stored(&mut self, layer: usize) -> Result<()> {
        let rows = self.slot(Slot::Qkv)?.clone();
        let store = Store {
            gpu: self.gpu,
            plan: &self.plan,
            kv: (&mut *self.kv).into(),
            blocks: self.config.layout(),
            layer,
            stride: self.config.qkv(),
            skip: self.config.queries(),
        };
        rows.inplace_op1(&store)
    }

    fn mixed(&self, layer: usize, window: Option<usize>) -> Result<Tensor> {
        let attend = Attend {
            gpu: self.gpu,
            plan: &self.plan,
            kv: self.kv,
            how: Attention {
                window,
                ..Attention::new(self.config.layout(), layer)
            },
            stride: self.config.qkv(),
            queries: self.config.queries(),
        };
        self.slot(Slot::Qkv)?.apply_op1_no_bwd(&attend)
    }

    fn product(&self) -> Result<Tensor> {
        let inner = self.config.inner;
        let gate_up = self.slot(Slot::GateUp)?;
        gate_up.narrow(1, 0, inner)?.silu()? * gate_up.narrow(1, inner, inner)?
    }

    fn output(&mut self, output: &Matrix) -> Result<()> {
        let logits = output.forward(self.slot(Slot::Normed)?)?.contiguous()?;
        self.logits = self.left(&logits)?.flatten_all()?.to_vec1()?;
        let wished = (0..).zip(self.wishes);
        let wished: Vec<_> = wished
            .filter_map(|(row, wish)| Some((row, wish.as_ref()?)))
            .collect();
        if wished.is_empty() {
            return Ok(());
        }
        let wishes = Wishes::new(self.config.vocabulary, &wished);
        let choose = Choose::new(self.gpu, wishes.map_err(candle_core::Error::wrap)?);
        logits.inplace_op1(&choose)?;
        self.chosen = choose.chosen();
        Ok(())
    }

    /// The logits that are wanted themselves: they alone are copied to the host.
    fn left(&self, logits: &Tensor) -> Result<Tensor> {
        if self.wishes.is_empty() {
            return Ok(logits.clone());
        }
        let rows = (0u32..).zip(self.wishes);
        let rows: Vec<u32> = rows
            .filter_map(|(row, wish)| wish.is_none().then_some(row))
            .collect();
        match rows.is_empty() {
            true => logits.narrow(0, 0, 0),
            false => logits.index_select(&Tensor::new(rows, logits.device())?, 0),
        }
    }

    fn kept(&self, slot: Slot) -> Result<Tensor> {
        self.slot(slot)?.index_select(&self.wanted, 0)
    }
}

impl Step<OnDevice> for CudaStep<'_> {
    fn embed(&mut self, table: &Matrix) -> Done {
        self.put(Slot::Rows, table.rows(&self.ids))
    }

    fn norm(&mut self, weight: &Tensor) -> Done {
        self.put(Slot::Normed, self.normed(weight))
    }

    fn linear(&mut self, matrix: &Matrix, from: Slot, to: Slot) -> Done {
        let out = self.slot(from).and_then(|x| matrix.forward(x));
        // A product may be a view of a larger one; the kernels want rows of their own.
        self.put(to, out.and_then(|out| out.contiguous()))
    }

    fn head_norms(&mut self, queries: &Tensor, keys: &Tensor) -> Done {
        let Config {
            heads, kv_heads, ..
        } = *self.config;
        self.with_head_norm(queries, 0, heads)
            .and_then(|()| self.with_head_norm(keys, self.config.queries(), kv_heads))
            .map_err(failed)
    }

    fn rotate(&mut self) -> Done {
        self.turned().map_err(failed)
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
        self.output(output).map_err(failed)
    }
}
