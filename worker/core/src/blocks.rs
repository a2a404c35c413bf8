//! KV blocks: which are clean, live or dirty.
//!
//! Each state is a type of its own, and there is one way round: [`Blocks::take`] makes a clean block
//! [`Live`], [`Live::end`] makes it [`Dirty`], and only [`Blocks::cleaned`], which takes what the
//! read-back found, makes it clean again. So a dirty block cannot be handed out: no function would. None
//! of the types can be copied, so that no block has two owners:
//!
//! ```compile_fail
//! let mut blocks = bulkhead_worker_core::Blocks::new(1);
//! let live = blocks.take().unwrap();
//! let dirty = live.end();
//! live.index(); // It is not live any more.
//! ```
//!
//! ```compile_fail
//! let mut blocks = bulkhead_worker_core::Blocks::new(1);
//! let dirty = blocks.take().unwrap().end();
//! let live: bulkhead_worker_core::Live = dirty; // Dirty is not live, and nothing makes it so.
//! ```
//!
//! ```compile_fail
//! let mut blocks = bulkhead_worker_core::Blocks::new(1);
//! let dirty = blocks.take().unwrap().end();
//! blocks.cleaned(dirty, 0);
//! blocks.cleaned(dirty, 0); // It was given back already.
//! ```

use std::collections::BTreeSet;

/// Tokens whose keys and values one block holds.
pub const BLOCK_TOKENS: usize = 16;

/// Blocks that `tokens` tokens take.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// A block that reads as zero throughout.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Clean(u32);

/// A block that somebody uses.
#[derive(Debug)]
#[must_use = "a live block has to be ended, or it is lost"]
pub struct Live(u32);

impl Live {
    /// Which block of the pool it is.
    pub fn index(&self) -> u32 {
        self.0
    }

    /// Nobody uses it any more: it is dirty from now on.
    pub fn end(self) -> Dirty {
        Dirty(self.0)
    }
}

/// A block that somebody wrote and that was not zeroed since.
#[derive(Debug)]
#[must_use = "a dirty block has to be zeroed and given back with `cleaned`"]
pub struct Dirty(u32);

impl Dirty {
    /// Which block of the pool it is.
    pub fn index(&self) -> u32 {
        self.0
    }
}

/// Zeroes a block and reads it back: returns how many of its bytes are not zero even so.
pub type Cleaner<'a> = dyn FnMut(&Dirty) -> u64 + 'a;

/// All blocks of one tenant's pool.
#[derive(Debug, Default)]
pub struct Blocks {
    /// Never used, or checked a second time since.
    clean: BTreeSet<Clean>,
    /// Used and cleaned: clean as well, but checked once only.
    again: BTreeSet<Clean>,
    total: usize,
    lost: usize,
}

impl Blocks {
    /// A pool of `total` clean blocks.
    pub fn new(total: u32) -> Self {
        Blocks {
            clean: (0..total).map(Clean).collect(),
            total: total as usize,
            ..Blocks::default()
        }
    }

    /// Blocks that can be in use at once.
    pub fn capacity(&self) -> usize {
        self.total - self.lost
    }

    /// Blocks that are clean and free.
    pub fn free(&self) -> usize {
        self.clean.len() + self.again.len()
    }

    /// A clean block; one that was in use before rather than one that never was.
    pub fn take(&mut self) -> Option<Live> {
        let taken = self.again.pop_first().or_else(|| self.clean.pop_first());
        taken.map(|Clean(index)| Live(index))
    }

    /// Takes a block back after it was zeroed and read, `residue_bytes` of which were not zero. A
    /// block with residue is never handed out again.
    pub fn cleaned(&mut self, block: Dirty, residue_bytes: u64) {
        if residue_bytes == 0 {
            self.again.insert(Clean(block.0));
        } else {
            self.lost += 1;
        }
    }

    /// Free blocks that were in use and are to be checked a second time.
    pub fn to_recheck(&self) -> usize {
        self.again.len()
    }

    /// Has one of those cleaned and read once more.
    pub fn recheck(&mut self, clean: &mut Cleaner<'_>) {
        if let Some(Clean(index)) = self.again.pop_first() {
            if clean(&Dirty(index)) == 0 {
                self.clean.insert(Clean(index));
            } else {
                self.lost += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_block_with_residue_is_never_handed_out_again() {
        let mut blocks = Blocks::new(2);
        let (first, second) = (blocks.take().expect("one"), blocks.take().expect("two"));
        blocks.cleaned(first.end(), 1);
        assert_eq!((blocks.capacity(), blocks.free()), (1, 0));
        blocks.cleaned(second.end(), 0);
        assert_eq!(blocks.take().expect("the other").index(), 1);
        assert!(blocks.take().is_none());
    }

    #[test]
    fn residue_found_at_the_second_look_counts_too() {
        let mut blocks = Blocks::new(1);
        let block = blocks.take().expect("one");
        blocks.cleaned(block.end(), 0);
        blocks.recheck(&mut |_| 1);
        assert_eq!((blocks.capacity(), blocks.free()), (0, 0));
        assert!(blocks.take().is_none());
    }

    #[test]
    fn each_used_block_is_checked_once_more_when_it_is_free() {
        let mut blocks = Blocks::new(9);
        let (held, ended) = (blocks.take().expect("one"), blocks.take().expect("two"));
        blocks.cleaned(ended.end(), 0);
        let mut seen = Vec::new();
        let mut clean = |block: &Dirty| {
            seen.push(block.index());
            0
        };
        blocks.recheck(&mut clean);
        assert_eq!(blocks.to_recheck(), 0, "the other is held");
        blocks.recheck(&mut clean);
        blocks.cleaned(held.end(), 0);
        blocks.recheck(&mut clean);
        assert_eq!(seen, [1, 0]);
        assert_eq!(blocks.free(), 9);
    }

    proptest! {
        #[test]
        fn no_block_ever_has_two_owners_and_none_is_lost(
            total in 1u32..40,
            acts in proptest::collection::vec((0u8..4, any::<usize>()), 0..300),
        ) {
            let mut blocks = Blocks::new(total);
            let mut live: Vec<Live> = Vec::new();
            let mut dirty: Vec<Dirty> = Vec::new();
            for (act, which) in acts {
                match act {
                    0 => live.extend(blocks.take()),
                    1 if !live.is_empty() => {
                        dirty.push(live.swap_remove(which % live.len()).end());
                    }
                    2 if !dirty.is_empty() => {
                        blocks.cleaned(dirty.swap_remove(which % dirty.len()), 0);
                    }
                    _ => blocks.recheck(&mut |_| 0),
                }
                let held: Vec<u32> = live.iter().map(Live::index)
                    .chain(dirty.iter().map(Dirty::index)).collect();
                let distinct: HashSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(distinct.len(), held.len());
                prop_assert_eq!(held.len() + blocks.free(), total as usize);
            }
        }
    }
}
