//! Maps by our own numbers, where no order is asked for: a look-up among millions costs one or two cache lines.
//!
//! What is large is boxed: a map that grows moves all that it holds, and nothing waits for that longer than 10 ns an entry.
//! The numbers are handed out by the driver and the core, one after the other, so nobody can choose them to collide, and
//! a fixed hash will do. Whoever walks such a map must not let the order of what it finds decide anything.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by ids.
pub(crate) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Multiplies, and folds the product's halves: both the low bits, which choose the place, and the high ones, which tell
/// neighbours apart, depend on all of the number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct IdHasher(u64);

/// 2^64 divided by the golden ratio (Knuth, The Art of Computer Programming, volume 3, 6.4).
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let product = u128::from(self.0.rotate_left(32) ^ number) * u128::from(FACTOR);
        self.0 = (product as u64) ^ (product >> 64) as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::hash::{BuildHasher as _, Hash as _};

    #[test]
    fn numbers_in_a_row_find_places_of_their_own() {
        let hash = |n: u64| BuildHasherDefault::<IdHasher>::default().hash_one(n);
        let places: BTreeSet<u64> = (0..1 << 16).map(|n| hash(n) & 0xffff).collect();
        assert!(places.len() > 1 << 15, "{} of 65,536", places.len());
        let marks: BTreeSet<u64> = (0..1 << 16).map(|n| hash(n) >> 57).collect();
        assert_eq!(marks.len(), 128);
    }

    #[test]
    fn a_pair_is_not_its_reverse() {
        let hash = |a: u32, b: u32| {
            let mut hasher = IdHasher::default();
            (a, b).hash(&mut hasher);
            hasher.finish()
        };
        assert_ne!(hash(1, 2), hash(2, 1));
    }
}
