//! The pool on an NVIDIA GPU. Built, not yet run: no machine with a GPU has tried it.
//!
//! The memory is one block from a CUDA memory pool of its own (`cuMemPoolCreate` with the quota as its
//! greatest size), so it is never recycled from, or into, anyone else's allocations. It is zeroed with
//! the driver's fill and read back by a kernel of ours, on the stream of those who compute with it, so that
//! neither comes before what was launched earlier.

use super::{Pool, PoolError, check, span};
use crate::Residue;
use crate::gpu::cuda::{Found, Gpu, OwnPool};
use crate::gpu::{Span, SpanMut};
use cudarc::driver::{DriverError, result, sys};
use std::ops::Range;

/// A tenant's memory on one GPU.
#[derive(Debug)]
pub struct CudaPool {
    gpu: Gpu,
    pool: OwnPool,
    found: Found,
    start: sys::CUdeviceptr,
    quota_bytes: usize,
    touched_bytes: usize,
}

impl CudaPool {
    /// Makes a pool of `quota_bytes` on the GPU of this ordinal. All of the quota is taken at once.
    pub fn new(ordinal: usize, quota_bytes: usize) -> Result<Self, PoolError> {
        CudaPool::on(&Gpu::new(ordinal)?, quota_bytes)
    }

    /// The same on a GPU that is open already, in the order of its stream.
    pub fn on(gpu: &Gpu, quota_bytes: usize) -> Result<Self, PoolError> {
        if quota_bytes == 0 || quota_bytes > isize::MAX as usize {
            return Err(PoolError::Quota { bytes: quota_bytes });
        }
        // The driver rounds blocks up; room for that.
        let pool = OwnPool::new(gpu, quota_bytes.saturating_add(64 << 20))?;
        let start = pool
            .take(quota_bytes)
            .map_err(|error| PoolError::NoMemory {
                bytes: quota_bytes,
                detail: error.to_string(),
            })?;
        let mut made = CudaPool {
            gpu: gpu.clone(),
            found: Found::in_pool(gpu, &pool)?,
            pool,
            start,
            quota_bytes,
            // What the driver hands out was somebody's: unlike the kernel's pages it need not be zero.
            touched_bytes: quota_bytes,
        };
        made.zero(0..quota_bytes)?;
        made.touched_bytes = 0;
        Ok(made)
    }

    /// All of it as numbers, for kernels that read.
    pub fn floats(&self) -> Span<'_, f32> {
        // SAFETY: the block is this value's own and lives as long as the span.
        unsafe { Span::new(self.start, self.quota_bytes / size_of::<f32>()) }
    }

    /// All of it as numbers, for kernels that write. From now on all of it counts as touched.
    pub fn floats_mut(&mut self) -> SpanMut<'_, f32> {
        self.touched_bytes = self.quota_bytes;
        // SAFETY: as above, and nobody else has it.
        unsafe { SpanMut::new(self.start, self.quota_bytes / size_of::<f32>()) }
    }

    fn bind(&self) -> Result<(), PoolError> {
        let context = self.gpu.stream().context();
        context.bind_to_thread().map_err(device)
    }

    fn at(&self, offset: usize) -> sys::CUdeviceptr {
        self.start + offset as sys::CUdeviceptr
    }
}

impl Pool for CudaPool {
    fn quota_bytes(&self) -> usize {
        self.quota_bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), PoolError> {
        let range = span(offset, bytes.len(), self.quota_bytes)?;
        self.bind()?;
        self.touched_bytes = self.touched_bytes.max(range.end);
        let stream = self.gpu.stream();
        // SAFETY: the range lies in this pool's block; `bytes` outlives the copy, which is waited for.
        unsafe { result::memcpy_htod_async(self.at(offset), bytes, stream.cu_stream()) }
            .and_then(|()| stream.synchronize())
            .map_err(device)
    }

    fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), PoolError> {
        span(offset, bytes.len(), self.quota_bytes)?;
        self.bind()?;
        let stream = self.gpu.stream();
        // SAFETY: the range lies in this pool's block; `bytes` outlives the copy, which is waited for.
        unsafe { result::memcpy_dtoh_async(bytes, self.at(offset), stream.cu_stream()) }
            .and_then(|()| stream.synchronize())
            .map_err(device)
    }

    fn zero(&mut self, range: Range<usize>) -> Result<(), PoolError> {
        check(&range, self.quota_bytes)?;
        self.bind()?;
        // SAFETY: the range lies in this pool's block, which nobody else has.
        let mut bytes = unsafe { SpanMut::new(self.at(range.start), range.len()) };
        self.gpu.zero(&mut bytes)?;
        Ok(self.gpu.synchronise()?)
    }

    fn verify(&mut self, range: Range<usize>) -> Result<Residue, PoolError> {
        check(&range, self.quota_bytes)?;
        self.bind()?;
        // SAFETY: the range lies in this pool's block.
        let bytes = unsafe { Span::new(self.at(range.start), range.len()) };
        Ok(self.found.residue(&self.gpu, bytes)?)
    }

    fn touched_bytes(&self) -> usize {
        self.touched_bytes
    }
}

impl Drop for CudaPool {
    fn drop(&mut self) {
        // Nothing can be reported from here; a process whose device fails ends anyway, and its
        // memory with it.
        let _ = self.zero(0..self.touched_bytes);
        let _ = self.pool.give_back(self.start);
        let _ = self.gpu.synchronise();
    }
}

fn device(error: DriverError) -> PoolError {
    PoolError::Device {
        detail: error.to_string(),
    }
}
