//! Scrubbing a pool that a driver allocates from in a stream's order: all that it holds, whoever had it.
//!
//! Such a pool keeps what was freed, to hand it out again, and does not say where it lies. So a scrub takes all of
//! it: it allocates until what is used is what is reserved, zeroes and reads back those blocks, and gives them
//! back. The order is: wait for the device; nothing may be used any more; cover; zero; verify; free; trim.
//! Whatever cannot be shown is an error, after which the process that owns the pool has to end.
//!
//! Nothing here knows a driver: [`StreamPool`] is what a scrub needs of one.

use super::PoolError;
use crate::{Residue, ScrubReport};

/// What drivers round blocks up to at least, bytes.
const LEAST_BYTES: u64 = 512;
/// Blocks that a cover is made of at most.
const BLOCKS_MAX: usize = 1 << 16;

/// A pool of a driver.
pub trait StreamPool {
    /// Memory that was taken from it.
    type Block;
    /// Waits for all that was launched.
    fn synchronise(&mut self) -> Result<(), PoolError>;
    /// Bytes of blocks that were taken and not given back.
    fn used_bytes(&self) -> Result<u64, PoolError>;
    /// Bytes that the pool holds, used or not.
    fn reserved_bytes(&self) -> Result<u64, PoolError>;
    /// Takes a block; `None` where the pool has no room for it.
    fn take(&mut self, bytes: u64) -> Result<Option<Self::Block>, PoolError>;
    /// How long a block is, bytes.
    fn len(block: &Self::Block) -> u64;
    /// Zeroes it.
    fn zero(&mut self, block: &mut Self::Block) -> Result<(), PoolError>;
    /// Reads it back.
    fn verify(&mut self, block: &Self::Block) -> Result<Residue, PoolError>;
    /// Gives it back.
    fn give_back(&mut self, block: Self::Block) -> Result<(), PoolError>;
    /// Hands to the system what is not used.
    fn trim(&mut self) -> Result<(), PoolError>;
}

/// Zeroes and reads back all that the pool holds, and trims it. `now_ns` is the caller's clock. Offsets in the
/// report count through the blocks, and say nothing of where they lie.
pub fn scrub<P: StreamPool>(
    pool: &mut P,
    now_ns: &dyn Fn() -> u64,
) -> Result<ScrubReport, PoolError> {
    let start_ns = now_ns();
    pool.synchronise()?;
    let used = pool.used_bytes()?;
    if used > 0 {
        return Err(PoolError::InUse { bytes: used });
    }
    let mut blocks = cover(pool)?;
    for block in &mut blocks {
        pool.zero(block)?;
    }
    let (mut bytes, mut residue) = (0, Residue::default());
    for block in &blocks {
        residue.add_later(pool.verify(block)?, bytes);
        bytes += P::len(block);
    }
    for block in blocks {
        pool.give_back(block)?;
    }
    pool.synchronise()?;
    pool.trim()?;
    let spent_ns = now_ns().saturating_sub(start_ns);
    Ok(ScrubReport::of(bytes, residue, spent_ns))
}

