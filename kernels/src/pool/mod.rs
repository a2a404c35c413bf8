//! A tenant's memory on one device: a quota in bytes, and a scrub that returns evidence.
//!
//! A pool belongs to one tenant for its whole life and is never handed on. Which block of it belongs
//! to which sequence is the engine's matter: here are only bytes, and the promise that after
//! [`Pool::scrub_all`] without residue every byte that was ever written is zero. The CPU and the CUDA
//! back end pass the same tests.

pub mod cover;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
#[cfg(test)]
mod tests;

pub use cpu::CpuPool;
#[cfg(feature = "cuda")]
pub use cuda::CudaPool;

use crate::gpu::LaunchError;
use crate::{Residue, ScrubReport};
use std::ops::Range;

/// Why a pool could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// A quota of no bytes, or one that the address space cannot hold: the operator's fault.
    #[error(
        "a quota of {bytes} bytes cannot be made into a pool: set one between 1 byte and 256 TiB"
    )]
    Quota {
        /// What was asked for.
        bytes: usize,
    },
    /// The caller's fault: nothing was touched.
    #[error("bytes {start}..{end} are outside the pool's quota of {quota} bytes")]
    OutOfRange {
        /// First byte asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// The pool's size.
        quota: usize,
    },
    /// The system or the device has no memory left for it; may succeed later or with less.
    #[error("no memory for a pool of {bytes} bytes: {detail}")]
    NoMemory {
        /// What was asked for.
        bytes: usize,
        /// What the system said.
        detail: String,
    },
    /// A scrub found memory that somebody still uses. A defect: the process that owns the pool has to end.
    #[error("{bytes} bytes of the pool are in use, and cannot be scrubbed")]
    InUse {
        /// How many.
        bytes: u64,
    },
    /// A scrub could not reach all that the pool holds: the process that owns it has to end.
    #[error("{bytes} bytes that the pool holds could not be taken, and were not scrubbed")]
    Uncovered {
        /// How many.
        bytes: u64,
    },
    /// The device failed. What it holds is unknown: the process that owns the pool has to end.
    #[error("the device failed: {detail}")]
    Device {
        /// What the driver said.
        detail: String,
    },
}

impl From<LaunchError> for PoolError {
    fn from(error: LaunchError) -> Self {
        PoolError::Device {
            detail: error.to_string(),
        }
    }
}

/// Memory of one tenant on one device.
pub trait Pool: Send {
    /// The pool's size, bytes; the most that the tenant can hold on this device.
    fn quota_bytes(&self) -> usize;

    /// Copies `bytes` into the pool, from `offset` on.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), PoolError>;

    /// Copies from the pool, from `offset` on, into `bytes`.
    fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), PoolError>;

    /// Zeroes a range.
    fn zero(&mut self, range: Range<usize>) -> Result<(), PoolError>;

    /// Reads a range back. Offsets in the answer count from the start of the range.
    fn verify(&mut self, range: Range<usize>) -> Result<Residue, PoolError>;

    /// One past the last byte that can have been written since the pool was made, bytes.
    fn touched_bytes(&self) -> usize;

    /// Zeroes all that can have been written and reads it back. `now_ns` is the caller's clock.
    fn scrub_all(&mut self, now_ns: &dyn Fn() -> u64) -> Result<ScrubReport, PoolError> {
        let start_ns = now_ns();
        let touched = 0..self.touched_bytes();
        self.zero(touched.clone())?;
        let residue = self.verify(touched.clone())?;
        let spent_ns = now_ns().saturating_sub(start_ns);
        Ok(ScrubReport::of(touched.end as u64, residue, spent_ns))
    }
}

/// Checks that a range lies within a quota.
fn check(range: &Range<usize>, quota: usize) -> Result<(), PoolError> {
    if range.start <= range.end && range.end <= quota {
        return Ok(());
    }
    Err(PoolError::OutOfRange {
        start: range.start,
        end: range.end,
        quota,
    })
}

/// The range of `length` bytes from `offset` on, checked against a quota.
fn span(offset: usize, length: usize, quota: usize) -> Result<Range<usize>, PoolError> {
    let range = offset..offset.saturating_add(length);
    check(&range, quota).map(|()| range)
}
