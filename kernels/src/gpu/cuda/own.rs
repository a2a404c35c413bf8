//! Pools of the driver's that this process makes, and reading their blocks back.

use super::{Gpu, failed};
use crate::gpu::{LaunchError, NOTHING_FOUND, Span, SpanMut, as_bytes, as_bytes_mut, verify};
use crate::{PoolError, Residue};
use cudarc::driver::sys::CUmemPool_attribute as Attribute;
use cudarc::driver::{CudaStream, DriverError, result, sys};
use std::sync::Arc;

/// A pool of the driver's that this process made.
#[derive(Debug)]
pub(crate) struct OwnPool {
    stream: Arc<CudaStream>,
    pool: sys::CUmemoryPool,
}

// SAFETY: the handle belongs to this value alone, and the driver takes it from any thread.
unsafe impl Send for OwnPool {}

pub(crate) fn device(error: DriverError) -> PoolError {
    PoolError::Device {
        detail: error.to_string(),
    }
}

impl OwnPool {
    /// With at most `bytes_max` bytes; 0 means as many as there are. What is freed stays in it until it is trimmed.
    pub(crate) fn new(gpu: &Gpu, bytes_max: usize) -> Result<Self, PoolError> {
        let stream = gpu.stream().clone();
        stream.context().bind_to_thread().map_err(device)?;
        // SAFETY: a plain C structure of integers, enums with a zero variant, and pointers.
        let mut properties: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        properties.location.id = stream.context().ordinal() as i32;
        properties.maxSize = bytes_max;
        // SAFETY: the structure is complete and alive during the call.
        let pool = unsafe { result::mem_pool::create(&properties) }.map_err(device)?;
        let made = OwnPool { stream, pool };
        let mut keep = u64::MAX;
        let which = Attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the pool is alive, and the attribute is a number of 64 bits.
        unsafe { result::mem_pool::set_attribute(pool, which, (&raw mut keep).cast()) }
            .map_err(device)?;
        Ok(made)
    }

    /// Makes it the pool that allocations come from. Returns the one before.
    pub(crate) fn put_in_place(&self) -> Result<sys::CUmemoryPool, PoolError> {
        let of = self.stream.context().cu_device();
        // SAFETY: the device is the context's, and the pool is alive.
        unsafe {
            let before = result::device::get_mem_pool(of).map_err(device)?;
            result::device::set_mem_pool(of, self.pool).map_err(device)?;
            Ok(before)
        }
    }

    /// A block of it; to be given back.
    pub(crate) fn take(&self, bytes: usize) -> Result<sys::CUdeviceptr, DriverError> {
        // SAFETY: pool and stream are alive.
        unsafe { result::mem_pool::alloc_async(self.pool, bytes, self.stream.cu_stream()) }
    }

    /// Gives a block back, once.
    pub(crate) fn give_back(&self, block: sys::CUdeviceptr) -> Result<(), DriverError> {
        // SAFETY: the block was taken from this pool on this stream.
        unsafe { result::free_async(block, self.stream.cu_stream()) }
    }

    /// Hands to the system what is not used.
    pub(crate) fn trim(&self) -> Result<(), PoolError> {
        // SAFETY: the pool is alive.
        unsafe { result::mem_pool::trim_to(self.pool, 0) }.map_err(device)
    }

    fn attribute(&self, which: Attribute) -> Result<u64, PoolError> {
        let mut value = 0u64;
        // SAFETY: the pool is alive, and the attribute is a number of 64 bits.
        unsafe { result::mem_pool::get_attribute(self.pool, which, (&raw mut value).cast()) }
            .map_err(device)?;
        Ok(value)
    }

    pub(crate) fn used_bytes(&self) -> Result<u64, PoolError> {
        self.attribute(Attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    }

    pub(crate) fn reserved_bytes(&self) -> Result<u64, PoolError> {
        self.attribute(Attribute::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT)
    }
}

impl Drop for OwnPool {
    fn drop(&mut self) {
        // What is still allocated keeps it alive in the driver until it is freed.
        // SAFETY: the pool is this value's own, and destroyed once.
        let _ = unsafe { result::mem_pool::destroy(self.pool) };
    }
}

/// Two numbers on the device for the answer of the kernel that reads back.
#[derive(Debug)]
pub(crate) struct Found {
    stream: Arc<CudaStream>,
    address: sys::CUdeviceptr,
}

impl Found {
    /// From a pool that is never scrubbed as a whole: this would stay in use.
    pub(crate) fn in_pool(gpu: &Gpu, pool: &OwnPool) -> Result<Self, PoolError> {
        let stream = gpu.stream().clone();
        let bytes = size_of_val(&NOTHING_FOUND);
        let address = pool.take(bytes).map_err(device)?;
        Ok(Found { stream, address })
    }

    /// From the device's current pool, which is not a job's.
    pub(crate) fn new(gpu: &Gpu) -> Result<Self, PoolError> {
        let stream = gpu.stream().clone();
        stream.context().bind_to_thread().map_err(device)?;
        let bytes = size_of_val(&NOTHING_FOUND);
        // SAFETY: the stream is alive; the memory is written before it is read.
        let address = unsafe { result::malloc_async(stream.cu_stream(), bytes) }.map_err(device)?;
        Ok(Found { stream, address })
    }

    /// Reads memory back, and waits for the answer.
    pub(crate) fn residue(
        &mut self,
        gpu: &Gpu,
        bytes: Span<'_, u8>,
    ) -> Result<Residue, LaunchError> {
        const AT: &str = "reading back";
        let stream = self.stream.cu_stream();
        let mut found = NOTHING_FOUND;
        // SAFETY: `found` is two numbers here and there; this copy and the one below are waited for.
        unsafe { result::memcpy_htod_async(self.address, as_bytes(&found), stream) }
            .and_then(|()| self.stream.synchronize())
            .map_err(failed(AT))?;
        // SAFETY: as above; nobody else has them.
        let mut answer = unsafe { SpanMut::new(self.address, found.len()) };
        verify(gpu, bytes, &mut answer)?;
        // SAFETY: as above.
        unsafe { result::memcpy_dtoh_async(as_bytes_mut(&mut found), self.address, stream) }
            .and_then(|()| self.stream.synchronize())
            .map_err(failed(AT))?;
        let [count, first] = found;
        Ok(Residue {
            count,
            first_offset: (count > 0).then_some(first),
        })
    }
}

impl Drop for Found {
    fn drop(&mut self) {
        // Nothing can be reported from here.
        // SAFETY: the memory is this value's own, and freed once.
        let _ = unsafe { result::free_async(self.address, self.stream.cu_stream()) };
    }
}
