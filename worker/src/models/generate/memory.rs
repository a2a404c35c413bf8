//! Who holds which block of the tenant's quota, and what was cleaned of it.
//!
//! A block is free again only once it was zeroed and read back.

use crate::engine::Scrubbed;
use crate::models::decoder::Decoder;
use crate::models::scratch::sum;
use bulkhead_worker_core::{BLOCK_TOKENS, Blocks, CannotFit, Table};

/// The book of the pool's blocks.
#[derive(Debug, Default)]
pub struct Memory {
    blocks: Blocks,
    block_bytes: u64,
    held: u64,
    /// What was zeroed when sequences ended, since the last scrub.
    ended: Scrubbed,
}

impl Memory {
    /// A pool of `blocks` clean blocks.
    pub fn new(blocks: u32, block_bytes: u64) -> Self {
        Memory {
            blocks: Blocks::new(blocks),
            block_bytes,
            ..Memory::default()
        }
    }

    /// Room for `tokens` tokens, if it is free now; an error if it never can be.
    pub fn take(&mut self, tokens: usize) -> Result<Option<Table>, CannotFit> {
        let table = self.blocks.take(tokens)?;
        self.held += table
            .as_ref()
            .map_or(0, |table| table.blocks().len() as u64);
        Ok(table)
    }

    /// Tokens that fit into the whole quota.
    pub fn capacity_tokens(&self) -> usize {
        self.blocks.capacity() * BLOCK_TOKENS
    }

    /// Has the blocks of a sequence that ended zeroed and read back; only then they are free.
    pub fn end(&mut self, table: Table, decoder: &mut dyn Decoder) {
        self.held -= table.blocks().len() as u64;
        for dirty in table.end() {
            let index = dirty.index() as u32;
            let scrubbed = decoder.clean(index..index + 1);
            self.ended = sum(self.ended, scrubbed);
            self.blocks.cleaned(dirty, scrubbed.residue);
        }
    }

    /// What was zeroed since the last scrub. With no live sequence, all blocks that were ever handed
    /// out (no other was ever written) are zeroed and read back again.
    pub fn scrub(&mut self, decoder: &mut dyn Decoder) -> Scrubbed {
        let ended = std::mem::take(&mut self.ended);
        if self.held > 0 || self.blocks.high_water() == 0 {
            return ended;
        }
        sum(ended, decoder.clean(0..self.blocks.high_water() as u32))
    }

    /// Bytes that live sequences hold.
    pub fn held_bytes(&self) -> u64 {
        self.held * self.block_bytes
    }
}
