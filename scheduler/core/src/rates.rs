//! Limits by time: requests and tokens that a tenant, and each of its agents, may have a minute. Never a share of anything:
//! who is below its limit has no right to a lane for that.
//!
//! A bucket for each (a leaky bucket as a meter, ITU-T I.371): it leaks at the limit, and holds one minute's worth, which is
//! how much may come at once after a quiet minute. A request takes what it could become when it is accepted, and gives
//! back what it did not when it ends: so requests that run at the same time cannot slip past together.
//!
//! Exact in integers: a level is in units of 1 ÷ a minute's nanoseconds, of which a limit leaks that many a nanosecond.

use std::collections::{BTreeMap, BTreeSet};

use crate::{AgentId, Bound, Nanos};

const MINUTE_NS: u128 = 60_000_000_000;

/// What may be had in a minute; 0 stands for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    pub requests: u32,
    /// In and out together.
    pub tokens: u64,
}

impl Rate {
    fn is_none(&self) -> bool {
        *self == Rate::default()
    }
}

/// Why a request cannot be taken now, and when it could.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooFast {
    pub bound: Bound,
    /// `None`: never, as it is larger than a whole minute's worth.
    pub retry_after_ns: Option<Nanos>,
}

/// The meters of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    tenant: Meter,
    agents: BTreeMap<AgentId, Meter>,
    /// When each of those will have leaked empty, and can be forgotten.
    empty: BTreeSet<(Nanos, AgentId)>,
}

impl Meters {
    /// Whether a request of so many tokens, at most, may come now.
    pub(crate) fn check(
        &self,
        (tenant, each): (Rate, Rate),
        agent: AgentId,
        tokens: u64,
        now: Nanos,
    ) -> Result<(), TooFast> {
        let too_fast = |bound| {
            move |retry_after_ns| TooFast {
                bound,
                retry_after_ns,
            }
        };
        let own = self.agents.get(&agent).copied().unwrap_or_default();
        own.check(each, tokens, now)
            .map_err(too_fast(Bound::AgentRate))?;
        (self.tenant.check(tenant, tokens, now)).map_err(too_fast(Bound::TenantRate))
    }

    /// Takes it.
    pub(crate) fn take(
        &mut self,
        (tenant, each): (Rate, Rate),
        agent: AgentId,
        tokens: u64,
        now: Nanos,
    ) {
        self.tenant.change(tenant, now, 1, tokens as i128);
        if !each.is_none() {
            self.change_agent(each, agent, now, 1, tokens as i128);
        }
        self.forget(now);
    }

    /// Gives back tokens that a request did not become.
    pub(crate) fn give_back(
        &mut self,
        (tenant, each): (Rate, Rate),
        agent: AgentId,
        tokens: u64,
        now: Nanos,
    ) {
        self.tenant.change(tenant, now, 0, -(tokens as i128));
        if self.agents.contains_key(&agent) {
            self.change_agent(each, agent, now, 0, -(tokens as i128));
        }
    }

    fn change_agent(
        &mut self,
        each: Rate,
        agent: AgentId,
        now: Nanos,
        requests: u32,
        tokens: i128,
    ) {
        let meter = self.agents.entry(agent).or_default();
        self.empty.remove(&(meter.empty_at, agent));
        meter.change(each, now, requests, tokens);
        self.empty.insert((meter.empty_at, agent));
    }

    /// Agents whose meters are empty look like new ones.
    fn forget(&mut self, now: Nanos) {
        while let Some(&(at, agent)) = self.empty.first()
            && at <= now
        {
            self.empty.pop_first();
            self.agents.remove(&agent);
        }
    }
}

/// What came of late, less what has leaked.
#[derive(Clone, Copy, Debug, Default)]
struct Meter {
    at: Nanos,
    requests: u128,
    tokens: u128,
    empty_at: Nanos,
}

impl Meter {
    fn check(&self, rate: Rate, tokens: u64, now: Nanos) -> Result<(), Option<Nanos>> {
        let passed = now.saturating_sub(self.at);
        let requests = fits(
            leaked(self.requests, rate.requests.into(), passed),
            rate.requests.into(),
            1,
        );
        requests.and(fits(
            leaked(self.tokens, rate.tokens, passed),
            rate.tokens,
            tokens,
        ))
    }

    fn change(&mut self, rate: Rate, now: Nanos, requests: u32, tokens: i128) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        let requests_max = u64::from(rate.requests);
        let come = i128::from(requests) * MINUTE_NS as i128;
        let change = tokens.saturating_mul(MINUTE_NS as i128);
        self.requests = changed(self.requests, requests_max, passed, come);
        self.tokens = changed(self.tokens, rate.tokens, passed, change);
        let empty_in =
            time(self.requests, rate.requests.into()).max(time(self.tokens, rate.tokens));
        self.empty_at = self.at.saturating_add(empty_in);
    }
}

