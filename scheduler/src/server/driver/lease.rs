//! The lease that a worker holds, and what of its lane time was no step.
//!
//! Times are of the scheduler's clock; a step's own length is its worker's word, and never more than what passed. Nothing
//! here is charged: it is for metrics.

use bulkhead_core::{LeaseId, Nanos};

/// A lease, and what was heard under it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub id: LeaseId,
    /// What its worker knows it by.
    pub number: u64,
    since: Nanos,
    /// When the last step was heard of.
    heard: Option<Nanos>,
    /// From its grant until the first step was heard of, without that step.
    there_ns: Nanos,
}

impl Lease {
    /// Granted now.
    pub(super) fn new(id: LeaseId, number: u64, now: Nanos) -> Lease {
        Lease {
            id,
            number,
            since: now,
            heard: None,
            there_ns: 0,
        }
    }

    /// A step is heard of, and its worker says that it took `step_ns`. Returns how long it can have taken at most, and what
    /// passed beside it since the step before; none where it is the first.
    pub(super) fn stepped(&mut self, now: Nanos, step_ns: Nanos) -> (Nanos, Option<Nanos>) {
        let before = self.heard.replace(now);
        let passed_ns = now.saturating_sub(before.unwrap_or(self.since));
        let step_ns = step_ns.min(passed_ns);
        let beside_ns = passed_ns - step_ns;
        match before {
            Some(_) => (step_ns, Some(beside_ns)),
            None => {
                self.there_ns = beside_ns;
                (step_ns, None)
            }
        }
    }

    /// It is over: the way to its first step, and from its last until now. None where it had no step.
    pub(super) fn dispatch_ns(&self, now: Nanos) -> Option<Nanos> {
        let back_ns = now.saturating_sub(self.heard?);
        Some(self.there_ns + back_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_there_and_back_and_what_lies_between_steps_are_told_apart() {
        let mut lease = Lease::new(LeaseId(1), 1, 100);
        assert_eq!(lease.dispatch_ns(130), None);
        assert_eq!(lease.stepped(160, 50), (50, None));
        assert_eq!(lease.stepped(240, 77), (77, Some(3)));
        assert_eq!(lease.dispatch_ns(245), Some(10 + 5));
    }

    #[test]
    fn a_step_is_no_longer_than_what_passed() {
        let mut lease = Lease::new(LeaseId(1), 1, 100);
        assert_eq!(lease.stepped(160, u64::MAX), (60, None));
        assert_eq!(lease.stepped(170, 11), (10, Some(0)));
        assert_eq!(lease.dispatch_ns(170), Some(0));
    }
}
