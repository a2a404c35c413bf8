//! The read-back: is this memory zero, and if not, how much of it and where first?
//!
//! The common answer is "all zero", so the fast path only folds bytes together with OR, a block
//! at a time, and the slow path runs over blocks that are known to be dirty. The compiler is told that
//! the memory may have changed since anyone last wrote it, so that every byte is really loaded.

use crate::fill::observe;

/// What a read-back found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Residue {
    /// Bytes that were not zero.
    pub count: u64,
    /// Offset of the first of them, bytes from the start of what was read.
    pub first_offset: Option<u64>,
}

impl Residue {
    /// True when every byte read was zero.
    pub fn is_clean(&self) -> bool {
        self.count == 0
    }

    /// Adds what was found in a later part of the same memory, which starts at `offset`.
    pub fn add_later(&mut self, later: Residue, offset: u64) {
        self.count += later.count;
        if self.first_offset.is_none() {
            self.first_offset = later.first_offset.map(|first| first + offset);
        }
    }
}

/// Bytes that are folded together before one comparison.
const BLOCK_BYTES: usize = 512;

/// Bytes of a block that are folded side by side: two vectors of AVX2.
const LINE_BYTES: usize = 64;

/// Reads all of `bytes` and reports those that are not zero.
#[inline]
pub fn verify_zero(bytes: &[u8]) -> Residue {
    observe(bytes.as_ptr());
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just asked and has AVX2.
        return unsafe { scan_avx2(bytes) };
    }
    scan(bytes)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn scan_avx2(bytes: &[u8]) -> Residue {
    scan(bytes)
}

#[inline(always)]
fn scan(bytes: &[u8]) -> Residue {
    let mut residue = Residue::default();
    let (blocks, tail) = bytes.as_chunks::<BLOCK_BYTES>();
    for (index, block) in blocks.iter().enumerate() {
        if is_dirty(block) {
            count_dirty(block, index * BLOCK_BYTES, &mut residue);
        }
    }
    if tail.iter().fold(0, |all, byte| all | byte) != 0 {
        count_dirty(tail, blocks.len() * BLOCK_BYTES, &mut residue);
    }
    residue
}

/// Lane by lane over a block, and across the lanes once at its end.
#[inline(always)]
fn is_dirty(block: &[u8; BLOCK_BYTES]) -> bool {
    let (lines, _) = block.as_chunks::<LINE_BYTES>();
    let mut lanes = [0u8; LINE_BYTES];
    for line in lines {
        for (lane, byte) in lanes.iter_mut().zip(line) {
            *lane |= byte;
        }
    }
    lanes.iter().fold(0, |all, lane| all | lane) != 0
}

#[inline(never)]
fn count_dirty(bytes: &[u8], offset: usize, residue: &mut Residue) {
    for (index, byte) in bytes.iter().enumerate() {
        if *byte != 0 {
            residue.count += 1;
            residue.first_offset.get_or_insert((offset + index) as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fill_zero;
    use proptest::prelude::*;

    #[test]
    fn zero_memory_of_every_small_length_is_clean() {
        let bytes = [0u8; 300];
        for length in 0..=bytes.len() {
            assert!(verify_zero(&bytes[..length]).is_clean());
        }
    }

    #[test]
    fn planted_residue_is_found_at_the_first_the_last_and_an_unaligned_byte() {
        let mut bytes = vec![0u8; 4099];
        for at in [0, 1, 63, 64, 2049, 4095, 4098] {
            bytes[at] = 1;
            let expected = Residue {
                count: 1,
                first_offset: Some(at as u64),
            };
            assert_eq!(verify_zero(&bytes), expected);
            bytes[at] = 0;
        }
    }

    #[test]
    fn a_forgotten_fill_is_found() {
        let mut bytes = vec![0x5Au8; 1000];
        assert_eq!(
            verify_zero(&bytes),
            Residue {
                count: 1000,
                first_offset: Some(0)
            }
        );
        fill_zero(&mut bytes[..999]);
        assert_eq!(
            verify_zero(&bytes),
            Residue {
                count: 1,
                first_offset: Some(999)
            }
        );
    }

    proptest! {
        #[test]
        fn agrees_with_counting_one_by_one(
            bytes in proptest::collection::vec(prop_oneof![9 => Just(0u8), 1 => any::<u8>()], 0..700),
            start in 0usize..64,
        ) {
            let part = &bytes[start.min(bytes.len())..];
            let count = part.iter().filter(|byte| **byte != 0).count() as u64;
            let first_offset = part.iter().position(|byte| *byte != 0).map(|at| at as u64);
            prop_assert_eq!(verify_zero(part), Residue { count, first_offset });
        }
    }
}
