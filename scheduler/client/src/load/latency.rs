//! Percentiles of measured latencies.

use serde::Serialize;
use std::time::Duration;

/// What a series of latencies comes to, milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    pub requests: usize,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    /// Of any number of samples, in any order.
    pub fn of(mut samples: Vec<Duration>) -> Latency {
        samples.sort_unstable();
        Latency {
            requests: samples.len(),
            p50_ms: ms(percentile(&samples, 50)),
            p99_ms: ms(percentile(&samples, 99)),
            max_ms: ms(percentile(&samples, 100)),
        }
    }
}

/// The nearest rank: the least sample that at least `percent` of all do not exceed. An interpolated
/// value would be one that nobody waited.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// Milliseconds with their fraction.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: impl IntoIterator<Item = u64>) -> Latency {
        Latency::of(values.into_iter().map(Duration::from_millis).collect())
    }

    #[test]
    fn percentiles_are_samples_at_their_rank() {
        let hundred = of((1..=100).rev());
        assert_eq!(
            (hundred.p50_ms, hundred.p99_ms, hundred.max_ms),
            (50.0, 99.0, 100.0)
        );
        let few = of([3, 1, 2]);
        assert_eq!((few.p50_ms, few.p99_ms), (2.0, 3.0));
    }

    #[test]
    fn the_ninety_ninth_of_two_hundred_leaves_two_above_it() {
        let all = of(1..=200);
        assert_eq!((all.p50_ms, all.p99_ms, all.max_ms), (100.0, 198.0, 200.0));
    }

    #[test]
    fn one_sample_is_all_percentiles_and_none_is_zero() {
        assert_eq!(of([7]).p50_ms, 7.0);
        assert_eq!(of([7]).p99_ms, 7.0);
        assert_eq!(of([]), Latency::default());
    }
}
