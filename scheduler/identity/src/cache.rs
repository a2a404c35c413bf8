//! Tokens that were verified already, so that a signature is checked once and not on every request.
//!
//! Keyed by the SHA-256 of the whole token: no part of one is believed before all of it is known to be
//! the one that was verified. What an entry holds is only what never changes; key, time, status and
//! generation are compared by the caller on every request.
//!
//! Bounded per tenant and over all tenants. A tenant over its own bound loses its own oldest entry.
//! When the whole is full, the tenant with the most entries loses one, so that a flood by one tenant
//! evicts nothing of a tenant that holds less.

use crate::verifier::VerifiedToken;
use aws_lc_rs::digest::{SHA256, digest};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Most tokens remembered for one tenant.
pub const CACHED_PER_TENANT_MAX: usize = 1024;
/// Most tokens remembered altogether. At about 400 bytes each: 26 MB.
pub const CACHED_TOTAL_MAX: usize = 65_536;

/// A token's SHA-256.
pub(crate) type Key = [u8; 32];

/// The key of a token.
pub(crate) fn key(token: &str) -> Key {
    let mut key = Key::default();
    key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    key
}

struct Entry {
    token: Arc<VerifiedToken>,
    tenant: u32,
    number: u64,
}

#[derive(Default)]
struct Tables {
    entries: HashMap<Key, Entry>,
    /// Each tenant's entries, oldest first.
    by_tenant: HashMap<u32, BTreeMap<u64, Key>>,
    /// Tenants by the number of their entries.
    by_size: BTreeSet<(usize, u32)>,
    next: u64,
}

/// The cache.
pub(crate) struct Cache {
    tables: RwLock<Tables>,
    per_tenant_max: usize,
    total_max: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Cache::new(CACHED_PER_TENANT_MAX, CACHED_TOTAL_MAX)
    }
}

impl Cache {
    fn new(per_tenant_max: usize, total_max: usize) -> Cache {
        Cache {
            tables: RwLock::default(),
            per_tenant_max,
            total_max,
        }
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Arc<VerifiedToken>> {
        self.tables
            .read()
            .entries
            .get(key)
            .map(|entry| entry.token.clone())
    }

    /// Remembers a token of this tenant, which was verified.
    pub(crate) fn insert(&self, key: Key, tenant: u32, token: Arc<VerifiedToken>) {
        let mut tables = self.tables.write();
        tables.remove(&key);
        if tables.held_by(tenant) >= self.per_tenant_max {
            tables.evict_oldest_of(tenant);
        } else if tables.entries.len() >= self.total_max
            && let Some(&(_, largest)) = tables.by_size.last()
        {
            tables.evict_oldest_of(largest);
        }
        tables.add(key, tenant, token);
    }

    /// Forgets a token.
    pub(crate) fn remove(&self, key: &Key) {
        self.tables.write().remove(key);
    }
}

impl Tables {
    fn held_by(&self, tenant: u32) -> usize {
        self.by_tenant.get(&tenant).map_or(0, BTreeMap::len)
    }

    fn add(&mut self, key: Key, tenant: u32, token: Arc<VerifiedToken>) {
        let number = self.next;
        self.next += 1;
        let before = self.held_by(tenant);
        self.by_size.remove(&(before, tenant));
        self.by_size.insert((before + 1, tenant));
        self.by_tenant
            .entry(tenant)
            .or_default()
            .insert(number, key);
        self.entries.insert(
            key,
            Entry {
                token,
                tenant,
                number,
            },
        );
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        let before = self.held_by(entry.tenant);
        self.by_size.remove(&(before, entry.tenant));
        if before > 1 {
            self.by_size.insert((before - 1, entry.tenant));
            if let Some(own) = self.by_tenant.get_mut(&entry.tenant) {
                own.remove(&entry.number);
            }
        } else {
            self.by_tenant.remove(&entry.tenant);
        }
    }

    fn evict_oldest_of(&mut self, tenant: u32) {
        let oldest = self
            .by_tenant
            .get(&tenant)
            .and_then(|own| own.values().next().copied());
        if let Some(key) = oldest {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cached(n: u32) -> (Key, Arc<VerifiedToken>) {
        (key(&n.to_string()), Arc::new(VerifiedToken::for_tests()))
    }

    fn fill(cache: &Cache, tenant: u32, numbers: std::ops::Range<u32>) {
        for n in numbers {
            let (key, token) = cached(n);
            cache.insert(key, tenant, token);
        }
    }

    fn holds(cache: &Cache, n: u32) -> bool {
        cache.get(&key(&n.to_string())).is_some()
    }

    #[test]
    fn a_flood_by_one_tenant_evicts_only_its_own() {
        let cache = Cache::new(4, 100);
        fill(&cache, 1, 0..4);
        fill(&cache, 2, 1000..2000);
        assert!(
            (0..4).all(|n| holds(&cache, n)),
            "the other tenant lost nothing"
        );
        assert!((1996..2000).all(|n| holds(&cache, n)) && !holds(&cache, 1995));
    }

    #[test]
    fn when_all_is_full_the_largest_loses() {
        let cache = Cache::new(100, 10);
        fill(&cache, 1, 0..2);
        fill(&cache, 2, 1000..2000);
        assert!(holds(&cache, 0) && holds(&cache, 1));
        fill(&cache, 3, 5000..5001);
        assert!(holds(&cache, 0) && holds(&cache, 1) && holds(&cache, 5000));
        assert_eq!(cache.tables.read().entries.len(), 10);
    }

    #[test]
    fn a_token_seen_twice_takes_one_place() {
        let cache = Cache::new(4, 10);
        fill(&cache, 1, 0..2);
        fill(&cache, 1, 0..2);
        assert_eq!(cache.tables.read().held_by(1), 2);
    }

    proptest! {
        #[test]
        fn bounds_hold_and_the_tables_agree(
            acts in prop::collection::vec((0u32..6, 0u32..40, any::<bool>()), 0..300)
        ) {
            let cache = Cache::new(5, 12);
            for (tenant, n, add) in acts {
                // A token belongs to one tenant.
                let (key, token) = cached(tenant * 100 + n);
                if add { cache.insert(key, tenant, token) } else { cache.remove(&key) }
                let tables = cache.tables.read();
                let sizes: BTreeSet<_> =
                    tables.by_tenant.iter().map(|(t, own)| (own.len(), *t)).collect();
                prop_assert_eq!(&sizes, &tables.by_size);
                prop_assert_eq!(sizes.iter().map(|s| s.0).sum::<usize>(), tables.entries.len());
                prop_assert!(tables.entries.len() <= 12 && sizes.iter().all(|s| s.0 <= 5));
            }
        }
    }
}
