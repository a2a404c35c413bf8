//! Predicted cost: lane time by tokens in, tokens out and steps, learnt for each tenant, model and device.
//!
//! A lease took so long and did so much: each of the three rates is moved by its part in the prediction, towards what
//! would have been right (multiplicative algebraic reconstruction: Gordon, Bender and Herman, 1970), a quarter of the
//! way. A lease counts for at most a factor of four, so that one odd lease moves little.
//!
//! Whether a deadline is too soon is asked of rates of their own, what tokens took in the leases that were best: one that
//! took less lowers them at once, and one that took more raises them slowly. So an agent's requests that take long hardly
//! have its siblings' refused.
//!
//! What is learnt from a tenant's workers is used for that tenant alone: a worker that lies about its tokens changes no
//! other tenant's order or hints. Predictions order a tenant's own agents, and size reservations and retry hints. The
//! bill among tenants is what the driver's clock measured, never this.

use std::collections::BTreeMap;

use crate::map::IdMap;
use crate::{DeviceId, ModelId, Nanos, TenantId};

/// Fixed point: a rate is in 2^-8 ns.
const SHIFT: u32 = 8;
/// Believed before the first lease: 100 µs for a token in, about a small model on a CPU; an output token counts twice, as
/// in VTC (OSDI 2024).
const PRIOR: Rates = Rates {
    token_in: 100_000 << SHIFT,
    token_out: 200_000 << SHIFT,
    step: 100_000 << SHIFT,
    steps: ONE,
    tokens: 16 * ONE,
    error: 0,
    least_in: 0,
    least_out: 0,
    leases: 0,
};
/// No rate is ever less, 1 ns: work that costs nothing would have no order.
const RATE_MIN: u64 = 1 << SHIFT;
/// Fixed point of ratios: 2^-16.
const ONE: u64 = 1 << 16;
/// A lease counts for at most this factor above or below what was predicted.
const FACTOR_MAX: u64 = 4;
/// A lease moves the rates by 1/4 of what would be right, and means by 1/8.
const RATE_WEIGHT: i128 = 4;
const MEAN_WEIGHT: i128 = 8;
/// After so many leases rates are known well enough to refuse by.
const LEASES_KNOWN: u64 = 32;
/// A lease raises these by 1/64 of the difference.
const RISE_WEIGHT: u64 = 64;

/// Whose rates, and where.
pub(crate) type Place = (TenantId, ModelId, DeviceId);

/// What a lease did, as its worker said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Work {
    pub tokens_in: u64,
    pub tokens_out: u64,
    /// Of those that had something to say: a pass of the model has one, in however many it is computed.
    pub steps: u64,
}

impl Work {
    pub(crate) fn is_none(&self) -> bool {
        self.tokens_in == 0 && self.tokens_out == 0
    }
}

/// What has been learnt so far. At most one entry for each queue and device.
#[derive(Debug, Default)]
pub(crate) struct CostBook {
    rates: IdMap<Place, Rates>,
}

#[derive(Clone, Copy, Debug)]
struct Rates {
    token_in: u64,
    token_out: u64,
    /// What a step costs whatever is in it.
    step: u64,
    /// Of the latest leases, as sums that fade: there are fewer steps than tokens where several share one.
    steps: u64,
    tokens: u64,
    /// Mean of how far predictions were off, of what it was, 2^-16.
    error: u64,
    /// What a token in and a token out take where it goes well, and of how many leases that was learnt.
    least_in: u64,
    least_out: u64,
    leases: u64,
}

impl CostBook {
    /// Lane time that a request of so many tokens is expected to take, among others as they were of late.
    pub(crate) fn predict(&self, at: Place, tokens_in: u64, tokens_out: u64) -> Nanos {
        let rates = self.rates.get(&at).unwrap_or(&PRIOR);
        let tokens = u128::from(tokens_in) + u128::from(tokens_out);
        // Divided last: a small request's part of a step is no less than a large one's.
        let of_steps = u128::from(rates.step)
            .saturating_mul(u128::from(rates.steps))
            .saturating_mul(tokens)
            / u128::from(rates.tokens.max(1));
        let scaled = (u128::from(rates.token_in) * u128::from(tokens_in))
            .saturating_add(u128::from(rates.token_out) * u128::from(tokens_out))
            .saturating_add(of_steps);
        nanos(scaled >> SHIFT)
    }

