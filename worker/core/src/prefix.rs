//! The prefix cache: whole blocks of prompts that ended sequences left, for those that begin alike.
//!
//! A block is known by a hash of all the tokens up to its end, made by the caller under a key of its
//! own; no token comes in here. Blocks are counted by users and never written again once they are in,
//! so sharing needs no copies. One tenant's blocks only: a cache belongs to one planner, a planner to
//! one worker, and a worker to one tenant.

use crate::blocks::Live;
use std::collections::{BTreeMap, BTreeSet};

/// A keyed hash of a prompt's tokens up to the end of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHash(pub u128);

#[derive(Debug)]
struct Entry {
    block: Live,
    users: u32,
    /// When it was last let go, in letting-go's own count.
    stamp: u64,
}

/// The blocks that are kept, used or not.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: BTreeMap<BlockHash, Entry>,
    unused: BTreeSet<(u64, BlockHash)>,
    stamps: u64,
}

impl PrefixCache {
    /// How many of `hashes`, from the first, are here, and how many of those nobody uses now.
    pub fn known(&self, hashes: &[BlockHash]) -> (usize, usize) {
        let known = hashes
            .iter()
            .map_while(|hash| self.entries.get(hash))
            .map(|entry| usize::from(entry.users == 0));
        known.fold((0, 0), |(all, idle), one| (all + 1, idle + one))
    }

    /// One user more. Returns the block's number.
    pub fn share(&mut self, hash: BlockHash) -> Option<u32> {
        let entry = self.entries.get_mut(&hash)?;
        if entry.users == 0 {
            self.unused.remove(&(entry.stamp, hash));
        }
        entry.users += 1;
        Some(entry.block.index())
    }

    /// Takes a block that is complete; whoever brought it is its first user. Gives it back where
    /// another one has that content already.
    pub fn keep(&mut self, hash: BlockHash, block: Live) -> Result<(), Live> {
        if self.entries.contains_key(&hash) {
            return Err(block);
        }
        let entry = Entry {
            block,
            users: 1,
            stamp: 0,
        };
        self.entries.insert(hash, entry);
        Ok(())
    }

    /// One user less. To be called from the end of a prompt to its beginning, so that of one prompt
    /// the end goes first: without its beginning it is of no use.
    pub fn release(&mut self, hash: BlockHash) {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return;
        };
        entry.users -= 1;
        if entry.users == 0 {
            self.stamps += 1;
            entry.stamp = self.stamps;
            self.unused.insert((entry.stamp, hash));
        }
    }

    /// Gives up the block that was let go the longest ago, of those without a user.
    pub fn evict(&mut self) -> Option<Live> {
        let (_, hash) = self.unused.pop_first()?;
        self.entries.remove(&hash).map(|entry| entry.block)
    }

    /// Blocks without a user.
    pub fn unused(&self) -> usize {
        self.unused.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::Blocks;

    const fn hash(n: u128) -> BlockHash {
        BlockHash(n)
    }

    fn filled(blocks: &mut Blocks) -> PrefixCache {
        let mut cache = PrefixCache::default();
        for n in 0..3 {
            let block = blocks.take().expect("free");
            cache.keep(hash(n), block).expect("new");
        }
        cache
    }

    #[test]
    fn only_blocks_without_users_go_the_longest_unused_first() {
        let mut cache = filled(&mut Blocks::new(3));
        assert!(cache.evict().is_none());
        cache.release(hash(2));
        cache.release(hash(0));
        assert_eq!(cache.known(&[hash(0), hash(1), hash(2)]), (3, 2));
        assert_eq!(cache.evict().expect("unused").index(), 2);
        assert_eq!(cache.share(hash(0)), Some(0));
        assert!(cache.evict().is_none(), "it is used again");
        assert_eq!(cache.known(&[hash(0), hash(2), hash(1)]), (1, 0));
    }

    #[test]
    fn a_second_block_of_the_same_content_stays_with_its_owner() {
        let mut blocks = Blocks::new(4);
        let mut cache = filled(&mut blocks);
        let twin = blocks.take().expect("free");
        assert_eq!(cache.keep(hash(1), twin).expect_err("known").index(), 3);
    }
}
