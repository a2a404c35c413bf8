//! The engine's threads: a pool of its own, of a size that is told, complete before the process is
//! sealed.

use super::LoadError;
use bulkhead_kernels::stack;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

/// Bytes of each thread's unused stack that are overwritten by [`Compute::scrub_stacks`].
const STACK_BYTES: usize = 256 << 10;

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

/// A processor for each thread, if there are as many as threads. Threads of low priority weigh so little that
/// the kernel may leave two of them on one processor for milliseconds, beside another that idles.
fn processors(threads: usize) -> Vec<CpuSet> {
    let allowed = sched_getaffinity(THIS).unwrap_or_default();
    let each = (0..CpuSet::count()).filter(|nth| allowed.is_set(*nth) == Ok(true));
    let own = |nth| {
        let mut own = CpuSet::new();
        own.set(nth).map(|()| own)
    };
    let all: Vec<CpuSet> = each.map_while(|nth| own(nth).ok()).collect();
    if all.len() == threads {
        all
    } else {
        Vec::new()
    }
}

/// A bounded pool of compute threads.
#[derive(Debug)]
pub struct Compute {
    pool: rayon::ThreadPool,
}

impl Compute {
    /// Starts `threads` threads (at least one), and waits until all of them run.
    pub fn new(threads: usize) -> Result<Self, LoadError> {
        let processors = processors(threads);
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|nth| format!("compute-{nth}"))
            .start_handler(move |nth| {
                // One that may not stays where the kernel puts it.
                let _ = processors.get(nth).map(|own| sched_setaffinity(THIS, own));
            })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The processors that each thread may use.
    fn allowed(compute: &Compute) -> Vec<Vec<usize>> {
        compute.pool.broadcast(|_| {
            let set = sched_getaffinity(THIS).expect("the kernel says");
            (0..CpuSet::count())
                .filter(|nth| set.is_set(*nth) == Ok(true))
                .collect()
        })
    }

    #[test]
    fn each_thread_has_its_own_processor_where_there_are_as_many() {
        let mine = sched_getaffinity(THIS).expect("the kernel says");
        let count = (0..CpuSet::count())
            .filter(|nth| mine.is_set(*nth) == Ok(true))
            .count();
        let mut own = allowed(&Compute::new(count).expect("threads"));
        assert!(own.iter().all(|own| own.len() == 1), "{own:?}");
        own.sort();
        own.dedup();
        assert_eq!(own.len(), count);
        let more = allowed(&Compute::new(count + 1).expect("threads"));
        assert!(more.iter().all(|allowed| allowed.len() == count));
    }
}
