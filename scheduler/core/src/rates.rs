//! Limits by time: requests and tokens that a tenant, and each of its agents, may have a minute. Never a share of anything:
//! who is below its limit has no right to a lane for that.
//!
//! A bucket for each (a leaky bucket as a meter, ITU-T I.371): it leaks at the limit, and holds one minute's worth, which is
//! how much may come at once after a quiet minute. A request takes what it could become when it is accepted, and gives
//! back what it did not when it ends: so requests that run at the same time cannot slip past together.
//!
//! Nothing is given back that has leaked away meanwhile, or a limit could be saved up in requests that wait. A bucket is
//! a queue for that: what came first leaks first, and of a request first what it came to. What it gives back is taken out
//! where it lies, so that what came later moves up and what came before stays: nobody's end costs others what is theirs.
//! So what is left after a request gave back is never less than had it taken no more in the first place.
//!
//! A text may turn out to have more tokens than its bytes let expect. They are taken when that is known, whether they fit
//! or not: a level may be beyond its limit then, and nothing more comes until it is not.
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

/// What a request took: so many tokens, and the number under which they lie in each of its two buckets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Taken {
    tokens: u64,
    number: u64,
}

/// The meters of one tenant.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    tenant: Meter,
    agents: BTreeMap<AgentId, Meter>,
    /// Of the next request. Never used twice, so that nothing is given back to a meter that had leaked out of one that
    /// was forgotten.
    next: u64,
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
        let new = Meter::default();
        let own = self.agents.get(&agent).unwrap_or(&new);
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
    ) -> Taken {
        let number = self.next;
        self.next += 1;
        self.tenant.take(tenant, now, tokens, number);
        if !each.is_none() {
            self.of_agent(agent, |meter| meter.take(each, now, tokens, number));
        }
        self.forget(now);
        Taken { tokens, number }
    }

    /// A request has come to so many tokens: it gives back what it took beyond that, as far as it is still there, or takes
    /// what it did not.
    pub(crate) fn settle(
        &mut self,
        (tenant, each): (Rate, Rate),
        agent: AgentId,
        taken: Taken,
        tokens: u64,
        now: Nanos,
    ) {
        self.tenant.settle(tenant, now, taken, tokens);
        let beyond = tokens > taken.tokens && !each.is_none();
        if beyond || self.agents.contains_key(&agent) {
            self.of_agent(agent, |meter| meter.settle(each, now, taken, tokens));
        }
    }

    /// The limits have changed: what came so far has leaked at the old ones until now, and from here on, where a limit is
    /// lower, counts for no more than a minute's worth of it. So who was told to have less is slowed down, and not shut out for as long as
    /// what it had before would take to leak.
    pub(crate) fn change(&mut self, before: (Rate, Rate), after: (Rate, Rate), now: Nanos) {
        self.tenant.change(before.0, after.0, now);
        for meter in self.agents.values_mut() {
            meter.change(before.1, after.1, now);
        }
        let agents = self.agents.iter();
        self.empty = agents
            .map(|(agent, meter)| (meter.empty_at, *agent))
            .collect();
    }

    fn of_agent(&mut self, agent: AgentId, change: impl FnOnce(&mut Meter)) {
        let meter = self.agents.entry(agent).or_default();
        self.empty.remove(&(meter.empty_at, agent));
        change(meter);
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
#[derive(Debug, Default)]
struct Meter {
    at: Nanos,
    requests: u128,
    tokens: u128,
    /// Of tokens, what can be given back no more and came before all that can: it leaks first.
    first: u128,
    /// The rest, in the order in which it came: no more of them than there are requests that have not settled, and one
    /// that never will, as its device went bad before it ended, has leaked within a minute.
    open: BTreeMap<u64, Lying>,
    empty_at: Nanos,
}

/// What of such a request has not leaked, and what came after it and can be given back no more.
#[derive(Debug)]
struct Lying {
    own: u128,
    after: u128,
}

impl Meter {
    /// Nothing of it is left, so that without a limit nothing can change.
    fn is_empty(&self) -> bool {
        self.requests == 0 && self.tokens == 0
    }

    fn check(&self, rate: Rate, tokens: u64, now: Nanos) -> Result<(), Option<Nanos>> {
        if rate.is_none() {
            return Ok(());
        }
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

    /// One more request of so many tokens.
    fn take(&mut self, rate: Rate, now: Nanos, tokens: u64, number: u64) {
        if rate.is_none() && self.is_empty() {
            return;
        }
        self.leak(rate, now);
        self.requests = more(self.requests, rate.requests.into(), 1);
        let own = more(0, rate.tokens, tokens);
        self.tokens = self.tokens.saturating_add(own);
        if own > 0 {
            self.open.insert(number, Lying { own, after: 0 });
        }
        self.look_ahead(rate);
    }

    /// A request that took so many has come to this.
    fn settle(&mut self, rate: Rate, now: Nanos, taken: Taken, tokens: u64) {
        if rate.is_none() && self.is_empty() {
            return;
        }
        self.leak(rate, now);
        let spare = u128::from(taken.tokens.saturating_sub(tokens)) * MINUTE_NS;
        if let Some(lying) = self.open.remove(&taken.number) {
            let back = lying.own.min(spare);
            self.tokens = self.tokens.saturating_sub(back);
            let stays = (lying.own - back).saturating_add(lying.after);
            self.lay_behind(taken.number, stays);
        }
        let beyond = more(0, rate.tokens, tokens.saturating_sub(taken.tokens));
        self.tokens = self.tokens.saturating_add(beyond);
        self.lay_behind(u64::MAX, beyond);
        self.look_ahead(rate);
    }

    /// So many can be given back no more, and lie behind the last that came before this number.
    fn lay_behind(&mut self, number: u64, tokens: u128) {
        let before = self.open.range_mut(..number).next_back();
        let behind = before.map_or(&mut self.first, |(_, lying)| &mut lying.after);
        *behind = behind.saturating_add(tokens);
    }

    fn change(&mut self, before: Rate, after: Rate, now: Nanos) {
        self.leak(before, now);
        self.requests = carried(self.requests, before.requests.into(), after.requests.into());
        self.lower(carried(self.tokens, before.tokens, after.tokens));
        if after.tokens < before.tokens {
            // What was taken at the old limit gives back nothing of the new one.
            let open = std::mem::take(&mut self.open).into_values();
            self.first += open.map(|lying| lying.own + lying.after).sum::<u128>();
        }
        self.look_ahead(after);
    }

    fn leak(&mut self, rate: Rate, now: Nanos) {
        let passed = now.saturating_sub(self.at);
        self.at = self.at.max(now);
        self.requests = leaked(self.requests, rate.requests.into(), passed);
        self.lower(leaked(self.tokens, rate.tokens, passed));
    }

    /// So many tokens are left: what came first is gone first.
    fn lower(&mut self, tokens: u128) {
        let mut gone = self.tokens - tokens;
        self.tokens = tokens;
        leak_from(&mut self.first, &mut gone);
        while gone > 0
            && let Some(mut oldest) = self.open.first_entry()
        {
            leak_from(&mut oldest.get_mut().own, &mut gone);
            if oldest.get().own > 0 {
                return;
            }
            self.first = oldest.remove().after;
            leak_from(&mut self.first, &mut gone);
        }
    }

    fn look_ahead(&mut self, rate: Rate) {
        let empty_in =
            time(self.requests, rate.requests.into()).max(time(self.tokens, rate.tokens));
        self.empty_at = self.at.saturating_add(empty_in);
    }
}

/// A level after so many more. Without a limit nothing is counted.
fn more(level: u128, limit: u64, come: u64) -> u128 {
    match limit {
        0 => 0,
        _ => level.saturating_add(u128::from(come) * MINUTE_NS),
    }
}

fn leaked(level: u128, limit: u64, passed: Nanos) -> u128 {
    match limit {
        0 => 0,
        _ => level.saturating_sub(u128::from(limit) * u128::from(passed)),
    }
}

/// A level once its limit is another: where that is lower a minute's worth of it, and as much more as it was beyond.
fn carried(level: u128, before: u64, after: u64) -> u128 {
    if after == 0 {
        return 0;
    }
    if after >= before {
        return level;
    }
    let in_proportion = (level / u128::from(before)).saturating_mul(u128::from(after));
    level.min(in_proportion.max(u128::from(after) * MINUTE_NS))
}

/// Leaks what it can of what is to leak.
fn leak_from(level: &mut u128, gone: &mut u128) {
    let now = (*level).min(*gone);
    *level -= now;
    *gone -= now;
}

/// Whether so many more fit; if not, after how long they do.
fn fits(level: u128, limit: u64, more: u64) -> Result<(), Option<Nanos>> {
    if limit == 0 {
        return Ok(());
    }
    if more > limit {
        return Err(None);
    }
    let full = level.saturating_add(u128::from(more) * MINUTE_NS);
    let over = full.saturating_sub(u128::from(limit) * MINUTE_NS);
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
        let taken = meters.take(rates, AGENT, 900, 0);
        assert_eq!(
            meters.check(rates, AGENT, 200, 0).unwrap_err().bound,
            Bound::TenantRate
        );
        meters.settle(rates, AGENT, taken, 100, 1);
        assert!(meters.check(rates, AGENT, 900, 1).is_ok());
    }

    #[test]
    fn what_a_request_came_to_beyond_what_it_took_is_taken_then() {
        for rates in [(tokens(1_000), NONE), (NONE, tokens(1_000))] {
            let mut meters = Meters::default();
            let taken = meters.take(rates, AGENT, 1_000, 0);
            // By then its agent looks like a new one.
            meters.take(rates, AgentId(2), 0, 60 * SECOND);
            meters.settle(rates, AGENT, taken, 3_000, 60 * SECOND);
            let refused = meters.check(rates, AGENT, 1_000, 60 * SECOND).unwrap_err();
            assert_eq!(
                refused.retry_after_ns,
                Some(120 * SECOND),
                "2,000 leak first"
            );
        }
    }

    /// Fails where as much is given back as was taken, or less than is still there: beside nine others, a tenth of the
    /// leak is a request's own.
    #[test]
    fn what_has_leaked_is_not_given_back_and_what_has_not_is() {
        let (mut meters, rates) = (Meters::default(), (tokens(1_000), tokens(1_000)));
        let taken: Vec<Taken> = (0..10).map(|_| meters.take(rates, AGENT, 100, 0)).collect();
        for one in taken {
            meters.settle(rates, AGENT, one, 10, 6 * SECOND);
        }
        // A hundred had leaked, all of it the first one's; nine others came to ten each.
        assert!(meters.check(rates, AGENT, 910, 6 * SECOND).is_ok());
        assert!(meters.check(rates, AGENT, 911, 6 * SECOND).is_err());
    }

    /// Fails where what came first counts as gone once as much was given back by others.
    #[test]
    fn what_others_give_back_is_nobody_elses() {
        let (mut meters, rates) = (Meters::default(), (tokens(6_000), tokens(6_000)));
        let mut take = |tokens| meters.take(rates, AGENT, tokens, 0);
        let (first, second, third) = (take(3_000), take(1_000), take(2_000));
        // A thousand leak, all of them the first one's.
        let now = 10 * SECOND;
        meters.settle(rates, AGENT, second, 0, now);
        meters.settle(rates, AGENT, third, 1_000, now);
        meters.settle(rates, AGENT, first, 500, now);
        assert!(meters.check(rates, AGENT, 5_000, now).is_ok());
        assert!(meters.check(rates, AGENT, 5_001, now).is_err());
        // What the third came to has moved up, and leaks next.
        assert!(meters.check(rates, AGENT, 6_000, 2 * now).is_ok());
    }

    /// Fails where what stays of a request that ended leaks before its turn: then what came earlier looks as if it were
    /// still there.
    #[test]
    fn what_a_request_came_to_leaks_in_its_turn() {
        let (mut meters, rates) = (Meters::default(), (tokens(6_000), NONE));
        let [first, second, third] = [(); 3].map(|()| meters.take(rates, AGENT, 2_000, 0));
        meters.settle(rates, AGENT, second, 1_000, 0);
        // Four thousand leak: of the first all, of the second what stayed, and a thousand of the third.
        let now = 40 * SECOND;
        meters.settle(rates, AGENT, third, 0, now);
        meters.settle(rates, AGENT, first, 0, now);
        assert!(meters.check(rates, AGENT, 6_000, now).is_ok());
        let after = meters.take(rates, AGENT, 6_000, now);
        meters.settle(rates, AGENT, first, 0, now);
        assert!(meters.check(rates, AGENT, 1, now).is_err(), "once only");
        meters.settle(rates, AGENT, after, 0, now);
        assert!(meters.tenant.open.is_empty() && meters.tenant.first == 0);
    }

    /// Without a limit nothing is remembered, nor once a limit was taken away.
    #[test]
    fn nothing_is_kept_without_a_limit() {
        let mut meters = Meters::default();
        for n in 0..10 {
            meters.take((NONE, NONE), AgentId(n), 100, 0);
        }
        assert!(meters.tenant.open.is_empty() && meters.agents.is_empty());
        meters.take((tokens(9), tokens(9)), AGENT, 9, 0);
        meters.take((NONE, NONE), AGENT, 9, 0);
        assert!(meters.tenant.open.is_empty());
    }

    /// Fails where who is told to have less is shut out until all that it had before has leaked, and where what was open then
    /// is given back twice.
    #[test]
    fn a_lower_limit_slows_down_and_does_not_shut_out() {
        let rates = (tokens(600_000), tokens(600_000));
        let (mut meters, lower) = (Meters::default(), (tokens(600), tokens(600)));
        let taken = meters.take(rates, AGENT, 600_000, 0);
        meters.change(rates, lower, SECOND);
        assert!(
            meters.check(lower, AGENT, 1, SECOND).is_err(),
            "a minute's worth is there"
        );
        let now = 2 * SECOND;
        assert!(meters.check(lower, AGENT, 10, now).is_ok());
        assert!(meters.check(lower, AGENT, 11, now).is_err());
        meters.settle(lower, AGENT, taken, 599_000, now);
        assert!(meters.check(lower, AGENT, 11, now).is_err());
        // Nothing is forgiven where nothing is lowered.
        let beyond = meters.take(lower, AGENT, 0, now);
        meters.settle(lower, AGENT, beyond, 6_000, now);
        let level = meters.tenant.tokens;
        meters.change(lower, lower, now);
        assert_eq!(meters.tenant.tokens, level);
        meters.change(lower, (NONE, NONE), now);
        assert!(meters.check((NONE, NONE), AGENT, u64::MAX, now).is_ok());
        assert!(meters.tenant.is_empty() && meters.tenant.open.is_empty());
        meters.take((NONE, NONE), AGENT, 1, now);
        assert!(meters.agents.is_empty() && meters.empty.is_empty());
    }

    /// Fails where requests have the same number in a meter that was forgotten and in the one after it.
    #[test]
    fn nothing_is_given_back_to_a_meter_that_began_later() {
        let (mut meters, rates) = (Meters::default(), (NONE, tokens(1_000)));
        let old = meters.take(rates, AGENT, 900, 0);
        meters.take(rates, AgentId(2), 1, 100 * SECOND);
        assert!(!meters.agents.contains_key(&AGENT), "forgotten");
        meters.take(rates, AGENT, 999, 100 * SECOND);
        meters.settle(rates, AGENT, old, 0, 100 * SECOND);
        assert!(meters.check(rates, AGENT, 2, 100 * SECOND).is_err());
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
        /// Over any interval no more comes than its part of the limit and one minute's worth, whoever asks how often, and
        /// however long requests that come to less stay open.
        #[test]
        fn no_interval_holds_more_than_the_limit_and_a_burst(
            limit in 1u64..5_000,
            asked in prop::collection::vec(
                (0u64..40 * SECOND, 1u64..2_000, 0u64..2_000, any::<prop::sample::Index>(), 0usize..3),
                1..60,
            ),
        ) {
            let (mut meters, rates) = (Meters::default(), (tokens(limit), tokens(limit)));
            let (mut now, mut came, mut open) = (0, Vec::new(), Vec::new());
            for (pause, more, less, which, ends) in asked {
                now += pause;
                for _ in 0..ends.min(open.len()) {
                    let (n, taken): (usize, Taken) = open.swap_remove(which.index(open.len()));
                    meters.settle(rates, AGENT, taken, less, now);
                    let (_, tokens): &mut (Nanos, u64) = &mut came[n];
                    *tokens = less.min(*tokens);
                }
                let level = &meters.tenant;
                let lies = level.open.values().map(|one| one.own + one.after).sum::<u128>();
                prop_assert_eq!(level.first + lies, level.tokens);
                prop_assert!(level.open.len() <= open.len());
                if meters.check(rates, AGENT, more, now).is_ok() {
                    open.push((came.len(), meters.take(rates, AGENT, more, now)));
                    came.push((now, more));
                }
                for first in 0..came.len() {
                    let mut sum = 0_u128;
                    for (at, more) in &came[first..] {
                        sum += u128::from(*more) * MINUTE_NS;
                        let span = u128::from(at - came[first].0);
                        prop_assert!(sum <= u128::from(limit) * (span + MINUTE_NS));
                    }
                }
            }
        }
    }
}
