//! How long to wait before a child that died is started again: the core's rule, for each kind of child.

use bulkhead_core::{Backoff as Failures, Pace};
use std::time::Duration;

/// The scheduler and the audit process. There is one of each, so nothing is to be spread, and all wait
/// for it.
const OURS: Pace = Pace {
    first_ns: 50_000_000,
    longest_ns: 2_000_000_000,
    good_life_ns: 10_000_000_000,
};
/// Templates: what keeps one from loading may use much of the machine each time.
const TEMPLATES: Pace = Pace {
    first_ns: 100_000_000,
    longest_ns: 30_000_000_000,
    good_life_ns: 10_000_000_000,
};

/// The failures in a row of one child.
#[derive(Debug)]
pub struct Backoff {
    failures: Failures,
    pace: &'static Pace,
    seed: Option<u64>,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            failures: Failures::default(),
            pace: &OURS,
            seed: None,
        }
    }
}

impl Backoff {
    /// Of a template; `seed` spreads those of several models.
    pub fn of_template(seed: u64) -> Backoff {
        Backoff {
            failures: Failures::default(),
            pace: &TEMPLATES,
            seed: Some(seed),
        }
    }

    /// Failures in a row.
    pub fn failures(&self) -> u32 {
        self.failures.failures()
    }

    /// A child died that had lived for `life`: how long to wait.
    pub fn after(&mut self, life: Duration) -> Duration {
        let wait = self.failures.failed(self.pace, ns(life), self.seed);
        Duration::from_nanos(wait)
    }

    /// A child was ended in good order that had lived for `life`.
    pub fn ended(&mut self, life: Duration) {
        self.failures.ended(self.pace, ns(life));
    }
}

fn ns(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_ours_wait_alike_and_forget_after_a_good_life() {
        let mut backoff = Backoff::default();
        let mut waits = || backoff.after(Duration::ZERO).as_millis();
        assert_eq!([waits(), waits(), waits()], [50, 100, 200]);
        assert_eq!((0..9).map(|_| waits()).last(), Some(2000));
        let good = Duration::from_secs(10);
        assert_eq!(backoff.after(good).as_millis(), 50);
    }

    #[test]
    fn templates_of_several_models_come_back_at_different_times() {
        let wait = |seed| Backoff::of_template(seed).after(Duration::ZERO);
        assert_ne!(wait(1), wait(2));
        assert!(wait(1) <= Duration::from_millis(100));
    }
}
