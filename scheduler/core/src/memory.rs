//! Queue memory: one pool of bytes for all waiting requests, a part of it reserved for each tenant.
//!
//! The rule: the sum over tenants of max(reserved, used) fits into the pool, always. So a request
//! within its tenant's reserved part never finds the pool full because of others.
//!
//! Tenants come while the pool is in use. A newcomer's part may be lent out at that moment; it is
//! *funded* as soon as it fits, oldest id first, and until then the newcomer borrows as everybody
//! does while what is returned goes to it before anything new is lent. Where there are more tenants
//! than whole parts, every part shrinks to pool ÷ (tenants rounded up to a power of two), so that
//! the books are redone a logarithmic number of times only. The pool's bound is never passed.

use std::collections::BTreeSet;

use crate::TenantId;
use crate::map::IdMap;

/// Why bytes were not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// Not now: the tenant's part is used up and so is what can be lent.
    Full,
    /// Never, while these tenants exist: it exceeds the tenant's part and all that could be lent.
    TooLarge,
}

#[derive(Debug, Default)]
struct Part {
    used: u64,
    funded: bool,
}

/// The books of the pool.
#[derive(Debug)]
pub(crate) struct QueueMemory {
    bytes_max: u64,
    reserved_wanted: u64,
    reserved: u64,
    committed: u64,
    funded: u64,
    parts: IdMap<TenantId, Part>,
    unfunded: BTreeSet<TenantId>,
}

impl QueueMemory {
    pub(crate) fn new(bytes_max: u64, reserved_bytes: u64) -> Self {
        let reserved = reserved_bytes.min(bytes_max);
        QueueMemory {
            bytes_max,
            reserved_wanted: reserved,
            reserved,
            committed: 0,
            funded: 0,
            parts: IdMap::default(),
            unfunded: BTreeSet::new(),
        }
    }

    /// Opens a tenant's part. Does nothing where it has one.
    pub(crate) fn add_tenant(&mut self, tenant: TenantId) {
        if self.parts.contains_key(&tenant) {
            return;
        }
        self.parts.insert(tenant, Part::default());
        self.unfunded.insert(tenant);
        self.shrink_parts();
        self.fund();
    }

    /// Takes `bytes` for a waiting request.
    pub(crate) fn take(&mut self, tenant: TenantId, bytes: u64) -> Result<(), NoRoom> {
        let Some(part) = self.parts.get_mut(&tenant) else {
            return Err(NoRoom::Full);
        };
        let grown = part.grown(bytes);
        let grows = grown.committed(self.reserved) - part.committed(self.reserved);
        if self.committed.saturating_add(grows) > self.bytes_max {
            return Err(if bytes > self.reachable(tenant) {
                NoRoom::TooLarge
            } else {
                NoRoom::Full
            });
        }
        *part = grown;
        self.committed += grows;
        Ok(())
    }

    /// Whether `bytes` for a tenant leave it room for so many more. What is within its reserved part always does.
    pub(crate) fn leaves(&self, tenant: TenantId, bytes: u64, more: u64) -> bool {
        self.parts.get(&tenant).is_none_or(|part| {
            let both = part.grown(bytes).grown(more).committed(self.reserved);
            let grows = both - part.committed(self.reserved);
            let is_own = part.funded && part.grown(bytes).used <= self.reserved;
            is_own || self.committed.saturating_add(grows) <= self.bytes_max
        })
    }

    /// The most that a tenant could ever have: its part and all that could be lent.
    pub(crate) fn reachable(&self, tenant: TenantId) -> u64 {
        let own = self.parts.get(&tenant).is_some_and(|part| part.funded);
        self.bytes_max - (self.funded - u64::from(own)) * self.reserved
    }

    /// Gives `bytes` back.
    pub(crate) fn put(&mut self, tenant: TenantId, bytes: u64) {
        let Some(part) = self.parts.get_mut(&tenant) else {
            return;
        };
        debug_assert!(part.used >= bytes, "more bytes came back than were taken");
        let before = part.committed(self.reserved);
        part.used = part.used.saturating_sub(bytes);
        self.committed -= before - part.committed(self.reserved);
        self.fund();
    }

    /// Bytes that a tenant's waiting requests take now.
    pub(crate) fn used(&self, tenant: TenantId) -> u64 {
        self.parts.get(&tenant).map_or(0, |part| part.used)
    }

    fn shrink_parts(&mut self) {
        let tenants = self.parts.len() as u64;
        let fits = tenants
            .checked_mul(self.reserved_wanted)
            .is_some_and(|all| all <= self.bytes_max);
        if fits {
            return;
        }
        let reserved = self.bytes_max / tenants.next_power_of_two();
        if reserved < self.reserved {
            self.reserved = reserved;
            self.committed = self
                .parts
                .values()
                .map(|part| part.committed(reserved))
                .sum();
        }
    }

    fn fund(&mut self) {
        while let Some(&tenant) = self.unfunded.first() {
            let Some(part) = self.parts.get_mut(&tenant) else {
                return;
            };
            let missing = self.reserved.saturating_sub(part.used);
            if self.committed + missing > self.bytes_max {
                return;
            }
            part.funded = true;
            self.committed += missing;
            self.funded += 1;
            self.unfunded.remove(&tenant);
        }
    }

    /// Says what is wrong with the books, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sum: u64 = self
            .parts
            .values()
            .map(|part| part.committed(self.reserved))
            .sum();
        if sum != self.committed || sum > self.bytes_max {
            return Err(format!(
                "queue memory: committed {} of {}, sum {sum}",
                self.committed, self.bytes_max
            ));
        }
        Ok(())
    }
}

impl Part {
    fn grown(&self, bytes: u64) -> Part {
        Part {
            used: self.used.saturating_add(bytes),
            funded: self.funded,
        }
    }

    fn committed(&self, reserved: u64) -> u64 {
        if self.funded {
            self.used.max(reserved)
        } else {
            self.used
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: TenantId = TenantId(1);
    const B: TenantId = TenantId(2);
    const C: TenantId = TenantId(3);

    #[test]
    fn a_reserved_part_is_never_lent() {
        let mut pool = QueueMemory::new(100, 20);
        pool.add_tenant(A);
        pool.add_tenant(B);
        assert_eq!(pool.take(A, 81), Err(NoRoom::TooLarge));
        assert_eq!(pool.take(A, 80), Ok(()));
        assert_eq!(pool.take(A, 1), Err(NoRoom::Full));
        assert_eq!(pool.take(B, 20), Ok(()));
        pool.check().unwrap();
    }

    #[test]
    fn a_newcomer_is_funded_from_what_comes_back() {
        let mut pool = QueueMemory::new(100, 20);
        pool.add_tenant(A);
        pool.take(A, 100).unwrap();
        pool.add_tenant(B);
        assert_eq!(pool.take(B, 1), Err(NoRoom::Full));
        pool.put(A, 20);
        assert_eq!(
            pool.take(A, 1),
            Err(NoRoom::Full),
            "what came back is the newcomer's"
        );
        assert_eq!(pool.take(B, 20), Ok(()));
        pool.check().unwrap();
    }

    #[test]
    fn parts_shrink_where_there_are_too_many() {
        let mut pool = QueueMemory::new(100, 60);
        for tenant in [A, B, C] {
            pool.add_tenant(tenant);
        }
        assert_eq!(pool.take(A, 50), Ok(()));
        assert_eq!(pool.take(A, 1), Err(NoRoom::Full));
        assert_eq!((pool.take(B, 25), pool.take(C, 25)), (Ok(()), Ok(())));
        pool.check().unwrap();
    }
}