    /// What a request of so many tokens takes at the very least: a quarter of what they take where it goes well, as they were
    /// estimated, and less by twice as far as predictions were off of late. 0 where little is known.
    pub(crate) fn at_least(&self, at: Place, tokens_in: u64, tokens_out: u64) -> Nanos {
        let Some(rates) = self
            .rates
            .get(&at)
            .filter(|rates| rates.leases >= LEASES_KNOWN)
        else {
            return 0;
        };
        let sure = ONE.saturating_sub(rates.error.saturating_mul(2));
        let scaled = (u128::from(rates.least_in) * u128::from(tokens_in))
            .saturating_add(u128::from(rates.least_out) * u128::from(tokens_out));
        nanos((scaled >> SHIFT).saturating_mul(u128::from(sure)) / u128::from(4 * ONE))
    }

    /// Learns from one lease. One that did nothing teaches nothing.
    pub(crate) fn observe(&mut self, at: Place, work: Work, lane_ns: Nanos) {
        if work.is_none() || lane_ns == 0 {
            return;
        }
        let rates = self.rates.entry(at).or_insert(PRIOR);
        rates.learn_least(work, lane_ns);
        rates.learn(work, lane_ns);
    }

    /// How far predictions were off of late, in thousandths of what it was: for each model, as a mean over tenants and
    /// devices.
    pub(crate) fn errors_milli(&self) -> BTreeMap<ModelId, u64> {
        let mut sums = BTreeMap::<ModelId, (u64, u64)>::new();
        for ((_, model, _), rates) in &self.rates {
            let (sum, count) = sums.entry(*model).or_default();
            *sum += rates.error;
            *count += 1;
        }
        let mean = |(sum, count): (u64, u64)| sum / count.max(1) * 1000 / ONE;
        sums.into_iter()
            .map(|(of, sums)| (of, mean(sums)))
            .collect()
    }
}

impl Rates {
    /// How long a lease took, of what was predicted: 2^-16.
    fn ratio(&self, work: Work, lane_ns: Nanos) -> u128 {
        let predicted = u128::from(self.token_in) * u128::from(work.tokens_in)
            + u128::from(self.token_out) * u128::from(work.tokens_out)
            + u128::from(self.step) * u128::from(work.steps);
        let truth = u128::from(lane_ns) << SHIFT;
        truth.saturating_mul(u128::from(ONE)) / predicted.max(1)
    }

    fn learn_least(&mut self, work: Work, lane_ns: Nanos) {
        let ratio = self.ratio(work, lane_ns);
        let took = |rate: u64| u128::from(rate).saturating_mul(ratio) / u128::from(ONE);
        let (took_in, took_out) = (took(self.token_in), took(self.token_out));
        if work.tokens_in > 0 {
            self.least_in = best(self.least_in, took_in);
        }
        if work.tokens_out > 0 {
            self.least_out = best(self.least_out, took_out);
        }
        self.leases += 1;
    }

    fn learn(&mut self, work: Work, lane_ns: Nanos) {
        let terms = [
            (&mut self.token_in, work.tokens_in),
            (&mut self.token_out, work.tokens_out),
            (&mut self.step, work.steps),
        ];
        let parts = terms.map(|(rate, count)| {
            let part = u128::from(*rate) * u128::from(count);
            (rate, part)
        });
        let predicted = parts.iter().map(|(_, part)| *part).sum::<u128>().max(1);
        let truth = u128::from(lane_ns) << SHIFT;
        let one = u128::from(ONE);
        let most = u128::from(ONE * FACTOR_MAX);
        let least = u128::from(ONE / FACTOR_MAX);
        let ratio = (truth.saturating_mul(one) / predicted).clamp(least, most) as i128;
        for (rate, part) in parts {
            let share = (part.saturating_mul(one) / predicted) as i128;
            let by = i128::from(*rate) * (ratio - one as i128) * share;
            let by = by / (RATE_WEIGHT << 32);
            *rate = narrow(i128::from(*rate) + by).max(RATE_MIN);
        }
        let off = truth.abs_diff(predicted).saturating_mul(one) / truth;
        self.error = drawn_to(self.error, off.min(most));
        let tokens = work.tokens_in.saturating_add(work.tokens_out);
        self.tokens = faded(self.tokens).saturating_add(tokens.saturating_mul(ONE));
        self.steps = faded(self.steps).saturating_add(work.steps.saturating_mul(ONE));
    }
}

