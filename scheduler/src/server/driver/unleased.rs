//! Processor time that a worker uses without a lease: next to none, where it keeps its word.
//!
//! Lane time is what tenants share, and a worker computes under a lease alone. One that went on without one would take from
//! others what nobody charges it for, and no bound of fair share would hold. So what its process used is read off the
//! kernel's clock when a lease begins and ends, and twenty times a second between; whoever used more than its odds and ends take is ended. It
//! cannot lie about it. What a GPU is kept busy with, no clock of the processor tells.

use super::{Driver, ends::Cause};
use bulkhead_core::{Nanos, WorkerId};
use nix::{
    time::{ClockId, clock_gettime},
    unistd::Pid,
};
use std::time::Duration;

/// From one look to the next: what can be used between two is seen at the second.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Workers that are looked at each time; a look takes about a microsecond.
const LOOKS_MAX: usize = 256;
/// May be used at any time, nanoseconds: for what comes and goes between leases.
const ODDS_AND_ENDS_NS: Nanos = 200_000_000;
/// Of the time that passes, a worker may use one part in so many: for messages, and what is kept and has to go.
const PART: Nanos = 50;
/// Putting a pool of this size in place, or zeroing it, takes at most a nanosecond a byte.
const NS_PER_BYTE: Nanos = 1;

/// A worker's account.
#[derive(Debug)]
pub(super) struct Unleased {
    at: Nanos,
    used_ns: Nanos,
    credit_ns: Nanos,
    most_ns: Nanos,
}

impl Unleased {
    /// Of a worker that had used so much when it was assigned a pool of `quota_bytes`. One that keeps prompts' beginnings
    /// has to zero them at any time.
    pub(super) fn new(at: Nanos, used_ns: Nanos, quota_bytes: u64, keeps: bool) -> Self {
        let pool_ns = quota_bytes.saturating_mul(NS_PER_BYTE);
        let credit_ns = ODDS_AND_ENDS_NS.saturating_add(pool_ns);
        Unleased {
            at,
            used_ns,
            credit_ns,
            most_ns: if keeps { credit_ns } else { ODDS_AND_ENDS_NS },
        }
    }

    /// By now it has used so much, and had no lease since the last word. False where that is more than it may.
    fn passes(&mut self, at: Nanos, used_ns: Nanos) -> bool {
        let earned_ns = at.saturating_sub(self.at) / PART;
        // What it came with for its pool stays until it is used.
        let credit_ns = self
            .credit_ns
            .max(self.most_ns.min(self.credit_ns + earned_ns));
        let spent_ns = used_ns.saturating_sub(self.used_ns);
        self.resume(at, used_ns);
        self.credit_ns = credit_ns.saturating_sub(spent_ns);
        spent_ns <= credit_ns
    }

    /// What it used until now was under a lease.
    fn resume(&mut self, at: Nanos, used_ns: Nanos) {
        (self.at, self.used_ns) = (at, used_ns);
    }
}

impl Driver {
    /// A worker gets a lease now, or none yet: what it used since the last one.
    pub(super) fn check_unleased(&mut self, worker: WorkerId) {
        let now = self.setup.clock.now_ns();
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let pid = entry.pid;
        let Some(account) = entry.unleased.as_mut() else {
            return;
        };
        if processor_ns(pid).is_some_and(|used_ns| !account.passes(now, used_ns)) {
            self.kill_worker(worker, Cause::Unleased);
        }
    }

    /// A worker's lease is over.
    pub(super) fn begin_unleased(&mut self, worker: WorkerId) {
        let now = self.setup.clock.now_ns();
        if let Some(entry) = self.workers.get_mut(&worker)
            && let Some(account) = entry.unleased.as_mut()
            && let Some(used_ns) = processor_ns(entry.pid)
        {
            account.resume(now, used_ns);
        }
    }

    /// Looks at the next of those that have no lease: at all of them, where they are not very many.
    pub(super) fn look_at_unleased(&mut self) {
        if self.unlooked.is_empty() {
            self.unlooked.extend(self.workers.keys());
        }
        let rest = self.unlooked.len().saturating_sub(LOOKS_MAX);
        for worker in self.unlooked.split_off(rest) {
            let entry = self.workers.get(&worker);
            if entry.is_some_and(|entry| entry.lease.is_none()) {
                self.check_unleased(worker);
            }
        }
    }
}

/// Processor time that all threads of a process have used. None where the kernel does not say, or it is gone.
pub(super) fn processor_ns(pid: i32) -> Option<Nanos> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).ok()?;
    let time = clock_gettime(clock).ok()?;
    let seconds = u64::try_from(time.tv_sec()).ok()?;
    let rest = u64::try_from(time.tv_nsec()).ok()?;
    Some(seconds.saturating_mul(1_000_000_000).saturating_add(rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;
    const SECOND: Nanos = 1_000 * MS;

    #[test]
    fn odds_and_ends_pass_and_computing_does_not() {
        let mut account = Unleased::new(0, 0, 1 << 20, false);
        assert!(account.passes(SECOND, 200 * MS), "its pool");
        let mut used = 200 * MS;
        for second in 2..100 {
            used += 15 * MS;
            assert!(account.passes(second * SECOND, used), "{second}");
        }
        // Nothing is saved up beyond what odds and ends take.
        assert!(account.passes(10_000 * SECOND, used));
        assert!(!account.passes(10_001 * SECOND, used + 250 * MS));
    }

    #[test]
    fn what_was_used_under_a_lease_counts_for_nothing() {
        let mut account = Unleased::new(0, 0, 0, false);
        account.resume(SECOND, 900 * MS);
        assert!(account.passes(2 * SECOND, 1_000 * MS));
        account.resume(3 * SECOND, 1_900 * MS);
        assert!(!account.passes(3 * SECOND, 2_200 * MS));
    }

    #[test]
    fn a_process_is_seen_to_compute() {
        let own = i32::try_from(std::process::id()).unwrap();
        let before = processor_ns(own).expect("the kernel tells");
        let mut sum = 0_u64;
        while processor_ns(own).unwrap() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(processor_ns(own).unwrap() > before);
    }
}