/// Takes all that the pool holds.
fn cover<P: StreamPool>(pool: &mut P) -> Result<Vec<P::Block>, PoolError> {
    let mut blocks = Vec::new();
    let mut ask = u64::MAX;
    loop {
        let reserved = pool.reserved_bytes()?;
        let left = reserved.saturating_sub(pool.used_bytes()?);
        if left == 0 {
            return Ok(blocks);
        }
        // Rounded down, so that no block asks for more than is left.
        ask = ask.min(left) / LEAST_BYTES * LEAST_BYTES;
        if ask == 0 || blocks.len() == BLOCKS_MAX {
            return Err(PoolError::Uncovered { bytes: left });
        }
        match pool.take(ask)? {
            Some(block) => {
                blocks.push(block);
                // It grew where it should have used what it has: no hole is as large as that. What it grew by is
                // used, and counts; the holes get smaller blocks.
                if pool.reserved_bytes()? > reserved {
                    ask /= 2;
                }
            }
            None => ask /= 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{canary, fill_zero, verify_zero};
    use proptest::prelude::*;

    /// A pool of chunks with holes, as a driver's may be after a job. Blocks are taken where they fit first.
    #[derive(Default)]
    struct Holes {
        /// Memory that it holds.
        memory: Vec<u8>,
        /// Bytes that can be taken together, and where: what a job's own blocks left.
        holes: Vec<(usize, usize)>,
        taken: u64,
        /// Bytes that it may still grow by.
        growth: usize,
        /// Bytes that live tensors still have.
        alive: u64,
        /// Takes are rounded up to so much.
        round: usize,
        /// Zeroing does not reach the last bytes of a block.
        forgets: bool,
        /// The smallest holes are never handed out.
        hides: bool,
    }

    impl Holes {
        fn new(sizes: &[usize], round: usize) -> Self {
            let mut holes = Vec::new();
            let mut at = 0;
            for size in sizes {
                holes.push((at, size * round));
                at += size * round;
            }
            let mut memory = vec![0; at];
            canary::fill(&mut memory, 1);
            Holes {
                memory,
                holes,
                round,
                ..Holes::default()
            }
        }
    }

    impl StreamPool for Holes {
        type Block = (usize, usize);
        fn synchronise(&mut self) -> Result<(), PoolError> {
            Ok(())
        }
        fn used_bytes(&self) -> Result<u64, PoolError> {
            Ok(self.taken + self.alive)
        }
        fn reserved_bytes(&self) -> Result<u64, PoolError> {
            Ok(self.memory.len() as u64 + self.alive)
        }
        fn take(&mut self, bytes: u64) -> Result<Option<Self::Block>, PoolError> {
            let bytes = (bytes as usize).next_multiple_of(self.round);
            let least = if self.hides { 2 * self.round } else { 0 };
            let fits = |(_, len): &&mut (usize, usize)| *len >= bytes && *len >= least;
            let found = self.holes.iter_mut().find(fits);
            let start = match found {
                Some((start, len)) => {
                    (*start, *len) = (*start + bytes, *len - bytes);
                    *start - bytes
                }
                None if self.growth >= bytes => {
                    self.growth -= bytes;
                    let start = self.memory.len();
                    self.memory.resize(start + bytes, 7);
                    start
                }
                None => return Ok(None),
            };
            self.taken += bytes as u64;
            Ok(Some((start, bytes)))
        }
        fn len((_, len): &Self::Block) -> u64 {
            *len as u64
        }
        fn zero(&mut self, (start, len): &mut Self::Block) -> Result<(), PoolError> {
            let end = *start + *len - if self.forgets { 3 } else { 0 };
            fill_zero(&mut self.memory[*start..end]);
            Ok(())
        }
        fn verify(&mut self, (start, len): &Self::Block) -> Result<Residue, PoolError> {
            Ok(verify_zero(&self.memory[*start..start + len]))
        }
        fn give_back(&mut self, (_, len): Self::Block) -> Result<(), PoolError> {
            self.taken -= len as u64;
            Ok(())
        }
        fn trim(&mut self) -> Result<(), PoolError> {
            assert_eq!(self.taken, 0, "all was given back");
            Ok(())
        }
    }

    proptest! {
        #[test]
        fn whatever_the_holes_all_of_the_pool_is_zero_afterwards(
            sizes in proptest::collection::vec(1usize..200, 0..20),
            round in prop_oneof![Just(512usize), Just(2048)],
            growth in 0usize..3_000_000,
        ) {
            let mut pool = Holes::new(&sizes, round);
            pool.growth = growth;
            let report = scrub(&mut pool, &|| 0).expect("it can be covered");
            prop_assert!(report.is_clean());
            prop_assert_eq!(report.bytes_zeroed, pool.memory.len() as u64);
            prop_assert!(verify_zero(&pool.memory).is_clean());
        }
    }

    #[test]
    fn memory_that_is_in_use_is_left_alone_and_said() {
        let mut pool = Holes::new(&[3, 1], 512);
        pool.alive = 640;
        let error = scrub(&mut pool, &|| 0).expect_err("a tensor lives");
        assert!(matches!(error, PoolError::InUse { bytes: 640 }), "{error}");
        assert!(!verify_zero(&pool.memory).is_clean(), "nothing was touched");
    }

    #[test]
    fn memory_that_is_never_handed_out_is_an_error() {
        let mut pool = Holes::new(&[8, 1, 1, 4], 512);
        pool.hides = true;
        let error = scrub(&mut pool, &|| 0).expect_err("the smallest are hidden");
        assert!(
            matches!(error, PoolError::Uncovered { bytes: 1024.. }),
            "{error}"
        );
    }

    #[test]
    fn what_was_not_zeroed_is_residue() {
        let mut pool = Holes::new(&[2, 1], 512);
        pool.forgets = true;
        let report = scrub(&mut pool, &|| 0).expect("it can be covered");
        assert!((1..=9).contains(&report.residue_bytes), "{report:?}");
        assert!(!report.is_clean());
    }
}
