//! KV blocks: who holds which, and which are clean.
//!
//! A block is clean, live or dirty, and each state is a type of its own. Only a [`Table`] holds live
//! blocks, only ending a table makes dirty ones, and only [`Blocks::cleaned`], which takes the
//! read-back's finding, makes a dirty block clean again. So a dirty block cannot be handed out: there
//! is no function that would. None of the types can be copied, so no block has two owners.
//!
//! A sequence gets all the blocks that it can ever need at once, or none: nothing has to be taken
//! back halfway, and sequences cannot wait for each other in a circle.

/// Tokens whose keys and values one block holds.
pub const BLOCK_TOKENS: usize = 16;

/// Blocks that `tokens` tokens take.
pub fn blocks_for(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

/// A block that reads as zero throughout.
#[derive(Debug)]
struct Clean(u32);

/// A block that somebody wrote and that was not zeroed yet.
#[derive(Debug)]
#[must_use = "a dirty block has to be zeroed and given back with `cleaned`"]
pub struct Dirty(u32);

impl Dirty {
    /// Which block of the pool it is.
    pub fn index(&self) -> usize {
        self.0 as usize
    }
}

/// The blocks of one live sequence, in the order of its tokens.
#[derive(Debug)]
#[must_use = "a table has to be ended, or its blocks are lost"]
pub struct Table {
    live: Vec<u32>,
}

impl Table {
    /// The block that holds token `position`, and the token's place in it. None beyond the table.
    pub fn place(&self, position: usize) -> Option<(usize, usize)> {
        let block = *self.live.get(position / BLOCK_TOKENS)?;
        Some((block as usize, position % BLOCK_TOKENS))
    }

    /// The pool's numbers of the blocks, in the order of the tokens.
    pub fn blocks(&self) -> &[u32] {
        &self.live
    }

    /// Ends the table: its blocks are dirty from now on.
    pub fn end(self) -> Vec<Dirty> {
        self.live.into_iter().map(Dirty).collect()
    }
}

/// More blocks were asked for than the pool can ever give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{needed} KV blocks are needed and the whole quota holds {capacity}")]
pub struct CannotFit {
    /// Blocks asked for.
    pub needed: usize,
    /// Blocks that the pool has for use.
    pub capacity: usize,
}

/// All blocks of one tenant's pool.
#[derive(Debug, Default)]
pub struct Blocks {
    clean: Vec<Clean>,
    total: usize,
    lost: usize,
    high_water: usize,
}

impl Blocks {
    /// A pool of `total` clean blocks.
    pub fn new(total: u32) -> Self {
        Blocks {
            // Handed out from the end, so the lowest are used first and the rest stays untouched.
            clean: (0..total).rev().map(Clean).collect(),
            total: total as usize,
            lost: 0,
            high_water: 0,
        }
    }

    /// Blocks that can be in use at once.
    pub fn capacity(&self) -> usize {
        self.total - self.lost
    }

    /// Blocks that are clean and free.
    pub fn free(&self) -> usize {
        self.clean.len()
    }

    /// Blocks below this number were handed out at some time; the others were never written.
    pub fn high_water(&self) -> usize {
        self.high_water
    }

    /// Blocks for `tokens` tokens: `Ok(None)` while others hold too many, an error where waiting
    /// would be for ever.
    pub fn take(&mut self, tokens: usize) -> Result<Option<Table>, CannotFit> {
        let needed = blocks_for(tokens);
        if needed > self.capacity() {
            return Err(CannotFit {
                needed,
                capacity: self.capacity(),
            });
        }
        if needed > self.clean.len() {
            return Ok(None);
        }
        let taken = self.clean.split_off(self.clean.len() - needed);
        let live: Vec<u32> = taken.into_iter().rev().map(|Clean(index)| index).collect();
        let top = live.iter().max().map_or(0, |index| *index as usize + 1);
        self.high_water = self.high_water.max(top);
        Ok(Some(Table { live }))
    }

    /// Takes a block back after it was zeroed and read, `residue_bytes` of which were not zero. A
    /// block with residue is never handed out again.
    pub fn cleaned(&mut self, block: Dirty, residue_bytes: u64) {
        if residue_bytes == 0 {
            self.clean.push(Clean(block.0));
        } else {
            self.lost += 1;
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
        let table = blocks.take(32).expect("fits").expect("free");
        let mut residue = 1;
        for dirty in table.end() {
            blocks.cleaned(dirty, residue);
            residue = 0;
        }
        assert_eq!(blocks.capacity(), 1);
        assert_eq!(
            blocks.take(32).unwrap_err(),
            CannotFit {
                needed: 2,
                capacity: 1
            }
        );
        assert!(blocks.take(16).expect("fits").is_some());
    }

    #[test]
    fn a_dirty_block_is_not_free() {
        let mut blocks = Blocks::new(1);
        let table = blocks.take(1).expect("fits").expect("free");
        let dirty = table.end();
        assert!(blocks.take(1).expect("fits").is_none());
        for block in dirty {
            blocks.cleaned(block, 0);
        }
        assert!(blocks.take(1).expect("fits").is_some());
    }

    proptest! {
        #[test]
        fn no_block_ever_has_two_owners_and_none_is_lost(
            total in 1u32..40,
            acts in proptest::collection::vec((any::<bool>(), 1usize..300, any::<usize>()), 0..200),
        ) {
            let mut blocks = Blocks::new(total);
            let mut tables: Vec<Table> = Vec::new();
            for (begin, tokens, which) in acts {
                if begin {
                    match blocks.take(tokens) {
                        Ok(Some(table)) => {
                            prop_assert_eq!(table.blocks().len(), blocks_for(tokens));
                            prop_assert!(table.place(tokens - 1).is_some());
                            tables.push(table);
                        }
                        Ok(None) => prop_assert!(blocks_for(tokens) > blocks.free()),
                        Err(error) => prop_assert!(error.needed > total as usize),
                    }
                } else if !tables.is_empty() {
                    for dirty in tables.swap_remove(which % tables.len()).end() {
                        blocks.cleaned(dirty, 0);
                    }
                }
                let held: Vec<u32> = tables.iter().flat_map(|t| t.blocks().to_vec()).collect();
                let distinct: HashSet<u32> = held.iter().copied().collect();
                prop_assert_eq!(distinct.len(), held.len());
                prop_assert_eq!(held.len() + blocks.free(), total as usize);
                prop_assert!(held.iter().all(|index| (*index as usize) < blocks.high_water()));
            }
        }
    }
}
