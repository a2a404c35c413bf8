//! Our kernels over candle's tensors.
//!
//! Tensors are of f32 and contiguous; another one is an error. On a processor there is nothing here to run.

use bulkhead_kernels::compute::paged::{Attention, Layout as Blocks};
use bulkhead_kernels::gpu::cuda::{Gpu, PlanOnGpu, Reading, Writing, choose};
use bulkhead_kernels::gpu::{self, BlocksMut, LaunchError, Rotation, Wishes};
use bulkhead_kernels::pool::CudaPool;
use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, Error, InplaceOp1, InplaceOp2, Layout, Result,
    Shape,
};
use std::cell::RefCell;
use std::ops::Range;

/// What a launch answered, as candle's.
fn told(error: LaunchError) -> Error {
    Error::Msg(error.to_string())
}

/// Where a tensor's numbers are in its storage.
fn whole(layout: &Layout) -> Result<Range<usize>> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(start..end),
        None => candle_core::bail!("a tensor is not contiguous"),
    }
}

fn not_here<T>() -> Result<T> {
    candle_core::bail!("this runs on a GPU alone")
}

/// Rows over the root of their mean square, times the second tensor.
pub(super) struct Norm<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) epsilon: f32,
}

impl CustomOp2 for Norm<'_> {
    fn name(&self) -> &'static str {
        "rms_norm"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        not_here()
    }

    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        x_layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        let (gpu, device) = (self.gpu, x.device().clone());
        let x = x.as_cuda_slice::<f32>()?.slice(whole(x_layout)?);
        let weight = weight.as_cuda_slice::<f32>()?.slice(whole(weight_layout)?);
        let mut out = gpu.room::<f32>(x.len()).map_err(told)?;
        {
            let (x, weight) = (Reading::new(gpu, &x), Reading::new(gpu, &weight));
            let mut out = Writing::new(gpu, &mut out);
            gpu::rms_norm(gpu, x.span(), weight.span(), self.epsilon, out.span()).map_err(told)?;
        }
        let out = CudaStorage::wrap_cuda_slice(out, device);
        Ok((out, x_layout.shape().clone()))
    }
}

/// Heads in each row through a norm, in place: the second tensor is its weight.
pub(super) struct HeadNorm<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) epsilon: f32,
    /// Floats from row to row.
    pub(super) stride: usize,
    /// Floats before the heads in each row.
    pub(super) skip: usize,
    pub(super) heads: usize,
}

impl InplaceOp2 for HeadNorm<'_> {
    fn name(&self) -> &'static str {
        "rms_norm_heads"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        not_here()
    }

    fn cuda_fwd(
        &self,
        rows: &mut CudaStorage,
        layout: &Layout,
        weight: &CudaStorage,
        weight_layout: &Layout,
    ) -> Result<()> {
        let gpu = self.gpu;
        let mut range = whole(layout)?;
        range.start += self.skip;
        let mut rows = rows.as_cuda_slice_mut::<f32>()?.slice_mut(range);
        let weight = weight.as_cuda_slice::<f32>()?.slice(whole(weight_layout)?);
        let weight = Reading::new(gpu, &weight);
        let mut rows = Writing::new(gpu, &mut rows);
        let (stride, heads, epsilon) = (self.stride, self.heads, self.epsilon);
        gpu::rms_norm_heads(gpu, rows.span(), stride, heads, weight.span(), epsilon).map_err(told)
    }
}

/// Turns heads at the beginning of each row, in place: the second tensor has the turns.
pub(super) struct Rotate<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) how: Rotation,
}

impl InplaceOp2 for Rotate<'_> {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<()> {
        not_here()
    }

    fn cuda_fwd(
        &self,
        rows: &mut CudaStorage,
        layout: &Layout,
        turns: &CudaStorage,
        turns_layout: &Layout,
    ) -> Result<()> {
        let gpu = self.gpu;
        let mut rows = rows.as_cuda_slice_mut::<f32>()?.slice_mut(whole(layout)?);
        let turns = turns.as_cuda_slice::<f32>()?.slice(whole(turns_layout)?);
        let turns = Reading::new(gpu, &turns);
        let mut rows = Writing::new(gpu, &mut rows);
        gpu::rotate(gpu, rows.span(), turns.span(), self.how).map_err(told)
    }
}