/// The best of values that come: down at once, up slowly.
fn best(least: u64, value: u128) -> u64 {
    let value = u64::try_from(value).unwrap_or(u64::MAX);
    match value.checked_sub(least) {
        Some(more) => least + more / RISE_WEIGHT,
        None => value,
    }
}

/// A sum without its oldest part.
fn faded(sum: u64) -> u64 {
    sum - sum / MEAN_WEIGHT as u64
}

/// A mean that follows its latest values.
fn drawn_to(mean: u64, value: u128) -> u64 {
    let mean = i128::from(mean);
    narrow(mean + (value as i128 - mean) / MEAN_WEIGHT)
}

fn narrow(value: i128) -> u64 {
    u64::try_from(value.max(0)).unwrap_or(u64::MAX)
}

fn nanos(value: u128) -> Nanos {
    Nanos::try_from(value).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Place = (TenantId(1), ModelId(1), DeviceId(1));

    fn work(tokens_in: u64, tokens_out: u64, steps: u64) -> Work {
        Work {
            tokens_in,
            tokens_out,
            steps,
        }
    }

    /// Leases of an engine with these rates, in µs, of several mixes of work.
    fn taught(token_in: u64, token_out: u64, step: u64) -> CostBook {
        let mut book = CostBook::default();
        let mut draw = 1_u64;
        for _ in 0..4_000 {
            draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let (a, b, c) = ((draw >> 33) % 400, (draw >> 43) % 60, (draw >> 53) % 60);
            let work = work(a, b, c + 1);
            let us = a * token_in + b * token_out + (c + 1) * step;
            book.observe(AT, work, us * 1000);
        }
        book
    }

    #[test]
    fn finds_what_a_token_in_a_token_out_and_a_step_cost() {
        for (token_in, token_out, step) in [(200, 800, 16_000), (50, 9_000, 1_000), (9, 9, 9)] {
            let rates = taught(token_in, token_out, step).rates[&AT];
            for (found, us) in [
                (rates.token_in, token_in),
                (rates.token_out, token_out),
                (rates.step, step),
            ] {
                let truth = (us * 1000) << SHIFT;
                assert!(found.abs_diff(truth) < truth / 10, "{found} of {truth}");
            }
            assert!(rates.error < ONE / 20, "{}", rates.error);
        }
    }

    #[test]
    fn an_outlier_moves_little_and_nothing_overflows() {
        let mut book = taught(200, 800, 16_000);
        let settled = book.predict(AT, 100, 10);
        book.observe(AT, work(1, 0, 1), u64::MAX);
        assert!(book.predict(AT, 100, 10) < 2 * settled);
        book.observe(AT, work(0, 0, 0), 7);
        book.observe(AT, work(u64::MAX, u64::MAX, u64::MAX), u64::MAX);
        assert_eq!(book.predict(AT, u64::MAX, u64::MAX), Nanos::MAX);
    }

    /// Fails where a rate can fall to nothing, or cannot rise again.
    #[test]
    fn lies_about_tokens_are_forgotten_and_reach_nobody_else() {
        let mut book = taught(200, 800, 16_000);
        let (honest, other) = (book.predict(AT, 100, 10), (TenantId(2), AT.1, AT.2));
        let before = book.predict(other, 100, 10);
        for _ in 0..1_000 {
            book.observe(AT, work(u64::from(u32::MAX), 0, 1), 1);
        }
        assert_eq!(book.predict(other, 100, 10), before);
        assert!(book.predict(AT, 1, 0) > 0);
        for _ in 0..300 {
            book.observe(AT, work(100, 10, 10), honest);
        }
        let after = book.predict(AT, 100, 10);
        assert!(
            honest / 2 < after && after < honest * 2,
            "{after} of {honest}"
        );
    }
}
