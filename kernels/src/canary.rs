//! Canaries: patterns that are planted in memory so that finding one later proves a leak.
//!
//! A canary is a run of pseudo-random bytes that depends on a seed, so that its presence cannot be an
//! accident and two canaries cannot be taken for each other. Scans look for pieces, since memory that
//! was partly reused still leaks. No randomness is drawn here: the caller gives the seed or the bytes.

/// Fills `bytes` with the canary of `seed` (SplitMix64's stream; no byte pattern repeats in it).
pub fn fill(bytes: &mut [u8], seed: u64) {
    let mut state = seed;
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^= word >> 31;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

/// Offset in `memory` of the first run of `piece_bytes` bytes that also occurs in `canary`.
///
/// `piece_bytes` is at least 1; a canary shorter than that is never found.
pub fn scan(memory: &[u8], canary: &[u8], piece_bytes: usize) -> Option<usize> {
    assert!(piece_bytes > 0, "a piece has at least one byte");
    if canary.len() < piece_bytes || memory.len() < piece_bytes {
        return None;
    }
    let mut firsts = [false; 256];
    for piece in canary.windows(piece_bytes) {
        firsts[usize::from(piece[0])] = true;
    }
    memory.windows(piece_bytes).position(|window| {
        firsts[usize::from(window[0])] && canary.windows(piece_bytes).any(|piece| piece == window)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_canary_and_a_piece_of_one_are_found() {
        let mut canary = [0u8; 32];
        fill(&mut canary, 7);
        let mut memory = vec![0u8; 1000];
        assert_eq!(scan(&memory, &canary, 16), None);
        memory[500..532].copy_from_slice(&canary);
        assert_eq!(scan(&memory, &canary, 16), Some(500));
        memory[500..507].fill(0);
        assert_eq!(scan(&memory, &canary, 16), Some(507));
        memory[500..520].fill(0);
        assert_eq!(
            scan(&memory, &canary, 16),
            None,
            "12 bytes are no piece of 16"
        );
    }

    #[test]
    fn canaries_of_two_seeds_share_no_piece() {
        let (mut a, mut b) = ([0u8; 64], [0u8; 64]);
        fill(&mut a, 1);
        fill(&mut b, 2);
        assert_eq!(scan(&a, &b, 4), None);
    }
}