/// A level after some time and a change. Without a limit nothing is counted.
fn changed(level: u128, limit: u64, passed: Nanos, change: i128) -> u128 {
    match limit {
        0 => 0,
        _ => leaked(level, limit, passed).saturating_add_signed(change),
    }
}

fn leaked(level: u128, limit: u64, passed: Nanos) -> u128 {
    match limit {
        0 => 0,
        _ => level.saturating_sub(u128::from(limit) * u128::from(passed)),
    }
}

/// Whether so many more fit; if not, after how long they do.
fn fits(level: u128, limit: u64, more: u64) -> Result<(), Option<Nanos>> {
    if limit == 0 {
        return Ok(());
    }
    if more > limit {
        return Err(None);
    }
    let over = (level + u128::from(more) * MINUTE_NS).saturating_sub(u128::from(limit) * MINUTE_NS);
    match over {
        0 => Ok(()),
        _ => Err(Some(time(over, limit))),
    }
}

/// In how long a level leaks away, rounded up.
fn time(level: u128, limit: u64) -> Nanos {
    let ns = level.div_ceil(u128::from(limit.max(1)));
    Nanos::try_from(ns).unwrap_or(Nanos::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Nanos = 1_000_000_000;
    const AGENT: AgentId = AgentId(1);
    const NONE: Rate = Rate {
        requests: 0,
        tokens: 0,
    };

    fn tokens(tokens: u64) -> Rate {
        Rate {
            requests: 0,
            tokens,
        }
    }

    #[test]
    fn a_refusal_says_to_the_nanosecond_when_it_would_fit() {
        let (mut meters, rates) = (Meters::default(), (NONE, tokens(600)));
        meters.take(rates, AGENT, 600, 0);
        let refused = meters.check(rates, AGENT, 7, SECOND / 2).unwrap_err();
        assert_eq!(refused.bound, Bound::AgentRate);
        let after = SECOND / 2 + refused.retry_after_ns.unwrap();
        assert_eq!(after, SECOND * 7 / 10);
        assert!(meters.check(rates, AGENT, 7, after - 1).is_err());
        assert!(meters.check(rates, AGENT, 7, after).is_ok());
        let never = meters.check(rates, AGENT, 601, 900 * SECOND).unwrap_err();
        assert_eq!(never.retry_after_ns, None);
        assert!(meters.check(rates, AgentId(2), 600, 0).is_ok(), "another's");
    }

    #[test]
    fn what_a_request_did_not_become_is_free_again() {
        let (mut meters, rates) = (Meters::default(), (tokens(1_000), NONE));
        meters.take(rates, AGENT, 900, 0);
        assert_eq!(
            meters.check(rates, AGENT, 200, 0).unwrap_err().bound,
            Bound::TenantRate
        );
        meters.give_back(rates, AGENT, 800, 1);
        assert!(meters.check(rates, AGENT, 900, 1).is_ok());
    }

    #[test]
    fn agents_with_empty_meters_are_forgotten() {
        let each = Rate {
            requests: 60,
            tokens: 0,
        };
        let mut meters = Meters::default();
        for n in 0..100 {
            meters.take((NONE, each), AgentId(n), 5, Nanos::from(n) * SECOND);
        }
        assert!(meters.agents.len() <= 2, "{}", meters.agents.len());
        assert_eq!(meters.agents.len(), meters.empty.len());
    }

    proptest! {
        /// Over any interval no more comes than its part of the limit and one minute's worth, whoever asks how often.
        #[test]
        fn no_interval_holds_more_than_the_limit_and_a_burst(
            limit in 1u64..5_000,
            asked in prop::collection::vec((0u64..40 * SECOND, 1u64..2_000), 1..60),
        ) {
            let (mut meters, rates) = (Meters::default(), (tokens(limit), NONE));
            let (mut now, mut taken) = (0, Vec::new());
            for (pause, more) in asked {
                now += pause;
                if meters.check(rates, AGENT, more, now).is_ok() {
                    meters.take(rates, AGENT, more, now);
                    taken.push((now, more));
                }
            }
            for first in 0..taken.len() {
                let mut sum = 0_u128;
                for (at, more) in &taken[first..] {
                    sum += u128::from(*more) * MINUTE_NS;
                    let span = u128::from(at - taken[first].0);
                    prop_assert!(sum <= u128::from(limit) * (span + MINUTE_NS));
                }
            }
        }
    }
}
