//! How long a turn is while others wait: so long that changing hands is cheap, and no longer.
//!
//! Each change costs lane time: the way to the first step with all that has to be brought for it, and the way back. Many short
//! turns pay that often, long ones keep others waiting. So a turn lasts until its own change is a set part of it
//! (`Limits::switch_percent`), and never longer than the quantum, with which all bounds are stated (`bounds`).
//!
//! What a change takes is learnt for each worker, from its leases; one that was asked back before its first step was all
//! change. Times are of the scheduler's clock; how long a step took is
//! the worker's word, and never more than what passed. Nothing here is charged, and a worker that lies has longer or shorter
//! turns itself, within these bounds, and its tenant pays for each change. Workers of one tenant take turns, so that among those
//! longer ones are more: the tenant's own affair.

use crate::{Limits, Nanos};

/// No turn is asked back sooner, however little its worker says that a change takes.
const TURN_NS_MIN: Nanos = 1_000_000;
/// A lease moves the mean by an eighth of the difference.
const MEAN_WEIGHT: u64 = 8;

/// What was heard under a lease, and what of its time was no step.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    since: Nanos,
    /// When the last step was heard of.
    heard: Option<Nanos>,
    /// From the grant until the first step was heard of, without that step.
    there_ns: Nanos,
}

impl LeaseTimes {
    /// Of a lease that is granted now.
    pub fn new(now: Nanos) -> Self {
        LeaseTimes {
            since: now,
            heard: None,
            there_ns: 0,
        }
    }

    /// A step is heard of, and its worker says that it took `step_ns`. Returns how long it can have taken at most, and what
    /// passed beside it since the step before; none where it is the first.
    pub fn stepped(&mut self, now: Nanos, step_ns: Nanos) -> (Nanos, Option<Nanos>) {
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
    pub fn switch_ns(&self, now: Nanos) -> Option<Nanos> {
        let back_ns = now.saturating_sub(self.heard?);
        Some(self.there_ns.saturating_add(back_ns))
    }
}

/// What a change to a worker, and away from it, takes: the mean of its latest leases; none before the first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Switch(Option<Nanos>);

impl Switch {
    pub(crate) fn learn(&mut self, took_ns: Nanos) {
        let mean = self.0.unwrap_or(took_ns);
        let parts = u128::from(mean) * u128::from(MEAN_WEIGHT - 1) + u128::from(took_ns);
        self.0 = Nanos::try_from(parts / u128::from(MEAN_WEIGHT)).ok();
    }

    /// How long its turns are. A whole quantum where nothing is known, or where they are not to be shortened.
    pub(crate) fn turn_ns(self, limits: &Limits) -> Nanos {
        let percent = u64::from(limits.switch_percent);
        match self.0 {
            Some(mean) if percent > 0 => (mean.saturating_mul(100) / percent)
                .max(TURN_NS_MIN)
                .min(limits.quantum_ns),
            _ => limits.quantum_ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_there_and_back_and_what_lies_between_steps_are_told_apart() {
        let mut times = LeaseTimes::new(100);
        assert_eq!(times.switch_ns(130), None);
        assert_eq!(times.stepped(160, 50), (50, None));
        assert_eq!(times.stepped(240, 77), (77, Some(3)));
        assert_eq!(times.switch_ns(245), Some(10 + 5));
    }

    #[test]
    fn a_step_is_no_longer_than_what_passed() {
        let mut times = LeaseTimes::new(100);
        assert_eq!(times.stepped(160, u64::MAX), (60, None));
        assert_eq!(times.stepped(170, 11), (10, Some(0)));
        assert_eq!(times.switch_ns(170), Some(0));
    }

    #[test]
    fn the_mean_follows_and_nothing_overflows() {
        let mut switch = Switch::default();
        switch.learn(800);
        switch.learn(1_600);
        assert_eq!(switch.0, Some(900));
        for _ in 0..100 {
            switch.learn(u64::MAX);
        }
        assert!(switch.0.is_some_and(|mean| mean > u64::MAX / 2));
    }
}
