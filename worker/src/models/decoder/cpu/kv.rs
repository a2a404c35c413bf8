//! The memory of keys and values: one pool of blocks, of which the quota is all there ever is.
//!
//! Which block is whose is not known here; no byte beyond the pool is ever touched.

use crate::engine::Scrubbed;
use crate::models::decoder::Layout;
use bulkhead_kernels::pool::CpuPool;
use bulkhead_kernels::{Pool, PoolError};
use pulp::bytemuck::{cast_slice, cast_slice_mut};
use std::ops::Range;

/// Blocks of one pool at most: what the book-keeping is bounded by.
const BLOCKS_MAX: u32 = 1 << 20;

/// The pool.
#[derive(Debug)]
pub struct Kv {
    layout: Layout,
    pool: Option<CpuPool>,
    blocks: u32,
}

impl Kv {
    /// Without a pool: no sequence fits.
    pub fn empty(layout: Layout) -> Self {
        Kv {
            layout,
            pool: None,
            blocks: 0,
        }
    }

    /// As many whole blocks as `quota_bytes` has room for.
    pub fn new(layout: Layout, quota_bytes: u64) -> Result<Self, PoolError> {
        let blocks = quota_bytes / layout.block_bytes() as u64;
        let blocks = u32::try_from(blocks).unwrap_or(BLOCKS_MAX).min(BLOCKS_MAX);
        if blocks == 0 {
            return Ok(Kv::empty(layout));
        }
        Ok(Kv {
            layout,
            pool: Some(CpuPool::new(blocks as usize * layout.block_bytes())?),
            blocks,
        })
    }

    /// Blocks that there are.
    pub fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Zeroes blocks and reads them back.
    pub fn clean(&mut self, blocks: Range<u32>) -> Scrubbed {
        let block = self.layout.block_bytes();
        let range = blocks.start as usize * block..blocks.end as usize * block;
        let bytes = range.len() as u64;
        let Some(pool) = &mut self.pool else {
            return Scrubbed::unknown(bytes);
        };
        match pool.zero(range.clone()).and_then(|()| pool.verify(range)) {
            Ok(found) => Scrubbed::read_back(bytes, found),
            Err(_) => Scrubbed::unknown(bytes),
        }
    }

    fn used(&self) -> Range<usize> {
        0..self.blocks as usize * self.layout.block_bytes()
    }

    /// All blocks, to read.
    pub fn floats(&self) -> &[f32] {
        let pool = self.pool.as_ref();
        pool.and_then(|pool| pool.slice(self.used()).ok())
            .map_or(&[], cast_slice)
    }

    /// All blocks, to write.
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
    fn cleaning_touches_the_blocks_that_were_named_and_no_other() {
        let mut kv = Kv::new(LAYOUT, 10 * LAYOUT.block_bytes() as u64 + 5).expect("small");
        assert_eq!(kv.blocks(), 10);
        kv.floats_mut().fill(1.0);
        let scrubbed = kv.clean(2..5);
        let bytes = 3 * LAYOUT.block_bytes() as u64;
        assert_eq!(
            (scrubbed.zeroed, scrubbed.verified, scrubbed.residue),
            (bytes, bytes, 0)
        );
        let zero = |block: usize| {
            kv.floats()[block * LAYOUT.block()..][..LAYOUT.block()]
                .iter()
                .all(|x| *x == 0.0)
        };
        assert!((0..10).all(|block| zero(block) == (2..5).contains(&block)));
    }

    #[test]
    fn a_quota_below_a_block_holds_nothing() {
        let mut kv = Kv::new(LAYOUT, 10).expect("nothing is mapped");
        assert_eq!(kv.blocks(), 0);
        assert_eq!(kv.clean(0..1).residue, LAYOUT.block_bytes() as u64);
    }
}
