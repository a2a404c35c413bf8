//! How long to wait before a child that died is started again.

use std::time::Duration;

/// The first wait.
const FIRST: Duration = Duration::from_millis(50);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(2);
/// A child that lived this long had started well: the next wait is the first again.
const GOOD_LIFE: Duration = Duration::from_secs(10);

/// Doubles from 50 ms to 2 s over deaths in a row.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { next: FIRST }
    }
}

impl Backoff {
    /// A child died that had lived for `life`: how long to wait.
    pub fn after(&mut self, life: Duration) -> Duration {
        if life >= GOOD_LIFE {
            self.next = FIRST;
        }
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_the_longest_and_forgets_after_a_good_life() {
        let mut backoff = Backoff::default();
        let mut waits = || backoff.after(Duration::ZERO).as_millis();
        assert_eq!([waits(), waits(), waits()], [50, 100, 200]);
        assert_eq!((0..9).map(|_| waits()).last(), Some(2000));
        assert_eq!(backoff.after(GOOD_LIFE), FIRST);
    }
}
