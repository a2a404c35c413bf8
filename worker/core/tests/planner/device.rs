//! A device that remembers what was written into each block, and complains.

use bulkhead_worker_core::{BLOCK_TOKENS, Dirty};

/// What the tokens of a sequence up to some place are, as one number.
pub type Content = u64;

/// The pool: what each place of each block holds; 0 is clean.
pub struct Device {
    blocks: Vec<[Content; BLOCK_TOKENS]>,
    pub cleaned: u64,
}

impl Device {
    pub fn new(blocks: u32) -> Self {
        Device {
            blocks: vec![[0; BLOCK_TOKENS]; blocks as usize],
            cleaned: 0,
        }
    }

    /// Zeroes a block.
    pub fn clean(&mut self, block: &Dirty) -> u64 {
        self.blocks[block.index() as usize] = [0; BLOCK_TOKENS];
        self.cleaned += 1;
        0
    }

    /// Computes the token at `position`: everything before it has to be there, and its place clean.
    pub fn compute(&mut self, table: &[u32], position: usize, contents: &[Content]) {
        for (place, content) in contents.iter().enumerate().take(position) {
            assert_eq!(
                *self.at(table, place),
                *content,
                "something else at {place}"
            );
        }
        let place = self.at(table, position);
        assert_eq!(*place, 0, "a block was handed out dirty");
        *place = contents[position];
    }

    fn at(&mut self, table: &[u32], place: usize) -> &mut Content {
        let block = table[place / BLOCK_TOKENS] as usize;
        &mut self.blocks[block][place % BLOCK_TOKENS]
    }

    /// Blocks that hold anything.
    pub fn written(&self) -> usize {
        let written = |block: &&[Content; BLOCK_TOKENS]| block.iter().any(|place| *place != 0);
        self.blocks.iter().filter(written).count()
    }
}
