//! The prefix cache: whole blocks of prompts that ended sequences left, for those that begin alike.
//!
//! A block is known by a hash of all the tokens up to its end, made by the caller under a key of its
//! own; no token comes in here. Blocks are counted by users and never written again once they are in,
//! so sharing needs no copies. They stay until they are evicted for room, nobody used them for a time, or
//! the agent whose prompt they were is to be forgotten. One tenant's blocks only: a cache belongs to one planner, a planner to
//! one worker, and a worker to one tenant.

use crate::agents::Agent;
use crate::blocks::Live;
use std::collections::{BTreeMap, BTreeSet};

/// A keyed hash of a prompt's tokens up to the end of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockHash(pub u128);

#[derive(Debug)]
struct Entry {
    block: Live,
    users: u32,
    /// Whose prompts have it; none: those of more than one.
    agent: Option<Agent>,
    /// When it was last let go.
    let_go: LetGo,
    /// Nobody new gets it, and it goes as soon as nobody uses it.
    forgotten: bool,
}

/// When a block was let go: nanoseconds, and a count for those of one moment. What is forgotten goes
/// before all others.
type LetGo = (u64, u64);

/// The blocks that are kept, used or not.
#[derive(Debug, Default)]
pub(crate) struct PrefixCache {
    entries: BTreeMap<BlockHash, Entry>,
    unused: BTreeSet<(LetGo, BlockHash)>,
    count: u64,
}

impl PrefixCache {
    /// How many of `hashes`, from the first, are here, and how many of those nobody uses now.
    pub fn known(&self, hashes: &[BlockHash]) -> (usize, usize) {
        let known = hashes
            .iter()
            .map_while(|hash| self.entries.get(hash).filter(|entry| !entry.forgotten))
            .map(|entry| usize::from(entry.users == 0));
        known.fold((0, 0), |(all, idle), one| (all + 1, idle + one))
    }

    /// One user more, of this agent's. Returns the block's number.
    pub fn share(&mut self, hash: BlockHash, agent: Agent) -> Option<u32> {
        let entry = self.entries.get_mut(&hash)?;
        if entry.forgotten {
            return None;
        }
        if entry.users == 0 {
            self.unused.remove(&(entry.let_go, hash));
        }
        entry.users += 1;
        entry.agent = entry.agent.filter(|known| *known == agent);
        Some(entry.block.index())
    }

    /// Takes a block that is complete; whoever brought it is its first user. Gives it back where
    /// another one has that content already.
    pub fn keep(&mut self, hash: BlockHash, block: Live, agent: Agent) -> Result<(), Live> {
        if self.entries.contains_key(&hash) {
            return Err(block);
        }
        let entry = Entry {
            block,
            users: 1,
            agent: Some(agent),
            let_go: (0, 0),
            forgotten: false,
        };
        self.entries.insert(hash, entry);
        Ok(())
    }

    /// One user less. To be called from the end of a prompt to its beginning, so that of one prompt
    /// the end goes first: without its beginning it is of no use.
    pub fn release(&mut self, hash: BlockHash, now_ns: u64) {
        let Some(entry) = self.entries.get_mut(&hash) else {
            return;
        };
        entry.users -= 1;
        if entry.users == 0 {
            self.count += 1;
            entry.let_go = (if entry.forgotten { 0 } else { now_ns }, self.count);
            self.unused.insert((entry.let_go, hash));
        }
    }

    /// Gives up the block that was let go the longest ago, of those without a user.
    pub fn evict(&mut self) -> Option<Live> {
        let (_, hash) = self.unused.pop_first()?;
        self.entries.remove(&hash).map(|entry| entry.block)
    }

    /// When the next block without a user has been without one for `idle_ns`; 0 for one that is to be
    /// forgotten.
    pub fn next_expiry(&self, idle_ns: u64) -> Option<u64> {
        let ((let_go_ns, _), hash) = self.unused.first()?;
        let forgotten = self.entries.get(hash).is_some_and(|entry| entry.forgotten);
        Some(match forgotten {
            true => 0,
            false => let_go_ns.saturating_add(idle_ns),
        })
    }

