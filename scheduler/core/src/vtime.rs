//! Virtual time: lane time divided by weight, in scaled integers.
//!
//! One unit is 2^-32 ns of lane time at weight 1, so that one nanosecond still counts at the
//! greatest weight, and 128 bits outlast any process (2^96 ns). Each conversion rounds down by less
//! than one unit. No floats: two runs of the same events end in the same bits.

use crate::Nanos;

/// A point in, or a span of, virtual time.
pub type VTime = u128;

const SHIFT: u32 = 32;

/// The virtual time that `lane_ns` of lane time takes at `weight`.
pub(crate) fn from_lane(lane_ns: Nanos, weight: u32) -> VTime {
    let weight = u64::from(weight.max(1));
    // What is left of the first division is less than 2^32, so 64 bits are enough for both: they divide much faster.
    let (whole, left) = (lane_ns / weight, lane_ns % weight);
    (u128::from(whole) << SHIFT) + u128::from((left << SHIFT) / weight)
}

/// The lane time after which a tenant of `weight` has moved by `span`, rounded up.
pub(crate) fn to_lane(span: VTime, weight: u32) -> Nanos {
    let scaled = span.saturating_mul(u128::from(weight.max(1)));
    let ns = (scaled >> SHIFT) + u128::from(scaled & ((1 << SHIFT) - 1) != 0);
    Nanos::try_from(ns).unwrap_or(Nanos::MAX)
}

/// How long it takes a tenant to catch up with another that is ahead of it by `span`. Each is given as the lanes that it has and its
/// weight: both move on. `Nanos::MAX` where it never does.
pub(crate) fn closes_in(span: VTime, runs: (u32, u32), ahead: (u32, u32)) -> Nanos {
    if span == 0 {
        return 0;
    }
    let (weight, ahead_weight) = (u128::from(runs.1.max(1)), u128::from(ahead.1.max(1)));
    let faster = u128::from(runs.0) * ahead_weight;
    match faster.checked_sub(u128::from(ahead.0) * weight) {
        None | Some(0) => Nanos::MAX,
        Some(rate) => to_lane(span.saturating_mul(ahead_weight).div_ceil(rate), runs.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails where one lane is reckoned with, or only who runs moves on: it would be asked as far ahead as it was behind, or all along.
    #[test]
    fn who_catches_up_is_as_much_faster_as_it_has_more_lanes() {
        let second = from_lane(1_000, 1);
        let close = |runs, ahead| closes_in(second, runs, ahead);
        assert_eq!(close((1, 1), (0, 1)), 1_000);
        assert_eq!(close((2, 1), (0, 1)), 500);
        assert_eq!(close((1, 4), (0, 9)), 4_000);
        // Two lanes at weight 2 are as fast as one at 1.
        assert_eq!(close((2, 2), (1, 1)), Nanos::MAX);
        assert_eq!(close((2, 1), (1, 1)), 1_000);
        assert_eq!(close((3, 1), (1, 2)), 400);
        assert_eq!(close((1, 8), (1, 1)), Nanos::MAX);
        assert_eq!(closes_in(0, (1, 1), (3, 1)), 0);
    }

    #[test]
    fn small_amounts_count_at_the_greatest_weight() {
        assert!(from_lane(1, u32::MAX) > 0);
        assert_eq!(to_lane(from_lane(1, u32::MAX), u32::MAX), 1);
    }

    #[test]
    fn dividing_in_two_steps_loses_nothing() {
        for ns in [0, 1, 6, u64::from(u32::MAX), 1_000_000_007, u64::MAX] {
            for weight in [0, 1, 2, 7, 1_000, u32::MAX - 1, u32::MAX] {
                let whole = (u128::from(ns) << SHIFT) / u128::from(weight.max(1));
                assert_eq!(from_lane(ns, weight), whole, "{ns} at {weight}");
            }
        }
    }

    #[test]
    fn round_trips_within_one_nanosecond() {
        for (ns, weight) in [(1, 1), (7, 3), (1_000_000_007, 10), (u64::MAX / 2, 1000)] {
            let back = to_lane(from_lane(ns, weight), weight);
            assert!(
                back == ns || back + 1 == ns,
                "{ns} at {weight} came back as {back}"
            );
        }
    }
}
