//! Whose blocks are whose: tables of sequences, the prefix cache, and what waits to be cleaned.
//!
//! Blocks of a sequence that ended are cleaned one by one, as far as each step has time for, or at once
//! where somebody needs one. Until all of a sequence's are clean, [`Memory::is_clean`] says so.

use crate::agents::Agent;
use crate::blocks::{Blocks, Cleaner, Dirty, Live};
use crate::prefix::{BlockHash, PrefixCache};
use std::collections::{BTreeMap, VecDeque};

#[derive(Debug)]
enum Held {
    Own(Live),
    Shared(BlockHash),
}

/// The blocks of one sequence, in the order of its tokens.
#[derive(Debug, Default)]
#[must_use = "a table has to be given back, or its blocks are lost"]
pub(crate) struct Table {
    indices: Vec<u32>,
    held: Vec<Held>,
}

impl Table {
    /// The pool's numbers of the blocks.
    pub fn indices(&self) -> &[u32] {
        &self.indices
    }

    pub fn len(&self) -> usize {
        self.indices.len()
    }

    fn push(&mut self, index: u32, held: Held) {
        self.indices.push(index);
        self.held.push(held);
    }
}

/// The tenant's blocks.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    blocks: Blocks,
    /// None where the operator did not turn it on.
    cache: Option<PrefixCache>,
    /// With the sequence that they were taken from, if one waits for them to be clean.
    dirty: VecDeque<(Option<u64>, Dirty)>,
    /// How many of the dirty ones are whose.
    unclean: BTreeMap<u64, usize>,
    cleaned: u64,
    /// The time that was told last.
    now_ns: u64,
}

impl Memory {
    pub fn new(blocks: u32, cache: bool) -> Self {
        Memory {
            blocks: Blocks::new(blocks),
            cache: cache.then(PrefixCache::default),
            ..Memory::default()
        }
    }

    /// Blocks that there are for use.
    pub fn capacity(&self) -> usize {
        self.blocks.capacity()
    }

    /// Blocks that no live sequence needs; all but the clean ones have to be cleaned first.
    pub fn available(&self) -> usize {
        self.blocks.free() + self.dirty.len() + self.idle()
    }

    /// Blocks that can be taken without cleaning any.
    pub fn clean(&self) -> usize {
        self.blocks.free()
    }

    /// Blocks of the prefix cache that no live sequence uses.
    pub fn idle(&self) -> usize {
        self.cache.as_ref().map_or(0, PrefixCache::unused)
    }

    /// Blocks that are in use or dirty, without those that only the cache holds.
    pub fn held(&self) -> usize {
        self.capacity() - self.blocks.free() - self.idle()
    }

    /// Blocks cleaned since the pool was made.
    pub fn cleaned(&self) -> u64 {
        self.cleaned
    }

    /// How many blocks the cache has of a prompt's beginning, and how many of those are idle.
    pub fn known(&self, hashes: &[BlockHash]) -> (usize, usize) {
        let cache = self.cache.as_ref();
        cache.map_or((0, 0), |cache| cache.known(hashes))
    }

    /// Begins an agent's table with the blocks that the cache has; returns how many.
    pub fn begin(&mut self, agent: Agent, table: &mut Table, hashes: &[BlockHash]) -> usize {
        let Some(cache) = &mut self.cache else {
            return 0;
        };
        for hash in hashes {
            match cache.share(*hash, agent) {
                Some(index) => table.push(index, Held::Shared(*hash)),
                None => break,
            }
        }
        table.len()
    }

    /// One block more for a table, cleaned first where none is clean. False if there is none.
    pub fn grow(&mut self, table: &mut Table, clean: &mut Cleaner<'_>) -> bool {
        loop {
            if let Some(live) = self.blocks.take() {
                table.push(live.index(), Held::Own(live));
                return true;
            }
            // More than one is only needed where a block could not be cleaned.
            if !self.clean_one(clean) && !self.evict(clean) {
                return false;
            }
        }
    }

