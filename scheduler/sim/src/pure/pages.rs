//! Where the caches of answers lie: in the pool, or in the host's memory while they pause and another's needs the room.
//!
//! Whoever had the pool last gives way first: it waits longest for its next turn. No cache is ever dropped or computed
//! again.

use std::collections::BTreeMap;

use bulkhead_core::WorkerId;

/// The caches of all workers.
#[derive(Debug)]
pub(super) struct Pages {
    pool_tokens_max: u64,
    token_ns: u64,
    caches: BTreeMap<WorkerId, Cache>,
    turns: u64,
    host_tokens: u64,
}

#[derive(Debug, Default)]
struct Cache {
    pool_tokens: u64,
    host_tokens: u64,
    /// The number of the step for which it was in the pool last.
    used: u64,
}

impl Pages {
    pub(super) fn new(pool_tokens_max: u64, token_ns: u64) -> Self {
        Pages {
            pool_tokens_max,
            token_ns,
            caches: BTreeMap::new(),
            turns: 0,
            host_tokens: 0,
        }
    }

    /// Tokens in the host's memory.
    pub(super) fn host_tokens(&self) -> u64 {
        self.host_tokens
    }

    /// Brings a worker's whole cache into the pool for a step after which it will have so many tokens, and returns how long
    /// that takes, ns.
    pub(super) fn bring(&mut self, worker: WorkerId, tokens: u64) -> u64 {
        self.turns += 1;
        let cache = self.caches.entry(worker).or_default();
        cache.used = self.turns;
        let back = std::mem::take(&mut cache.host_tokens);
        cache.pool_tokens = cache.pool_tokens.saturating_add(back).max(tokens);
        let out = self.make_room(worker);
        self.host_tokens = self.host_tokens - back + out;
        (back + out).saturating_mul(self.token_ns)
    }

    /// Moves others' out until the pool holds what is in it. Returns how many tokens.
    fn make_room(&mut self, keep: WorkerId) -> u64 {
        let in_pool: u64 = self.caches.values().map(|cache| cache.pool_tokens).sum();
        let mut over = in_pool.saturating_sub(self.pool_tokens_max);
        let mut out = 0;
        let others = self.caches.iter_mut().filter(|(id, _)| **id != keep);
        let mut others: Vec<&mut Cache> = others.map(|(_, cache)| cache).collect();
        others.sort_unstable_by_key(|cache| std::cmp::Reverse(cache.used));
        for cache in others {
            let moved = cache.pool_tokens.min(over);
            cache.pool_tokens -= moved;
            cache.host_tokens += moved;
            over -= moved;
            out += moved;
        }
        out
    }

    /// After a step all of a worker's cache is in the pool, and is so large.
    pub(super) fn holds(&mut self, worker: WorkerId, tokens: u64) {
        self.caches.entry(worker).or_default().pool_tokens = tokens;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_goes_to_the_host_and_comes_back_and_both_take_time() {
        let (one, other, third) = (WorkerId(1), WorkerId(2), WorkerId(3));
        let mut pages = Pages::new(100, 10);
        assert_eq!(pages.bring(one, 40), 0);
        assert_eq!(pages.bring(other, 50), 0);
        assert_eq!(pages.bring(third, 20), 100, "ten of whoever was last");
        assert_eq!(pages.host_tokens(), 10);
        pages.holds(third, 0);
        assert_eq!(pages.bring(other, 50), 100, "and back");
        assert_eq!(pages.host_tokens(), 0);
    }
}
