//! The pool on an NVIDIA GPU. Built, not yet run: no machine with a GPU has tried it.
//!
//! The memory is one block from a CUDA memory pool of its own (`cuMemPoolCreate` with the quota as its
//! greatest size), so it is never recycled from, or into, anyone else's allocations. It is zeroed with
//! the driver's fill and read back by a kernel of ours, which NVRTC compiles when the pool is made;
//! without NVRTC it is copied back in pieces and checked by the CPU: slower, equally true. The driver
//! library is loaded at run time; nothing here is linked against it.

use super::{Pool, PoolError, check, span};
use crate::{Residue, verify_zero};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaStream, DriverError, LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc;
use std::ops::Range;
use std::sync::Arc;

/// Bytes copied back at a time where the kernel is not there.
const COPY_BYTES: usize = 4 << 20;

/// Blocks of the read-back kernel: enough to fill any device, since the kernel strides.
const VERIFY_BLOCKS: u32 = 1024;
const VERIFY_THREADS: u32 = 256;

/// The kernel's answer: a count and an offset, 8 bytes each.
const RESULT_BYTES: usize = 16;

/// A tenant's memory on one GPU.
#[derive(Debug)]
pub struct CudaPool {
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
    pool: sys::CUmemoryPool,
    start: sys::CUdeviceptr,
    result: sys::CUdeviceptr,
    verify: Option<CudaFunction>,
    quota_bytes: usize,
    touched_bytes: usize,
}

// SAFETY: the handles belong to this value alone, and the driver takes them from any thread once the
// context is bound, which every method does first.
unsafe impl Send for CudaPool {}

impl CudaPool {
    /// Makes a pool of `quota_bytes` on the GPU of this ordinal. All of the quota is taken at once.
    pub fn new(ordinal: usize, quota_bytes: usize) -> Result<Self, PoolError> {
        if quota_bytes == 0 || quota_bytes > isize::MAX as usize {
            return Err(PoolError::Quota { bytes: quota_bytes });
        }
        // SAFETY: loading the library runs its initialisers, which is what is wanted; asked first
        // because the wrapper panics where it is missing.
        if !unsafe { sys::is_culib_present() } {
            return Err(PoolError::Device {
                detail: "the CUDA driver library is missing".into(),
            });
        }
        let context = CudaContext::new(ordinal).map_err(device)?;
        let stream = context.new_stream().map_err(device)?;
        let pool = create_pool(ordinal, quota_bytes)?;
        let mut made = CudaPool {
            verify: compile_verify(&context),
            stream,
            context,
            pool,
            start: 0,
            result: 0,
            quota_bytes,
            touched_bytes: 0,
        };
        made.start = made.allocate(quota_bytes)?;
        made.result = made.allocate(RESULT_BYTES)?;
        // What the driver hands out was somebody's: unlike the kernel's pages it need not be zero.
        made.touched_bytes = quota_bytes;
        made.zero(0..quota_bytes)?;
        made.touched_bytes = 0;
        Ok(made)
    }

    /// True where the read-back runs on the device, false where it copies back to the CPU.
    pub fn verifies_on_device(&self) -> bool {
        self.verify.is_some()
    }

    fn allocate(&self, bytes: usize) -> Result<sys::CUdeviceptr, PoolError> {
        // SAFETY: pool and stream are this value's own and alive.
        unsafe { result::mem_pool::alloc_async(self.pool, bytes, self.stream.cu_stream()) }.map_err(
            |error| PoolError::NoMemory {
                bytes,
                detail: error.to_string(),
            },
        )
    }

    fn bind(&self) -> Result<(), PoolError> {
        self.context.bind_to_thread().map_err(device)
    }

    fn at(&self, offset: usize) -> sys::CUdeviceptr {
        self.start + offset as sys::CUdeviceptr
    }

