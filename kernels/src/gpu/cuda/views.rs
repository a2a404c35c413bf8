//! Memory that others allocated (candle, above all), as kernels take it.

use super::{Gpu, failed};
use crate::gpu::{
    LaunchError, NOTHING, Plain, Plan, Span, SpanMut, Uploaded, UploadedWishes, Wishes,
    choose as launch_choose,
};
use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut, DeviceRepr, SyncOnDrop};

/// Memory that is read until this is dropped.
pub struct Reading<'a, T> {
    span: Span<'a, T>,
    _reading: SyncOnDrop<'a>,
}

impl<'a, T: Plain> Reading<'a, T> {
    /// Of memory of cudarc's. What is launched while this is held comes before whatever is done to it later.
    pub fn new(gpu: &'a Gpu, memory: &'a impl DevicePtr<T>) -> Self {
        let (address, reading) = memory.device_ptr(&gpu.stream);
        Reading {
            // SAFETY: the memory is borrowed as long as this lives, and freed in the stream's order after that.
            span: unsafe { Span::new(address, memory.len()) },
            _reading: reading,
        }
    }

    /// All of it.
    pub fn span(&self) -> Span<'_, T> {
        self.span
    }
}

/// Memory that is written until this is dropped.
pub struct Writing<'a, T> {
    span: SpanMut<'a, T>,
    _writing: SyncOnDrop<'a>,
}

impl<'a, T: Plain> Writing<'a, T> {
    /// Of memory of cudarc's.
    pub fn new(gpu: &'a Gpu, memory: &'a mut impl DevicePtrMut<T>) -> Self {
        let len = memory.len();
        let (address, writing) = memory.device_ptr_mut(&gpu.stream);
        Writing {
            // SAFETY: as above, and the borrow is the only one.
            span: unsafe { SpanMut::new(address, len) },
            _writing: writing,
        }
    }

    /// All of it.
    pub fn span(&mut self) -> &mut SpanMut<'a, T> {
        &mut self.span
    }
}

/// A plan, and its numbers on a GPU.
#[derive(Debug)]
pub struct PlanOnGpu {
    plan: Plan,
    numbers: CudaSlice<u32>,
}

impl PlanOnGpu {
    /// Copies a plan there.
    pub fn new(gpu: &Gpu, plan: Plan) -> Result<Self, LaunchError> {
        let numbers = gpu.stream.clone_htod(plan.numbers());
        let numbers = numbers.map_err(failed("copying a plan"))?;
        Ok(PlanOnGpu { plan, numbers })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// For the kernels, while `work` launches them.
    pub fn with<R>(&self, gpu: &Gpu, work: impl FnOnce(&Uploaded<'_>) -> R) -> R {
        let numbers = Reading::new(gpu, &self.numbers);
        // SAFETY: they were copied there, and nobody writes them.
        let uploaded = unsafe { Uploaded::new(&self.plan, numbers.span()) };
        work(&uploaded)
    }
}

impl Gpu {
    /// Memory for results of a kernel that writes all of it, from the device's current pool.
    pub fn room<T: DeviceRepr + Plain>(&self, len: usize) -> Result<CudaSlice<T>, LaunchError> {
        // SAFETY: any bits are a value; who reads it launches what writes it first.
        unsafe { self.stream.alloc(len) }.map_err(failed("allocating"))
    }
}

/// Chooses tokens of rows of logits, and waits for them: nothing where there was nothing to choose from. The numbers
/// that it needs, and the tokens, lie in the device's current pool.
pub fn choose(
    gpu: &Gpu,
    logits: &mut SpanMut<'_, f32>,
    wishes: &Wishes,
) -> Result<Vec<Option<u32>>, LaunchError> {
    const AT: &str = "choosing tokens";
    let numbers = gpu
        .stream
        .clone_htod(wishes.numbers())
        .map_err(failed(AT))?;
    let mut chosen = gpu.room::<u32>(wishes.len())?;
    {
        let numbers = Reading::new(gpu, &numbers);
        // SAFETY: they were copied there, and nobody writes them.
        let wishes = unsafe { UploadedWishes::new(wishes, numbers.span()) };
        launch_choose(gpu, logits, &wishes, Writing::new(gpu, &mut chosen).span())?;
    }
    let chosen = gpu.stream.clone_dtoh(&chosen).map_err(failed(AT))?;
    let some = |token| (token != NOTHING).then_some(token);
    Ok(chosen.into_iter().map(some).collect())
}
