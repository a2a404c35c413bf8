//! The tenant's keys and values: one pool of blocks, of which the quota is all there ever is.
//!
//! In a block, for every layer and key-value head: the keys of 16 tokens, turned around so that one
//! load gives one dimension of all 16; then their values, one token behind the other.

use crate::engine::Scrubbed;
use crate::models::scratch::sum;
use bulkhead_kernels::pool::CpuPool;
use bulkhead_kernels::{Pool, PoolError};
use bulkhead_worker_core::{BLOCK_TOKENS, Blocks, CannotFit, Table};
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;

/// Blocks of one pool at most: what the book-keeping is bounded by.
const BLOCKS_MAX: u32 = 1 << 20;

/// Where things are inside a block.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Layers of the model.
    pub layers: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Width of a head, floats.
    pub width: usize,
}

impl Layout {
    /// Floats of the keys (or the values) of one head in one layer of one block.
    pub fn part(&self) -> usize {
        BLOCK_TOKENS * self.width
    }

    /// Floats of a block.
    pub fn block(&self) -> usize {
        self.layers * self.heads * 2 * self.part()
    }

    /// First float of a head's keys; its values follow.
    pub fn keys(&self, block: usize, layer: usize, head: usize) -> usize {
        block * self.block() + (layer * self.heads + head) * 2 * self.part()
    }

    fn block_bytes(&self) -> usize {
        self.block() * size_of::<f32>()
    }

    /// Bytes that a token takes.
    pub fn token_bytes(&self) -> u64 {
        (self.block_bytes() / BLOCK_TOKENS) as u64
    }
}

/// The pool and who holds what of it.
#[derive(Debug)]
pub struct Kv {
    layout: Layout,
    pool: Option<CpuPool>,
    blocks: Blocks,
    held: usize,
    /// What was zeroed when sequences ended, since the last scrub.
    ended: Scrubbed,
}

impl Kv {
    /// Without a pool: no sequence fits.
    pub fn empty(layout: Layout) -> Self {
        Kv {
            layout,
            pool: None,
            blocks: Blocks::default(),
            held: 0,
            ended: Scrubbed::default(),
        }
    }

    /// As many whole blocks as `quota_bytes` has room for.
    pub fn new(layout: Layout, quota_bytes: u64) -> Result<Self, PoolError> {
        let total = quota_bytes / layout.block_bytes() as u64;
        let total = u32::try_from(total).unwrap_or(BLOCKS_MAX).min(BLOCKS_MAX);
        if total == 0 {
            return Ok(Kv::empty(layout));
        }
        let pool = CpuPool::new(total as usize * layout.block_bytes())?;
        Ok(Kv {
            pool: Some(pool),
            blocks: Blocks::new(total),
            ..Kv::empty(layout)
        })
    }

    /// Where things are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Room for `tokens` tokens, if it is free now; an error if it never can be.
    pub fn take(&mut self, tokens: usize) -> Result<Option<Table>, CannotFit> {
        let table = self.blocks.take(tokens)?;
        self.held += table.as_ref().map_or(0, |table| table.blocks().len());
        Ok(table)
    }

    /// Tokens that fit into the whole quota.
    pub fn capacity_tokens(&self) -> usize {
        self.blocks.capacity() * BLOCK_TOKENS
    }

    /// Zeroes the blocks of a sequence that ended and reads them back; only then they are free.
    pub fn end(&mut self, table: Table) {
        self.held -= table.blocks().len();
        for dirty in table.end() {
            let start = dirty.index() * self.layout.block_bytes();
            let scrubbed = self.clean(start..start + self.layout.block_bytes());
            self.ended = sum(self.ended, scrubbed);
            self.blocks.cleaned(dirty, scrubbed.residue);
        }
    }

