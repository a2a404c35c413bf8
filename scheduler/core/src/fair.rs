//! The fair order: who among the backlogged is furthest behind, and the floor.
//!
//! Virtual token counters (VTC, OSDI 2024) over virtual time: who becomes backlogged is lifted to
//! the floor, the least virtual time among the backlogged, or that of the last one to leave where
//! there are none, less a bounded credit. So being idle earns no more than that, and no more for being longer. Lifting
//! never lowers, so being idle erases nothing either. The floor never goes back. Used for the tenants on each
//! device, for those that want places, and inside each for the agents that want one model, which have no credit.

use std::collections::BTreeSet;
use std::hash::Hash;

use crate::map::IdMap;
use crate::vtime::VTime;

/// The backlogged members, in order of virtual time, then of id.
#[derive(Debug)]
pub(crate) struct FairSet<K> {
    order: BTreeSet<(VTime, K)>,
    times: IdMap<K, VTime>,
    floor: VTime,
}

impl<K> Default for FairSet<K> {
    fn default() -> Self {
        FairSet {
            order: BTreeSet::new(),
            times: IdMap::default(),
            floor: 0,
        }
    }
}

impl<K: Copy + Ord + Hash> FairSet<K> {
    /// What a newcomer is lifted to.
    pub(crate) fn floor(&self) -> VTime {
        self.floor
    }

    /// Takes in a member and returns its time, lifted to the floor less its credit.
    pub(crate) fn join(&mut self, key: K, time: VTime, credit: VTime) -> VTime {
        let lifted = self.lifted(time, credit);
        self.set(key, lifted);
        lifted
    }

    /// What a time would be lifted to.
    pub(crate) fn lifted(&self, time: VTime, credit: VTime) -> VTime {
        time.max(self.floor.saturating_sub(credit))
    }

    /// Moves a member to `time`.
    pub(crate) fn set(&mut self, key: K, time: VTime) {
        match self.times.insert(key, time) {
            Some(old) if old == time => return,
            Some(old) => drop(self.order.remove(&(old, key))),
            None => {}
        }
        self.order.insert((time, key));
        self.raise_floor();
    }

    /// Lets a member go. The last to leave leaves its time behind as the floor.
    pub(crate) fn leave(&mut self, key: K) {
        let Some(time) = self.times.remove(&key) else {
            return;
        };
        self.order.remove(&(time, key));
        if self.order.is_empty() {
            self.floor = self.floor.max(time);
        }
        self.raise_floor();
    }

    /// The time of a member, or `None` where it is not one.
    pub(crate) fn time(&self, key: K) -> Option<VTime> {
        self.times.get(&key).copied()
    }

    /// The least time among the members, or `None` where there is none.
    pub(crate) fn least(&self) -> Option<VTime> {
        self.order.first().map(|(time, _)| *time)
    }

    fn raise_floor(&mut self) {
        self.floor = self.floor.max(self.least().unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_hoards_nothing_and_erases_nothing() {
        let mut set = FairSet::default();
        set.join(1, 0, 0);
        set.join(2, 0, 0);
        set.set(1, 50);
        set.set(2, 30);
        assert_eq!(set.join(3, 0, 0), 30, "a newcomer is lifted to the least");
        set.leave(1);
        assert_eq!(set.join(1, 50, 0), 50, "a debt stays");
        for key in [2, 3, 1] {
            set.leave(key);
        }
        assert_eq!(set.join(4, 0, 0), 50, "the last to leave leaves its time");
    }

    #[test]
    fn credit_is_bounded_and_its_use_is_no_floor_for_others() {
        let mut set = FairSet::default();
        set.join(1, 1_000, 0);
        assert_eq!(set.join(2, 0, 30), 970, "however long it was away");
        assert_eq!(set.join(3, 990, 30), 990, "and no more than it missed");
        assert_eq!(set.floor(), 1_000);
        set.leave(2);
        assert_eq!(set.join(2, 980, 30), 980, "what it used is used");
    }

    #[test]
    fn the_floor_never_goes_back() {
        let mut set = FairSet::default();
        set.join(1, 100, 0);
        set.set(1, 10);
        assert_eq!((set.floor(), set.time(1)), (100, Some(10)));
        assert_eq!(set.join(2, 0, 0), 100);
    }
}
