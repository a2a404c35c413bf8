//! Users that are kept for workers: each model's process has a block of them that is its own and its workers'.
//!
//! Only a launcher that is root may have other users; others give none. Which users the numbers stand for is the worker's
//! to say (`worker/src/seal/users.rs`). A block comes up again after all others, and where a launcher begins is drawn, so
//! that what outlived one is nobody's of the next.

use nix::unistd::geteuid;
use std::ffi::OsString;

/// How many blocks there are.
const BLOCKS: u64 = 1 << 15;

/// Users of a block. The first is nobody's, and the second its template's.
const BLOCK: u32 = 1 << 12;

/// Gives blocks out.
pub struct Blocks {
    /// None where there are none.
    next: Option<u64>,
}

impl Blocks {
    /// All of them, where this process may have any. `seed` says with which it begins.
    pub fn new(seed: u64) -> Blocks {
        Blocks {
            next: geteuid().is_root().then_some(seed % BLOCKS),
        }
    }

    /// The next one.
    pub fn give(&mut self) -> Option<u32> {
        let given = self.next?;
        self.next = Some((given + 1) % BLOCKS);
        u32::try_from(given).ok()
    }
}

/// The users of one template's block.
pub struct Users {
    /// The last that was given; none where there are none.
    last: Option<u32>,
}

impl Users {
    /// Of this block.
    pub fn of(block: Option<u32>) -> Users {
        Users {
            last: block.map(|_| 1),
        }
    }

    /// One for a worker.
    pub fn give(&mut self) -> Option<u32> {
        let given = self.last? % (BLOCK - 1) + 1;
        self.last = Some(given.max(2));
        self.last
    }
}

/// How a program is told its block.
pub fn arguments(block: Option<u32>) -> Vec<OsString> {
    let told = |number: u32| ["--users".into(), number.to_string().into()];
    block.map(told).into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_has_thousands_of_workers_before_one_comes_again() {
        let mut users = Users::of(Some(7));
        let given: Vec<u32> = (0..BLOCK).filter_map(|_| users.give()).collect();
        assert_eq!((given[0], given[1]), (2, 3));
        assert!(given.iter().all(|user| (2..BLOCK).contains(user)));
        let first: std::collections::BTreeSet<_> = given[..BLOCK as usize - 2].iter().collect();
        assert_eq!(first.len(), BLOCK as usize - 2);
        assert_eq!(Users::of(None).give(), None);
    }
}
