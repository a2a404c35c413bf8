//! Names of prompts' blocks for the prefix cache: a chain of keyed hashes.
//!
//! The name of a block stands for all tokens up to its end, so equal names mean equal prompts so far.
//! It is HMAC-SHA256, cut to 128 bits, under a key that this process drew for itself: nobody who
//! chooses a prompt can choose its name, or know one.

use aws_lc_rs::hmac;
use bulkhead_worker_core::{BLOCK_TOKENS, BlockHash};

/// The key of one worker's cache.
pub struct PrefixKey(hmac::Key);

impl PrefixKey {
    /// From a number drawn at random.
    pub fn new(number: u128) -> Self {
        PrefixKey(hmac::Key::new(hmac::HMAC_SHA256, &number.to_le_bytes()))
    }

    /// The names of a prompt's whole blocks.
    pub fn chain(&self, tokens: &[u32]) -> Vec<BlockHash> {
        let mut before = 0u128;
        let name = |block: &[u32; BLOCK_TOKENS]| {
            let mut context = hmac::Context::with_key(&self.0);
            context.update(&before.to_le_bytes());
            block
                .iter()
                .for_each(|id| context.update(&id.to_le_bytes()));
            let tag = context.sign();
            let half = tag.as_ref().first_chunk::<16>();
            before = half.map_or(0, |half| u128::from_le_bytes(*half));
            BlockHash(before)
        };
        tokens.as_chunks().0.iter().map(name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_everything_before_it_and_for_the_key() {
        let key = PrefixKey::new(7);
        let mut tokens: Vec<u32> = (0..50).collect();
        let names = key.chain(&tokens);
        assert_eq!(names.len(), 3);
        assert_eq!(key.chain(&tokens[..40]), names[..2]);
        assert_ne!(PrefixKey::new(8).chain(&tokens)[0], names[0]);
        tokens[3] = 99;
        let others = key.chain(&tokens);
        assert!(names.iter().zip(&others).all(|(name, other)| name != other));
    }
}
