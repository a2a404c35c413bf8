//! A job's memory: a pool of the driver's with a greatest size, in place of the device's own.
//!
//! Everything in this process that asks the driver for memory without naming a pool (candle, cudarc, this crate's
//! uploads) gets it from the pool that is the device's current one. So this one is put there, and what a job
//! allocates is in it, without a change to whoever allocates. What is not: see docs/GPU.md.

use super::Gpu;
use super::own::{Found, OwnPool, device};
use crate::gpu::{Span, SpanMut};
use crate::pool::cover::{self, StreamPool};
use crate::{PoolError, Residue, ScrubReport};
use cudarc::driver::{result, sys};

/// The pool of one tenant's jobs, in place while this lives.
#[derive(Debug)]
pub struct JobPool {
    gpu: Gpu,
    pool: OwnPool,
    before: sys::CUmemoryPool,
    /// Allocated from the pool before.
    found: Found,
}

// SAFETY: as for the pool.
unsafe impl Send for JobPool {}

impl JobPool {
    /// Makes a pool of at most `quota_bytes` and puts it in place.
    pub fn install(gpu: &Gpu, quota_bytes: usize) -> Result<Self, PoolError> {
        if quota_bytes == 0 {
            return Err(PoolError::Quota { bytes: quota_bytes });
        }
        let pool = OwnPool::new(gpu, quota_bytes)?;
        let found = Found::new(gpu)?;
        let before = pool.put_in_place()?;
        Ok(JobPool {
            gpu: gpu.clone(),
            pool,
            before,
            found,
        })
    }

    /// Bytes that are allocated from it now.
    pub fn used_bytes(&self) -> Result<u64, PoolError> {
        self.pool.used_bytes()
    }

    /// Zeroes and reads back all that the pool holds. To be called when nothing of a job is allocated any more.
    pub fn scrub(&mut self, now_ns: &dyn Fn() -> u64) -> Result<ScrubReport, PoolError> {
        cover::scrub(self, now_ns)
    }
}

/// A block of the pool that a scrub took.
#[derive(Debug)]
pub struct Taken {
    address: sys::CUdeviceptr,
    bytes: u64,
}

impl StreamPool for JobPool {
    type Block = Taken;

    fn synchronise(&mut self) -> Result<(), PoolError> {
        Ok(self.gpu.synchronise()?)
    }

    fn used_bytes(&self) -> Result<u64, PoolError> {
        self.pool.used_bytes()
    }

    fn reserved_bytes(&self) -> Result<u64, PoolError> {
        self.pool.reserved_bytes()
    }

    fn take(&mut self, bytes: u64) -> Result<Option<Taken>, PoolError> {
        match self.pool.take(bytes as usize) {
            Ok(address) => Ok(Some(Taken { address, bytes })),
            Err(error) if error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => Ok(None),
            Err(error) => Err(device(error)),
        }
    }

    fn len(block: &Taken) -> u64 {
        block.bytes
    }

    fn zero(&mut self, block: &mut Taken) -> Result<(), PoolError> {
        // SAFETY: the block was taken, and is this scrub's alone.
        let mut bytes = unsafe { SpanMut::new(block.address, block.bytes as usize) };
        Ok(self.gpu.zero(&mut bytes)?)
    }

    fn verify(&mut self, block: &Taken) -> Result<Residue, PoolError> {
        // SAFETY: as above.
        let bytes = unsafe { Span::new(block.address, block.bytes as usize) };
        Ok(self.found.residue(&self.gpu, bytes)?)
    }

    fn give_back(&mut self, block: Taken) -> Result<(), PoolError> {
        self.pool.give_back(block.address).map_err(device)
    }

    fn trim(&mut self) -> Result<(), PoolError> {
        self.pool.trim()
    }
}

impl Drop for JobPool {
    fn drop(&mut self) {
        // Nothing can be reported from here; a process whose device fails ends anyway, and its memory with it.
        let of = self.gpu.stream().context().cu_device();
        // SAFETY: the device is the context's, and the pool before was its current one.
        let _ = unsafe { result::device::set_mem_pool(of, self.before) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::canary;
    use crate::gpu::Device;
    use crate::gpu::cuda::has_device_nodes;

    /// Runs a test on the first GPU, or says why not.
    fn on_gpu(test: impl FnOnce(&Gpu)) {
        match Gpu::new(0) {
            Ok(gpu) => test(&gpu),
            Err(reason) => {
                assert!(!has_device_nodes(), "{reason}");
                eprintln!("not run, no CUDA device here: {reason}");
            }
        }
    }

    fn secret(bytes: usize) -> Vec<u8> {
        let mut secret = vec![0; bytes];
        canary::fill(&mut secret, 9);
        secret
    }

    #[test]
    fn what_a_job_allocates_is_in_its_pool_and_is_zero_after_the_scrub() {
        on_gpu(|gpu| {
            let mut pool = JobPool::install(gpu, 64 << 20).expect("there is room");
            let blocks: Vec<_> = [1000, 5 << 20, 4096, 3 << 20]
                .map(|bytes| gpu.upload(&secret(bytes)).expect("there is room"))
                .into();
            assert!(pool.used_bytes().expect("it answers") >= 8 << 20);
            let early = pool.scrub(&|| 0).expect_err("a job is on its way");
            assert!(matches!(early, PoolError::InUse { .. }), "{early}");
            drop(blocks);
            let held = pool.reserved_bytes().expect("it answers");
            let report = pool.scrub(&|| 0).expect("it can be covered");
            assert!(report.is_clean(), "{report:?}");
            assert!(
                report.bytes_zeroed >= held.min(8 << 20),
                "{report:?} of {held}"
            );
            assert_eq!(pool.reserved_bytes().expect("it answers"), 0, "trimmed");
        });
    }

    #[test]
    fn a_pool_gives_no_more_than_its_quota() {
        on_gpu(|gpu| {
            let _pool = JobPool::install(gpu, 64 << 20).expect("there is room");
            assert!(gpu.upload(&vec![1; 32 << 20]).is_ok());
            assert!(gpu.upload(&vec![1; 256 << 20]).is_err());
        });
    }

    #[test]
    fn the_pool_before_is_in_place_again_afterwards() {
        on_gpu(|gpu| {
            let weights = OwnPool::new(gpu, 0).expect("it can be made");
            weights.put_in_place().expect("it answers");
            let job = JobPool::install(gpu, 1 << 20).expect("there is room");
            let before = job.used_bytes().expect("it answers");
            drop(job);
            let block = gpu.upload(&[1; 1000]).expect("there is room");
            assert!(weights.used_bytes().expect("it answers") > before);
            drop(block);
        });
    }
}
