//! The waiting requests of one agent, in order.
//!
//! The first few stand in a ring, where the next one is taken and one more is added in a cache line. Only what is beyond
//! them is in a tree: most agents have no more than a few, and a tree that is emptied from one end is rebuilt all along.

use std::collections::{BTreeSet, VecDeque};

use crate::queue::Slot;

/// More than so many are moved to the tree, one for each that comes.
const FIRST_MAX: usize = 64;
/// So many are fetched from there at a time.
const FETCHED: usize = 32;

/// Places in order.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    /// Empty only where there are none at all.
    first: VecDeque<Slot>,
    /// All of them after all of those.
    rest: BTreeSet<Slot>,
}

impl Slots {
    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty()
    }

    pub(crate) fn first(&self) -> Option<&Slot> {
        self.first.front()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.first.iter().chain(&self.rest)
    }

    /// Whether it was not there yet.
    pub(crate) fn insert(&mut self, slot: Slot) -> bool {
        let last = self.first.back();
        if last.is_some_and(|last| *last < slot) {
            // The common case: behind all others.
            if self.rest.is_empty() && self.first.len() < FIRST_MAX {
                self.first.push_back(slot);
                return true;
            }
            return self.rest.insert(slot);
        }
        let Err(at) = self.first.binary_search(&slot) else {
            return false;
        };
        self.first.insert(at, slot);
        if self.first.len() > FIRST_MAX {
            self.rest.extend(self.first.pop_back());
        }
        true
    }

    /// Whether it was there.
    pub(crate) fn remove(&mut self, slot: &Slot) -> bool {
        if self.first.front() == Some(slot) {
            self.first.pop_front();
        } else if let Ok(at) = self.first.binary_search(slot) {
            self.first.remove(at);
        } else {
            return self.rest.remove(slot);
        }
        if self.first.is_empty() {
            // Anew, so that who waits for nothing keeps no memory.
            let fetched = std::iter::from_fn(|| self.rest.pop_first());
            self.first = fetched.take(FETCHED).collect();
        }
        true
    }

    /// Says what is wrong, if anything.
    pub(crate) fn check(&self) -> Result<(), String> {
        let in_order = self.iter().is_sorted_by(|one, next| one < next);
        let few = self.first.len() <= FIRST_MAX;
        match in_order && few && (self.rest.is_empty() || !self.first.is_empty()) {
            true => Ok(()),
            false => Err(format!("slots out of order: {self:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Priority, RequestId};
    use proptest::prelude::*;

    fn slot(seq: u64) -> Slot {
        (Priority::Interactive, seq % 500, seq, RequestId(seq))
    }

    proptest! {
        /// Fails where the ring and the tree are not one order: at their border, when the ring is full, when it runs empty.
        #[test]
        fn they_are_as_one_tree(steps in prop::collection::vec((0u64..400, 0u8..4), 0..1_500)) {
            let (mut slots, mut tree) = (Slots::default(), BTreeSet::new());
            for (seq, what) in steps {
                match (what, tree.first().copied()) {
                    (0, _) => prop_assert_eq!(slots.remove(&slot(seq)), tree.remove(&slot(seq))),
                    (1, Some(first)) => prop_assert_eq!(slots.remove(&first), tree.remove(&first)),
                    _ => prop_assert_eq!(slots.insert(slot(seq)), tree.insert(slot(seq))),
                }
                prop_assert_eq!(slots.check(), Ok(()));
                prop_assert_eq!((slots.first(), slots.len()), (tree.first(), tree.len()));
                prop_assert_eq!(slots.is_empty(), tree.is_empty());
            }
            prop_assert!(slots.iter().eq(&tree));
        }
    }
}
