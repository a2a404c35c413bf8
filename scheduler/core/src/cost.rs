//! Predicted cost: lane time per token, learnt for each model and device.
//!
//! An exponentially weighted mean over leases, each sample held within a factor of what was
//! believed before, so that one odd lease (or a lying worker) moves it little. Predictions size
//! reservations and retry hints. The bill is what the driver's clock measured, never this.

use std::collections::BTreeMap;

use crate::{DeviceId, ModelId, Nanos};

/// Believed until the first lease has been measured: 100 µs a token, about a small model on a CPU.
const PRIOR_NS_PER_TOKEN: u64 = 100_000;
/// Fixed point: a rate is in 2^-8 ns per token.
const SHIFT: u32 = 8;
/// One sample weighs 1/8.
const WEIGHT_SHIFT: u32 = 3;
/// One sample counts for at most this factor above or below what was believed.
const STEP_FACTOR: u64 = 4;

/// What has been learnt so far. As many entries as there are pairs of model and device in use.
#[derive(Debug, Default)]
pub(crate) struct CostBook {
    rates: BTreeMap<(ModelId, DeviceId), u64>,
}

impl CostBook {
    /// Lane time that `tokens`, in and out together, are expected to take.
    pub(crate) fn predict(&self, model: ModelId, device: DeviceId, tokens: u64) -> Nanos {
        let prior = PRIOR_NS_PER_TOKEN << SHIFT;
        let rate = self.rates.get(&(model, device)).copied().unwrap_or(prior);
        let ns = (u128::from(rate) * u128::from(tokens)) >> SHIFT;
        Nanos::try_from(ns).unwrap_or(Nanos::MAX)
    }

    /// Learns from one lease that did `tokens` in `lane_ns`. Leases that did nothing teach nothing.
    pub(crate) fn observe(
        &mut self,
        model: ModelId,
        device: DeviceId,
        tokens: u64,
        lane_ns: Nanos,
    ) {
        if tokens == 0 || lane_ns == 0 {
            return;
        }
        let sample = (u128::from(lane_ns) << SHIFT) / u128::from(tokens);
        let sample = u64::try_from(sample).unwrap_or(u64::MAX).max(1);
        let rate = self.rates.entry((model, device)).or_insert(sample);
        let held = sample.clamp(*rate / STEP_FACTOR, rate.saturating_mul(STEP_FACTOR));
        *rate = (*rate - (*rate >> WEIGHT_SHIFT))
            .saturating_add(held >> WEIGHT_SHIFT)
            .max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (ModelId, DeviceId) = (ModelId(1), DeviceId(1));

    #[test]
    fn settles_on_the_true_rate_and_shrugs_off_an_outlier() {
        let mut book = CostBook::default();
        assert_eq!(book.predict(AT.0, AT.1, 10), 10 * PRIOR_NS_PER_TOKEN);
        for _ in 0..64 {
            book.observe(AT.0, AT.1, 100, 5_000_000);
        }
        let settled = book.predict(AT.0, AT.1, 1);
        assert!((49_900..=50_100).contains(&settled), "{settled}");
        book.observe(AT.0, AT.1, 1, u64::MAX);
        assert!(book.predict(AT.0, AT.1, 1) < 2 * settled);
        book.observe(AT.0, AT.1, 0, 7);
        assert!(book.predict(AT.0, AT.1, u64::MAX) == Nanos::MAX);
    }
}
