//! cuBLAS's workspace. Left alone it allocates one for each stream, outside every pool, and keeps parts of
//! products in it. So it is given one of ours, which is scrubbed like all else.

use super::own::{Found, OwnPool, device};
use super::{Gpu, failed};
use crate::gpu::{LaunchError, Span, SpanMut};
use crate::{PoolError, Residue};
use cudarc::cublas::CudaBlas;
use cudarc::cublas::sys::cublasSetWorkspace_v2;
use cudarc::driver::sys;
use std::sync::Arc;

/// Bytes of the workspace: what cuBLAS's documentation recommends for Hopper.
const BYTES: usize = 32 << 20;

/// A workspace, and the handle that uses it.
#[derive(Debug)]
pub struct Workspace {
    gpu: Gpu,
    /// Held so that no product outlives the memory.
    _blas: Arc<CudaBlas>,
    pool: OwnPool,
    found: Found,
    start: sys::CUdeviceptr,
}

// SAFETY: the handle of cuBLAS is only held, and the memory is this value's own.
unsafe impl Send for Workspace {}

impl Workspace {
    /// Gives cuBLAS memory of its own pool. `blas` computes on the stream of `gpu`.
    pub fn give(gpu: &Gpu, blas: Arc<CudaBlas>) -> Result<Self, PoolError> {
        // With room for the two numbers of the read-back.
        let pool = OwnPool::new(gpu, BYTES + (2 << 20))?;
        let start = pool.take(BYTES).map_err(device)?;
        let made = Workspace {
            found: Found::in_pool(gpu, &pool)?,
            gpu: gpu.clone(),
            _blas: blas.clone(),
            pool,
            start,
        };
        // SAFETY: the handle is alive, and the memory lives as long as this value, which holds the handle.
        let set = unsafe { cublasSetWorkspace_v2(*blas.handle(), start as *mut _, BYTES) };
        set.result().map_err(|error| PoolError::Device {
            detail: format!("cuBLAS takes no workspace: {error}"),
        })?;
        Ok(made)
    }

    /// Its size, bytes.
    pub fn bytes(&self) -> u64 {
        BYTES as u64
    }

    /// Zeroes it and reads it back.
    pub fn scrub(&mut self) -> Result<Residue, LaunchError> {
        let context = self.gpu.stream().context();
        context.bind_to_thread().map_err(failed("scrubbing"))?;
        // SAFETY: the block is this value's own; cuBLAS works on the same stream.
        let mut bytes = unsafe { SpanMut::new(self.start, BYTES) };
        self.gpu.zero(&mut bytes)?;
        // SAFETY: as above.
        let bytes = unsafe { Span::new(self.start, BYTES) };
        self.found.residue(&self.gpu, bytes)
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // Nothing can be reported from here. Whoever drops this multiplies nothing any more.
        let _ = self.pool.give_back(self.start);
    }
}