    /// Lets nobody use again what only this agent's prompts have; what nobody uses now is due at once.
    pub fn forget(&mut self, agent: Agent) {
        let own = self.entries.iter_mut();
        for (hash, entry) in own.filter(|(_, entry)| entry.agent == Some(agent)) {
            entry.forgotten = true;
            if entry.users == 0 {
                self.unused.remove(&(entry.let_go, *hash));
                entry.let_go.0 = 0;
                self.unused.insert((entry.let_go, *hash));
            }
        }
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

    const MINE: Agent = Agent(1);

    const fn hash(n: u128) -> BlockHash {
        BlockHash(n)
    }

    fn filled(blocks: &mut Blocks) -> PrefixCache {
        let mut cache = PrefixCache::default();
        for n in 0..3 {
            let block = blocks.take().expect("free");
            cache.keep(hash(n), block, MINE).expect("new");
        }
        cache
    }

    #[test]
    fn only_blocks_without_users_go_the_longest_unused_first() {
        let mut cache = filled(&mut Blocks::new(3));
        assert!(cache.evict().is_none());
        cache.release(hash(2), 5);
        cache.release(hash(0), 5);
        assert_eq!(cache.known(&[hash(0), hash(1), hash(2)]), (3, 2));
        assert_eq!(cache.evict().expect("unused").index(), 2);
        assert_eq!(cache.share(hash(0), MINE), Some(0));
        assert!(cache.evict().is_none(), "it is used again");
        assert_eq!(cache.known(&[hash(0), hash(2), hash(1)]), (1, 0));
    }

    #[test]
    fn a_second_block_of_the_same_content_stays_with_its_owner() {
        let mut blocks = Blocks::new(4);
        let mut cache = filled(&mut blocks);
        let twin = blocks.take().expect("free");
        assert_eq!(
            cache
                .keep(hash(1), twin, Agent(2))
                .expect_err("known")
                .index(),
            3
        );
    }

    #[test]
    fn time_counts_from_the_last_use() {
        let mut cache = filled(&mut Blocks::new(3));
        assert_eq!(cache.next_expiry(10), None);
        cache.release(hash(1), 100);
        cache.release(hash(0), 103);
        assert_eq!(cache.next_expiry(10), Some(110));
        cache.share(hash(1), MINE);
        assert_eq!(cache.next_expiry(10), Some(113));
        cache.release(hash(1), 200);
        assert_eq!(cache.evict().expect("unused").index(), 0);
        assert_eq!(cache.next_expiry(u64::MAX), Some(u64::MAX));
    }

    #[test]
    fn what_is_forgotten_is_found_by_nobody_and_due_once_nobody_uses_it() {
        let mut blocks = Blocks::new(4);
        let mut cache = filled(&mut blocks);
        let others = blocks.take().expect("free");
        cache.keep(hash(9), others, Agent(2)).expect("new");
        cache.release(hash(9), 1);
        cache.release(hash(2), 5);
        cache.forget(MINE);
        assert_eq!(cache.next_expiry(1000), Some(0));
        assert_eq!(cache.evict().expect("due").index(), 2);
        assert_eq!(cache.next_expiry(1000), Some(1001), "the other's is not");
        assert_eq!(cache.known(&[hash(0)]), (0, 0));
        assert_eq!(cache.share(hash(0), MINE), None);
        cache.release(hash(0), 50);
        assert_eq!(cache.next_expiry(1000), Some(0));
        assert_eq!(cache.evict().expect("due").index(), 0);
    }

    #[test]
    fn what_another_agents_prompts_have_too_is_not_forgotten() {
        let mut cache = filled(&mut Blocks::new(3));
        cache.share(hash(0), Agent(2));
        (0..3).for_each(|n| cache.release(hash(n), 1));
        cache.release(hash(0), 1);
        cache.forget(MINE);
        let mut due = Vec::new();
        while cache.next_expiry(1000) == Some(0) {
            due.extend(cache.evict().map(|block| block.index()));
        }
        assert_eq!(due, [1, 2]);
        assert_eq!(cache.share(hash(0), Agent(2)), Some(0));
    }
}
