//! How long something that keeps failing waits before it is tried again.
//!
//! Exponential with a cap, and with "equal jitter" (Brooker, "Exponential Backoff And Jitter", AWS
//! Architecture Blog, 2015): what failed together does not come back together. Time, pace and seed are
//! arguments; nothing here reads a clock, draws a number, or knows what it is that failed.

use crate::Nanos;

/// How fast waits grow, and what makes them short again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The first wait.
    pub first_ns: Nanos,
    /// The longest wait.
    pub longest_ns: Nanos,
    /// What served for this long had started well: the next wait is the first again.
    pub good_life_ns: Nanos,
}

/// The failures in a row of one thing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Failures since the last good life.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// It ended in good order after it had served for `life_ns`.
    pub fn ended(&mut self, pace: &Pace, life_ns: Nanos) {
        if life_ns >= pace.good_life_ns {
            self.failures = 0;
        }
    }

    /// It failed after it had served for `life_ns`, 0 where it never did: how long to wait now. The
    /// wait doubles with each failure in a row, up to the longest. With a seed it lies between half of
    /// that and all of it, and the same seed gives the same waits.
    pub fn failed(&mut self, pace: &Pace, life_ns: Nanos, seed: Option<u64>) -> Nanos {
        self.ended(pace, life_ns);
        let doubled = pace
            .first_ns
            .saturating_mul(1 << self.failures.min(u64::BITS - 1));
        let step = doubled.min(pace.longest_ns);
        self.failures = self.failures.saturating_add(1);
        let spread = step / 2;
        match seed {
            None => step,
            Some(seed) => {
                let drawn = mix(seed.wrapping_add(u64::from(self.failures)));
                step - spread + drawn % (spread + 1)
            }
        }
    }
}

/// A number that looks drawn: SplitMix64's finaliser (Steele, Lea, Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        first_ns: 50,
        longest_ns: 2_000,
        good_life_ns: 10_000,
    };

    #[test]
    fn it_doubles_to_the_longest_and_forgets_after_a_good_life() {
        let mut backoff = Backoff::default();
        let mut wait = || backoff.failed(&PACE, 0, None);
        assert_eq!([wait(), wait(), wait()], [50, 100, 200]);
        assert_eq!((0..200).map(|_| wait()).last(), Some(2_000));
        assert_eq!(backoff.failed(&PACE, 9_999, None), 2_000);
        assert_eq!(backoff.failed(&PACE, 10_000, None), 50);
        backoff.ended(&PACE, 10_000);
        assert_eq!(backoff.failures(), 0);
    }

    #[test]
    fn a_seed_spreads_waits_over_the_upper_half_of_the_step() {
        let mut waits: Vec<Nanos> = (0..100)
            .map(|seed| Backoff::default().failed(&PACE, 0, Some(seed)))
            .collect();
        let again = Backoff::default().failed(&PACE, 0, Some(0));
        assert_eq!(waits[0], again, "from the seed alone");
        waits.sort_unstable();
        assert!((25..=30).contains(&waits[0]) && (45..=50).contains(&waits[99]));
        waits.dedup();
        assert!(waits.len() > 15, "{waits:?}");
    }
}
