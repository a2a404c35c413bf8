//! Keyed digests of memory: has any of it been changed since?
//!
//! Memory is digested in pieces of [`PIECE_BYTES`], each by itself. A piece's 32-bit words, little-endian, are the
//! coefficients of a polynomial over the field of p = 2⁶¹ - 1 numbers; its digest is that polynomial's value at a
//! secret, uniformly drawn point. Two different pieces of n words differ in a polynomial of degree n - 1 at most,
//! which has at most n - 1 roots: whoever does not know the point changes a piece, and keeps its digest, with
//! probability (n - 1) / p at most, however cleverly the change is chosen. With n = 2¹⁴ that is below 2⁻⁴⁷ for each
//! change that is looked at; and of a change in several pieces, each has to be missed. Universal hashing is Carter's and
//! Wegman's, who also use this prime's kind for speed (Journal of Computer and System Sciences 18, 1979, and 22, 1981);
//! evaluating a polynomial at a secret point as a check of a message is den Boer's (Journal of Computer Security 2,
//! 1993), and Bernstein surveys it (<https://cr.yp.to/antiforgery/pema-20071022.pdf>).
//!
//! This is no hash to publish: whoever knows the point makes collisions at will. No randomness is drawn here.

use std::fmt;

/// Bytes of a piece.
pub const PIECE_BYTES: usize = 64 << 10;

/// How many parts a piece is computed in, side by side: threads of a block, on a device.
pub(crate) const LANES: usize = 256;

/// The field's size: a prime, and one less than a power of two.
const FIELD: u64 = (1 << 61) - 1;

/// The secret point. Whoever makes digests of memory that others can write keeps it from those.
#[derive(Clone)]
pub struct Key(u64);

impl Key {
    /// From bytes that nobody else knows. No point is likelier than another by more than one part in 2⁶⁷.
    pub fn from_random(bytes: [u8; 16]) -> Key {
        Key((u128::from_le_bytes(bytes) % u128::from(FIELD)) as u64)
    }

    /// What the kernel is given: for each lane the power of the point that its part counts with, then the power from
    /// one of a lane's words to its next, then the point.
    pub(crate) fn steps(&self) -> Vec<u64> {
        let square = multiply(self.0, self.0);
        let mut steps = vec![1; LANES + 2];
        for lane in (0..LANES - 1).rev() {
            steps[lane] = multiply(steps[lane + 1], square);
        }
        steps[LANES] = multiply(steps[0], square);
        steps[LANES + 1] = self.0;
        steps
    }
}

/// Says nothing of the point.
impl fmt::Debug for Key {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Key")
    }
}

/// `a · b` in the field.
fn multiply(a: u64, b: u64) -> u64 {
    (u128::from(a) * u128::from(b) % u128::from(FIELD)) as u64
}

/// The digest of each piece in turn. What the last one lacks to its full length counts as zero.
pub fn digests(key: &Key, bytes: &[u8]) -> Vec<u64> {
    bytes
        .chunks(PIECE_BYTES)
        .map(|piece| digest(key, piece))
        .collect()
}

fn digest(key: &Key, piece: &[u8]) -> u64 {
    let mut words = [0u8; 4];
    (0..PIECE_BYTES / 4).fold(0, |value, nth| {
        let there = piece.get(nth * 4..).unwrap_or_default();
        let there = &there[..there.len().min(4)];
        words.fill(0);
        words[..there.len()].copy_from_slice(there);
        (multiply(value, key.0) + u64::from(u32::from_le_bytes(words))) % FIELD
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> Key {
        Key::from_random([seed; 16])
    }

    #[test]
    fn each_byte_counts_and_so_does_its_place() {
        let mut bytes = vec![0u8; 2 * PIECE_BYTES + 20];
        crate::canary::fill(&mut bytes, 3);
        let before = digests(&key(9), &bytes);
        assert_eq!(before.len(), 3);
        let ends = [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 2 * PIECE_BYTES + 19];
        for at in ends.into_iter().chain((0..bytes.len()).step_by(7919)) {
            bytes[at] ^= 0x10;
            let now = digests(&key(9), &bytes);
            for piece in 0..3 {
                assert_eq!(now[piece] != before[piece], piece == at / PIECE_BYTES);
            }
            bytes[at] ^= 0x10;
        }
        bytes.swap(100, 104);
        assert_ne!(digests(&key(9), &bytes), before);
    }

    #[test]
    fn another_key_gives_other_digests_and_none_is_told() {
        let bytes = [1u8; 64];
        assert_ne!(digests(&key(1), &bytes), digests(&key(2), &bytes));
        assert_eq!(format!("{:?}", key(1)), "Key");
    }

    /// By the definition, with the polynomial's powers written out.
    #[test]
    fn small_polynomials_have_their_values() {
        let key = Key(5);
        let (power, last) = (|n: usize| (0..n).fold(1, |x, _| multiply(x, 5)), 1 << 14);
        let bytes = [7, 0, 0, 0, 0, 0, 0, 0, 3, 1];
        let want = multiply(7, power(last - 1)) + multiply(3 + 256, power(last - 3));
        assert_eq!(digests(&key, &bytes), [want % FIELD]);
        assert_eq!(digests(&key, &[]), [0u64; 0]);
    }

    #[test]
    fn steps_are_powers_of_the_point() {
        let steps = Key(3).steps();
        assert_eq!(steps[LANES - 3..LANES], [81, 9, 1]);
        assert_eq!(steps[LANES], multiply(steps[0], 9));
        assert_eq!((steps[LANES + 1], steps.len()), (3, LANES + 2));
    }
}
