//! The engine's threads: a pool of its own, of a size that is told, complete before the process is
//! sealed.

use super::LoadError;
use bulkhead_kernels::stack;

/// Bytes of each thread's unused stack that are overwritten by [`Compute::scrub_stacks`].
const STACK_BYTES: usize = 256 << 10;

/// A bounded pool of compute threads.
#[derive(Debug)]
pub struct Compute {
    pool: rayon::ThreadPool,
}

impl Compute {
    /// Starts `threads` threads (at least one), and waits until all of them run.
    pub fn new(threads: usize) -> Result<Self, LoadError> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|nth| format!("compute-{nth}"))
            .build()
            .map_err(|error| LoadError::Threads {
                cause: error.to_string(),
            })?;
        pool.broadcast(|_| ());
        Ok(Compute { pool })
    }

    /// Runs `work` on the pool.
    pub fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.pool.install(work)
    }

    /// Overwrites what calls have left behind on the stacks of all the pool's threads and of the
    /// caller. Returns bytes zeroed.
    pub fn scrub_stacks(&self) -> u64 {
        let zeroed = self.pool.broadcast(|_| stack::scrub(STACK_BYTES));
        zeroed.iter().sum::<u64>() + stack::scrub(STACK_BYTES)
    }
}
