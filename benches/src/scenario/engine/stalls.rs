//! How often this machine takes a processor away from a thread that only reads the clock.

use crate::{Figure, bare::STEP_LIMIT_NS};
use std::time::{Duration, Instant};

/// How long it is watched at a time.
const WATCHED: Duration = Duration::from_secs(10);
/// What a step leaves free of its limit at least: a shorter stall makes none too long. Nanoseconds.
const STALL_NS: u64 = STEP_LIMIT_NS / 10;

/// What was seen.
#[derive(Debug, Default)]
pub struct Stalls {
    count: usize,
    longest: Duration,
    watched: Duration,
}

impl Stalls {
    /// Watches, on as many threads as steps are computed on. A stall of any of them is one.
    pub fn watch(threads: usize) -> Stalls {
        let watching: Vec<_> = (0..threads).map(|_| std::thread::spawn(watch)).collect();
        let mut all = Stalls::default();
        for thread in watching {
            let seen = thread.join().unwrap_or_default();
            all.count += seen.count;
            all.longest = all.longest.max(seen.longest);
        }
        all.watched = WATCHED;
        all
    }

    /// Takes what was seen at another time.
    pub fn add(&mut self, other: Stalls) {
        self.count += other.count;
        self.longest = self.longest.max(other.longest);
        self.watched += other.watched;
    }

    /// How often, and the longest.
    pub fn figures(&self) -> [Figure; 2] {
        let minutes = self.watched.as_secs_f64() / 60.0;
        let how = format!(
            "of over {} ms, while threads only read the clock, before and after",
            STALL_NS as f64 / 1e6
        );
        [
            Figure::lower(
                "steps/machine_stalls_per_minute",
                self.count as f64 / minutes,
                "1/min",
                how.clone(),
            ),
            Figure::lower(
                "steps/machine_stall_longest_ms",
                self.longest.as_secs_f64() * 1e3,
                "ms",
                how,
            ),
        ]
    }
}

fn watch() -> Stalls {
    let began = Instant::now();
    let (mut seen, mut last) = (Stalls::default(), began);
    while last - began < WATCHED {
        let now = Instant::now();
        let stalled = now - last;
        if stalled > Duration::from_nanos(STALL_NS) {
            seen.count += 1;
            seen.longest = seen.longest.max(stalled);
        }
        last = now;
    }
    seen
}