    fn clean(&mut self, range: Range<usize>) -> Scrubbed {
        let bytes = range.len() as u64;
        // A pool that cannot answer counts as dirty throughout: nobody may use it again.
        let unknown = Scrubbed {
            zeroed: 0,
            verified: 0,
            residue: bytes,
        };
        let Some(pool) = &mut self.pool else {
            return unknown;
        };
        match pool.zero(range.clone()).and_then(|()| pool.verify(range)) {
            Ok(residue) => Scrubbed {
                zeroed: bytes,
                verified: bytes,
                residue: residue.count,
            },
            Err(_) => unknown,
        }
    }

    /// What was zeroed since the last scrub. With no live sequence, all blocks that were ever handed
    /// out (no other was ever written) are zeroed and read back again.
    pub fn scrub(&mut self) -> Scrubbed {
        let ended = std::mem::take(&mut self.ended);
        if self.held > 0 || self.blocks.high_water() == 0 {
            return ended;
        }
        let whole = self.clean(0..self.blocks.high_water() * self.layout.block_bytes());
        sum(ended, whole)
    }

    /// Bytes that live sequences hold.
    pub fn held_bytes(&self) -> u64 {
        (self.held * self.layout.block_bytes()) as u64
    }

    fn used(&self) -> Range<usize> {
        0..self.blocks.high_water() * self.layout.block_bytes()
    }

    /// All blocks that were ever handed out, to read.
    pub fn floats(&self) -> &[f32] {
        let pool = self.pool.as_ref();
        pool.and_then(|pool| pool.slice(self.used()).ok())
            .map_or(&[], cast_slice)
    }

    /// All blocks that were ever handed out, to write.
    pub fn floats_mut(&mut self) -> &mut [f32] {
        let used = self.used();
        let pool = self.pool.as_mut();
        match pool.and_then(|pool| pool.slice_mut(used).ok()) {
            Some(bytes) => cast_slice_mut(bytes),
            None => &mut [],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        layers: 2,
        heads: 3,
        width: 8,
    };

    #[test]
    fn an_ended_sequence_leaves_zeros_and_the_next_finds_them() {
        let mut kv = Kv::new(LAYOUT, 10 * LAYOUT.block_bytes() as u64 + 5).expect("small");
        let first = kv.take(40).expect("fits").expect("free");
        let second = kv.take(20).expect("fits").expect("free");
        assert_eq!(kv.held_bytes(), 5 * LAYOUT.block_bytes() as u64);
        kv.floats_mut().fill(1.0);
        kv.end(first);
        let zeros = kv.floats().iter().filter(|x| **x == 0.0).count();
        assert_eq!(
            zeros,
            3 * LAYOUT.block(),
            "the other sequence keeps its own"
        );
        let scrubbed = kv.scrub();
        assert_eq!(scrubbed.zeroed, 3 * LAYOUT.block_bytes() as u64);
        kv.end(second);
        assert!(kv.floats().iter().all(|x| *x == 0.0));
        assert_eq!(kv.held_bytes(), 0);
    }

    #[test]
    fn a_dry_scrub_covers_everything_ever_handed_out() {
        let mut kv = Kv::new(LAYOUT, 10 * LAYOUT.block_bytes() as u64).expect("small");
        let table = kv.take(100).expect("fits").expect("free");
        kv.end(table);
        kv.scrub();
        // Something that no bookkeeping knows of.
        kv.floats_mut()[LAYOUT.block() + 3] = 1.0;
        let scrubbed = kv.scrub();
        assert_eq!(scrubbed.verified, 7 * LAYOUT.block_bytes() as u64);
        assert_eq!(scrubbed.residue, 0);
        assert!(kv.floats().iter().all(|x| *x == 0.0));
    }

    #[test]
    fn a_quota_below_a_block_holds_nothing() {
        let mut kv = Kv::new(LAYOUT, 10).expect("nothing is mapped");
        assert!(kv.take(1).is_err());
        assert_eq!(kv.scrub(), Scrubbed::default());
    }
}
