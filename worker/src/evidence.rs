//! Scrubbing after a job, and the evidence of it.
//!
//! A report holds what was zeroed since the report before: memory that the allocator took back, and what the
//! engine cleans of its own (KV blocks, kept scratch). All of it was read back. The dead part of the compute
//! thread's stack is overwritten too; that is not counted, since reading it back would need a stack.
//! Threads flush their counters in batches, so that a report can understate and never overstate.

use crate::engine::Engine;
use bulkhead_kernels::alloc::{self, AllocCounters};
use bulkhead_kernels::stack;
use bulkhead_proto::internal::{Finished, ScrubReport};
use std::time::Instant;

/// Bytes of dead stack that are overwritten after a job.
const STACK_BYTES: usize = 256 << 10;

/// What has been reported so far.
#[derive(Debug)]
pub struct Evidence {
    reported: AllocCounters,
}

impl Evidence {
    /// From now on. What loading the model zeroed is nobody's job.
    pub fn begin() -> Self {
        Evidence {
            reported: alloc::snapshot(),
        }
    }

    /// Scrubs what no live sequence needs and reports everything since the last report.
    pub fn scrub(&mut self, engine: &mut dyn Engine) -> ScrubReport {
        let start = Instant::now();
        let own = engine.scrub();
        stack::scrub(STACK_BYTES);
        let now = alloc::snapshot();
        let freed = now.since(&self.reported);
        self.reported = now;
        ScrubReport {
            bytes_zeroed: freed.bytes_zeroed + own.zeroed,
            bytes_verified: freed.bytes_verified + own.verified,
            residue_bytes: freed.residue_bytes + own.residue,
            first_residue: own.first_residue.or(freed.first_residue),
            scrub_ns: u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            retained_bytes: 0,
        }
    }
}

/// Divides the report of one step among the requests that it finished, so that sums stay right.
/// Residue is not divided: none of them can be said to be clean.
pub fn attach(report: &ScrubReport, finished: &mut [Finished]) {
    let count = finished.len() as u64;
    for (index, finished) in finished.iter_mut().enumerate() {
        let share = |whole: u64| whole / count + u64::from((index as u64) < whole % count);
        finished.scrub = Some(ScrubReport {
            bytes_zeroed: share(report.bytes_zeroed),
            bytes_verified: share(report.bytes_verified),
            residue_bytes: report.residue_bytes,
            first_residue: report.first_residue,
            scrub_ns: share(report.scrub_ns),
            retained_bytes: finished.retained_bytes,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_and_residue_taints_all() {
        let report = ScrubReport {
            bytes_zeroed: 100,
            bytes_verified: 98,
            residue_bytes: 1,
            scrub_ns: 7,
            ..ScrubReport::default()
        };
        let mut finished = vec![Finished::default(); 3];
        attach(&report, &mut finished);
        let shares: Vec<_> = finished.into_iter().filter_map(|one| one.scrub).collect();
        assert_eq!(
            shares.iter().map(|share| share.bytes_zeroed).sum::<u64>(),
            100
        );
        assert_eq!(
            shares.iter().map(|share| share.bytes_verified).sum::<u64>(),
            98
        );
        assert_eq!(shares.iter().map(|share| share.scrub_ns).sum::<u64>(), 7);
        assert!(shares.iter().all(|share| share.residue_bytes == 1));
    }
}