    /// Cleans one dirty block. False if there is none.
    pub fn clean_one(&mut self, clean: &mut Cleaner<'_>) -> bool {
        let Some((owner, dirty)) = self.dirty.pop_front() else {
            return false;
        };
        if let Some(owner) = owner
            && let Some(left) = self.unclean.get_mut(&owner)
        {
            *left -= 1;
            if *left == 0 {
                self.unclean.remove(&owner);
            }
        }
        self.give(dirty, clean);
        true
    }

    /// Gives up every block that only the cache holds.
    pub fn drop_cached(&mut self) {
        while let Some(live) = self.cache.as_mut().and_then(PrefixCache::evict) {
            self.dirty.push_back((None, live.end()));
        }
    }

    /// What time it is, nanoseconds. What is let go counts from then.
    pub fn at(&mut self, now_ns: u64) {
        self.now_ns = self.now_ns.max(now_ns);
    }

    /// When a block of the cache has to go because nobody used it for `idle_ns`.
    pub fn next_expiry(&self, idle_ns: u64) -> Option<u64> {
        let cache = self.cache.as_ref();
        cache.and_then(|cache| cache.next_expiry(idle_ns))
    }

    /// Cleans one block of the cache whose time has come. False if there is none.
    pub fn expire_one(&mut self, idle_ns: u64, clean: &mut Cleaner<'_>) -> bool {
        let due = self.next_expiry(idle_ns);
        due.is_some_and(|at| at <= self.now_ns) && self.evict(clean)
    }

    /// See [`PrefixCache::forget`].
    pub fn forget(&mut self, agent: Agent) {
        if let Some(cache) = &mut self.cache {
            cache.forget(agent);
        }
    }

    fn evict(&mut self, clean: &mut Cleaner<'_>) -> bool {
        let evicted = self.cache.as_mut().and_then(PrefixCache::evict);
        let found = evicted.is_some();
        if let Some(live) = evicted {
            self.give(live.end(), clean);
        }
        found
    }

    fn give(&mut self, dirty: Dirty, clean: &mut Cleaner<'_>) {
        let residue = clean(&dirty);
        self.cleaned += u64::from(residue == 0);
        self.blocks.cleaned(dirty, residue);
    }

    /// Takes the blocks of `owner` back: its own are dirty, and the cache's stay with the cache.
    /// Returns how many stay.
    pub fn end(&mut self, owner: u64, table: Table) -> usize {
        let mut kept = 0;
        // From the end, as the cache asks for.
        for held in table.held.into_iter().rev() {
            match (held, &mut self.cache) {
                (Held::Own(live), _) => {
                    self.dirty.push_back((Some(owner), live.end()));
                    *self.unclean.entry(owner).or_default() += 1;
                }
                (Held::Shared(hash), Some(cache)) => {
                    cache.release(hash, self.now_ns);
                    kept += 1;
                }
                (Held::Shared(_), None) => {}
            }
        }
        kept
    }

    /// True once nothing of `owner` is dirty.
    pub fn is_clean(&self, owner: u64) -> bool {
        !self.unclean.contains_key(&owner)
    }

    /// Blocks that wait to be cleaned.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// Offers the whole blocks `from..to` of an agent's table to the cache.
    pub fn keep(
        &mut self,
        agent: Agent,
        table: &mut Table,
        hashes: &[BlockHash],
        from: usize,
        to: usize,
    ) {
        let Some(cache) = &mut self.cache else {
            return;
        };
        for (hash, held) in hashes.iter().zip(&mut table.held).take(to).skip(from) {
            let old = std::mem::replace(held, Held::Shared(*hash));
            if let Held::Own(live) = old
                && let Err(live) = cache.keep(*hash, live, agent)
            {
                *held = Held::Own(live);
            }
        }
    }

    /// Blocks to check a second time, and checking one.
    pub fn to_recheck(&self) -> usize {
        self.blocks.to_recheck()
    }

    /// See [`Blocks::recheck`].
    pub fn recheck(&mut self, clean: &mut Cleaner<'_>) {
        self.blocks.recheck(clean);
    }
}