/// Puts keys and values of each row into their places. The rows stay as they are.
pub(super) struct Store<'a, 'b> {
    pub(super) gpu: &'a Gpu,
    pub(super) plan: &'a PlanOnGpu,
    pub(super) kv: RefCell<&'b mut CudaPool>,
    pub(super) blocks: Blocks,
    pub(super) layer: usize,
    /// Floats from row to row, and before the keys in each.
    pub(super) stride: usize,
    pub(super) skip: usize,
}

impl InplaceOp1 for Store<'_, '_> {
    fn name(&self) -> &'static str {
        "kv_store"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        not_here()
    }

    fn cuda_fwd(&self, rows: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let gpu = self.gpu;
        let rows = rows.as_cuda_slice::<f32>()?.slice(whole(layout)?);
        let rows = Reading::new(gpu, &rows);
        let mut kv = self.kv.borrow_mut();
        let mut to = BlocksMut {
            all: kv.floats_mut(),
            layout: self.blocks,
            layer: self.layer,
        };
        let how = (self.stride, self.skip);
        let stored = (self.plan).with(gpu, |plan| gpu::store(gpu, rows.span(), how, plan, &mut to));
        stored.map_err(told)
    }
}

/// Attention of the queries at the beginning of each row.
pub(super) struct Attend<'a> {
    pub(super) gpu: &'a Gpu,
    pub(super) plan: &'a PlanOnGpu,
    pub(super) kv: &'a CudaPool,
    pub(super) how: Attention,
    /// Floats from row to row, and of all query heads.
    pub(super) stride: usize,
    pub(super) queries: usize,
}

impl CustomOp1 for Attend<'_> {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        not_here()
    }

    fn cuda_fwd(&self, rows: &CudaStorage, layout: &Layout) -> Result<(CudaStorage, Shape)> {
        let (gpu, device) = (self.gpu, rows.device().clone());
        let rows = rows.as_cuda_slice::<f32>()?.slice(whole(layout)?);
        let count = rows.len() / self.stride;
        let mut out = gpu.room::<f32>(count * self.queries).map_err(told)?;
        let heads = self.queries / self.how.layout.width;
        // None is asked for nothing.
        let room = self.plan.plan().parts_floats(heads).max(1);
        let mut parts = gpu.room::<f32>(room).map_err(told)?;
        {
            let rows = Reading::new(gpu, &rows);
            let (mut parts, mut out) = (Writing::new(gpu, &mut parts), Writing::new(gpu, &mut out));
            let (q, kv) = ((rows.span(), self.stride), self.kv.floats());
            let attended = self.plan.with(gpu, |plan| {
                gpu::attend::<f32>(gpu, q, kv, &self.how, plan, parts.span(), out.span())
            });
            attended.map_err(told)?;
        }
        let out = CudaStorage::wrap_cuda_slice(out, device);
        Ok((out, (count, self.queries).into()))
    }
}

/// Chooses tokens of rows of logits, which hold none any more afterwards.
pub(super) struct Choose<'a> {
    gpu: &'a Gpu,
    wishes: Wishes,
    chosen: RefCell<Vec<Option<u32>>>,
}

impl<'a> Choose<'a> {
    pub(super) fn new(gpu: &'a Gpu, wishes: Wishes) -> Self {
        Choose {
            gpu,
            wishes,
            chosen: RefCell::default(),
        }
    }

    /// What was chosen.
    pub(super) fn chosen(self) -> Vec<Option<u32>> {
        self.chosen.into_inner()
    }
}

impl InplaceOp1 for Choose<'_> {
    fn name(&self) -> &'static str {
        "choose"
    }

    fn cpu_fwd(&self, _: &mut CpuStorage, _: &Layout) -> Result<()> {
        not_here()
    }

    fn cuda_fwd(&self, logits: &mut CudaStorage, layout: &Layout) -> Result<()> {
        let gpu = self.gpu;
        let mut logits = logits.as_cuda_slice_mut::<f32>()?.slice_mut(whole(layout)?);
        let mut logits = Writing::new(gpu, &mut logits);
        let chosen = choose(gpu, logits.span(), &self.wishes).map_err(told)?;
        self.chosen.replace(chosen);
        Ok(())
    }
}
