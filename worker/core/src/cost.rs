//! How long a step takes, learned from the steps before.
//!
//! A step costs a fixed part (the weights are read once) and a part per unit of work (a token, or a
//! token through one layer). Both are fitted by least squares over exponentially weighted means, so
//! that a change of clock speed or of neighbours is followed within some dozen steps. A single wild
//! reading (the process was descheduled) is clipped, so that it cannot shrink the next steps to nothing.

/// Weight of the newest reading in every mean.
const NEWEST: f64 = 1.0 / 16.0;

/// A reading counts as at most this many times what was predicted.
const CLIP: f64 = 4.0;

/// Least spread of the sizes seen (variance over squared mean) from which a slope is believed.
const SPREAD_MIN: f64 = 0.02;

/// Share of a limit that is planned for; the rest absorbs what the prediction misses.
const MARGIN: f64 = 0.85;

/// The learned cost of a step.
#[derive(Clone, Debug)]
pub struct StepCost {
    units: f64,
    ns: f64,
    units_squared: f64,
    units_ns: f64,
    fixed_ns: f64,
    unit_ns: f64,
}

impl StepCost {
    /// Starts from one reading: `ns` for a step of `units`.
    pub fn new(units: u64, ns: u64) -> Self {
        let (units, ns) = (units.max(1) as f64, ns.max(1) as f64);
        StepCost {
            units,
            ns,
            units_squared: units * units,
            units_ns: units * ns,
            fixed_ns: 0.0,
            unit_ns: ns / units,
        }
    }

    /// Learns that a step of `units` took `ns`.
    pub fn observe(&mut self, units: u64, ns: u64) {
        if units == 0 {
            return;
        }
        let units = units as f64;
        let expected = self.fixed_ns + self.unit_ns * units;
        let ns = (ns.max(1) as f64).min(expected * CLIP);
        let follow = |mean: &mut f64, reading: f64| *mean += (reading - *mean) * NEWEST;
        follow(&mut self.units, units);
        follow(&mut self.ns, ns);
        follow(&mut self.units_squared, units * units);
        follow(&mut self.units_ns, units * ns);
        self.fit();
    }

    fn fit(&mut self) {
        let proportional = self.ns / self.units;
        let variance = self.units_squared - self.units * self.units;
        if variance > SPREAD_MIN * self.units * self.units {
            let slope = (self.units_ns - self.units * self.ns) / variance;
            // Between a tenth of the proportional cost and all of it: anything else is noise.
            self.unit_ns = slope.clamp(proportional / 10.0, proportional);
        } else {
            self.unit_ns = self.unit_ns.clamp(proportional / 10.0, proportional);
        }
        self.fixed_ns = (self.ns - self.unit_ns * self.units).max(0.0);
    }

    /// What a step of `units` is expected to take, nanoseconds.
    pub fn predict_ns(&self, units: u64) -> u64 {
        (self.fixed_ns + self.unit_ns * units as f64) as u64
    }

    /// The most units that are expected to stay within `limit_ns`; at least one, since a step that
    /// does nothing would never end a job.
    pub fn units_within(&self, limit_ns: u64) -> u64 {
        let room = limit_ns as f64 * MARGIN - self.fixed_ns;
        (room / self.unit_ns).max(1.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_fixed_part_is_told_from_a_part_per_unit() {
        let mut cost = StepCost::new(10, 10_000);
        for step in 0..400u64 {
            let units = 1 + step % 32;
            cost.observe(units, 5_000 + 300 * units);
        }
        let fits = cost.units_within(25_000);
        assert!((50..=62).contains(&fits), "{fits} units");
    }

    #[test]
    fn one_wild_reading_does_not_stop_the_work() {
        let mut cost = StepCost::new(100, 100_000);
        for _ in 0..50 {
            cost.observe(100, 100_000);
        }
        let before = cost.units_within(1_000_000);
        cost.observe(100, u64::MAX);
        assert!(cost.units_within(1_000_000) * 2 > before);
    }

    proptest! {
        #[test]
        fn a_plan_stays_within_the_limit_once_the_cost_is_known(
            fixed in 0u64..5_000_000, unit in 100u64..2_000_000, limit in 10_000_000u64..50_000_000,
        ) {
            let mut cost = StepCost::new(1, 1_000_000);
            for _ in 0..300 {
                let units = cost.units_within(limit);
                cost.observe(units, fixed + unit * units);
                cost.observe(1, fixed + unit);
            }
            let units = cost.units_within(limit);
            prop_assert!(units == 1 || fixed + unit * units <= limit);
        }

        #[test]
        fn any_readings_leave_a_usable_plan(
            readings in proptest::collection::vec((any::<u64>(), any::<u64>()), 0..50),
        ) {
            let mut cost = StepCost::new(1, 1);
            for (units, ns) in readings {
                cost.observe(units, ns);
                prop_assert!(cost.units_within(25_000_000) >= 1);
            }
        }
    }
}