    fn verify_on_device(
        &self,
        kernel: &CudaFunction,
        range: Range<usize>,
    ) -> Result<Residue, DriverError> {
        let mut answer = [0u64, u64::MAX];
        let (start, length) = (self.at(range.start), range.len() as u64);
        let config = LaunchConfig {
            grid_dim: (VERIFY_BLOCKS, 1, 1),
            block_dim: (VERIFY_THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        let stream = self.stream.cu_stream();
        // SAFETY: `result` holds RESULT_BYTES, as `answer` does, and `answer` outlives the copy: the
        // stream is waited for below.
        unsafe { result::memcpy_htod_async(self.result, &answer, stream)? };
        let mut launch = self.stream.launch_builder(kernel);
        launch.arg(&start).arg(&length).arg(&self.result);
        // SAFETY: the arguments are those of the kernel, in its order and of its types; it reads
        // inside the checked range and writes RESULT_BYTES at `result`.
        unsafe { launch.launch(config)? };
        // SAFETY: as for the copy before.
        unsafe { result::memcpy_dtoh_async(&mut answer, self.result, stream)? };
        self.stream.synchronize()?;
        let [count, first] = answer;
        Ok(Residue {
            count,
            first_offset: (count > 0).then_some(first),
        })
    }

    fn verify_by_copy(&self, range: Range<usize>) -> Result<Residue, DriverError> {
        let mut copy = vec![0u8; COPY_BYTES.min(range.len())];
        let mut residue = Residue::default();
        for offset in (0..range.len()).step_by(COPY_BYTES) {
            let part = COPY_BYTES.min(range.len() - offset);
            // Anything but zero, so that a copy that did not happen is found out.
            copy[..part].fill(0xFF);
            self.copy_back(range.start + offset, &mut copy[..part])?;
            residue.add_later(verify_zero(&copy[..part]), offset as u64);
        }
        Ok(residue)
    }

    fn copy_back(&self, offset: usize, bytes: &mut [u8]) -> Result<(), DriverError> {
        // SAFETY: the range was checked by the callers and lies in this pool's block; `bytes`
        // outlives the copy, since the stream is waited for before anything returns.
        unsafe { result::memcpy_dtoh_async(bytes, self.at(offset), self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
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
        // SAFETY: the range lies in this pool's block; `bytes` outlives the copy, which is waited for.
        unsafe { result::memcpy_htod_async(self.at(offset), bytes, self.stream.cu_stream()) }
            .and_then(|()| self.stream.synchronize())
            .map_err(device)
    }

    fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), PoolError> {
        span(offset, bytes.len(), self.quota_bytes)?;
        self.bind()?;
        self.copy_back(offset, bytes).map_err(device)
    }

    fn zero(&mut self, range: Range<usize>) -> Result<(), PoolError> {
        check(&range, self.quota_bytes)?;
        self.bind()?;
        let stream = self.stream.cu_stream();
        // SAFETY: the range lies in this pool's block, which was allocated on this stream.
        unsafe { result::memset_d8_async(self.at(range.start), 0, range.len(), stream) }
            .and_then(|()| self.stream.synchronize())
            .map_err(device)
    }

    fn verify(&mut self, range: Range<usize>) -> Result<Residue, PoolError> {
        check(&range, self.quota_bytes)?;
        self.bind()?;
        match &self.verify {
            Some(kernel) => self.verify_on_device(kernel, range),
            None => self.verify_by_copy(range),
        }
        .map_err(device)
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
        for block in [self.start, self.result] {
            if block != 0 {
                // SAFETY: the block is this value's own, from this stream's pool, freed once.
                let _ = unsafe { result::free_async(block, self.stream.cu_stream()) };
            }
        }
        let _ = self.stream.synchronize();
        // SAFETY: the pool is this value's own, its blocks are freed, and it is never used again.
        let _ = unsafe { result::mem_pool::destroy(self.pool) };
    }
}

fn device(error: DriverError) -> PoolError {
    PoolError::Device {
        detail: error.to_string(),
    }
}

/// A memory pool of the driver for this quota and no more, on one device, shared with nobody.
fn create_pool(ordinal: usize, quota_bytes: usize) -> Result<sys::CUmemoryPool, PoolError> {
    // SAFETY: a plain C structure of integers, enums with a zero variant, and pointers.
    let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
    properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
    properties.location.id = ordinal as i32;
    // The driver rounds blocks up; room for that, and for the answer's few bytes.
    properties.maxSize = quota_bytes.saturating_add(64 << 20);
    // SAFETY: the structure is complete and alive during the call.
    unsafe { result::mem_pool::create(&properties) }.map_err(device)
}

/// The read-back kernel, where NVRTC is there to compile it.
fn compile_verify(context: &Arc<CudaContext>) -> Option<CudaFunction> {
    // SAFETY: as for the driver's library.
    if !unsafe { nvrtc::sys::is_culib_present() } {
        return None;
    }
    let compiled = nvrtc::compile_ptx(include_str!("../../cuda/verify.cu")).ok()?;
    context
        .load_module(compiled)
        .ok()?
        .load_function("verify_zero")
        .ok()
}
