//! The fair order: who among the backlogged is furthest behind, and the floor.
//!
//! Virtual token counters (VTC, OSDI 2024) over virtual time: who becomes backlogged is lifted to
//! the floor, the least virtual time among the backlogged, or that of the last one to leave where
//! there are none, less a bounded credit. So being idle earns no more than that, and no more for being longer. Lifting
//! never lowers, so being idle erases nothing either. The floor never goes back. Used for the tenants on each
//! device and for those that want places. The agents of each that want one model are ordered the same way, without any
//! credit (`queue`).

use std::collections::BTreeSet;

use crate::vtime::VTime;

/// The backlogged members, in order of virtual time, then of id. Each of them knows the time at which it stands here.
#[derive(Debug)]
pub(crate) struct FairSet<K> {
    order: BTreeSet<(VTime, K)>,
    /// The member that moved last stands beside the order: who holds a lane moves at every event, and nobody else does.
    moving: Option<(VTime, K)>,
    floor: VTime,
}

impl<K> Default for FairSet<K> {
    fn default() -> Self {
        FairSet {
            order: BTreeSet::new(),
            moving: None,
            floor: 0,
        }
    }
}

impl<K: Copy + Ord> FairSet<K> {
    /// Takes in a member and returns its time, lifted to the floor less its credit.
    pub(crate) fn join(&mut self, key: K, time: VTime, credit: VTime) -> VTime {
        let lifted = self.lifted(time, credit);
        self.order.insert((lifted, key));
        self.raise_floor();
        lifted
    }

    /// What a time would be lifted to.
    pub(crate) fn lifted(&self, time: VTime, credit: VTime) -> VTime {
        time.max(self.floor.saturating_sub(credit))
    }

    /// Where a member's time is once its weight is raised: so that what it is behind the floor stays as much lane time.
    pub(crate) fn reweighed(&self, time: VTime, before: u32, weight: u32) -> VTime {
        match self.floor.checked_sub(time) {
            Some(behind) if weight > before => {
                self.floor - behind * VTime::from(before) / VTime::from(weight)
            }
            _ => time,
        }
    }

    /// Moves a member from one time to another.
    pub(crate) fn shift(&mut self, key: K, old: VTime, new: VTime) {
        if self.moving != Some((old, key)) {
            self.order.remove(&(old, key));
            self.order.extend(self.moving);
        }
        self.moving = Some((new, key));
        self.raise_floor();
    }

    /// Lets a member go that stood at `time`. The last to leave leaves its time behind as the floor.
    pub(crate) fn leave(&mut self, key: K, time: VTime) {
        match self.moving == Some((time, key)) {
            true => self.moving = None,
            false => drop(self.order.remove(&(time, key))),
        }
        let left = self.least().unwrap_or(time);
        self.floor = self.floor.max(left);
    }

    /// Whether somebody stands there at this time.
    pub(crate) fn holds(&self, key: K, time: VTime) -> bool {
        self.moving == Some((time, key)) || self.order.contains(&(time, key))
    }

    /// How many members there are.
    pub(crate) fn len(&self) -> usize {
        self.order.len() + usize::from(self.moving.is_some())
    }

    /// The least time among the members, or `None` where there is none.
    pub(crate) fn least(&self) -> Option<VTime> {
        let first = self.order.first().map(|(time, _)| *time);
        match self.moving {
            Some((time, _)) => Some(first.map_or(time, |first| first.min(time))),
            None => first,
        }
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
        set.shift(1, 0, 50);
        set.shift(2, 0, 30);
        assert_eq!(set.join(3, 0, 0), 30, "a newcomer is lifted to the least");
        set.leave(1, 50);
        assert_eq!(set.join(1, 50, 0), 50, "a debt stays");
        for (key, time) in [(2, 30), (3, 30), (1, 50)] {
            set.leave(key, time);
        }
        assert_eq!(set.len(), 0);
        assert_eq!(set.join(4, 0, 0), 50, "the last to leave leaves its time");
    }

    #[test]
    fn credit_is_bounded_and_its_use_is_no_floor_for_others() {
        let mut set = FairSet::default();
        set.join(1, 1_000, 0);
        assert_eq!(set.join(2, 0, 30), 970, "however long it was away");
        assert_eq!(set.join(3, 990, 30), 990, "and no more than it missed");
        assert_eq!(set.floor, 1_000);
        set.leave(2, 970);
        assert_eq!(set.join(2, 980, 30), 980, "what it used is used");
    }

    #[test]
    fn the_floor_never_goes_back() {
        let mut set = FairSet::default();
        set.join(1, 100, 0);
        set.shift(1, 100, 10);
        assert_eq!((set.floor, set.holds(1, 10)), (100, true));
        assert_eq!(set.join(2, 0, 0), 100);
    }

    /// Fails where whoever moves is lost when another does, or stands at two times.
    #[test]
    fn who_moves_stands_at_one_time() {
        let mut set = FairSet::default();
        let mut times = [10, 20, 30];
        for (key, time) in times.iter().enumerate() {
            set.join(key, *time, 0);
        }
        for (key, by) in [(0, 5), (0, 7), (2, 1), (0, 90), (1, 4), (2, 0)] {
            let old = times[key];
            times[key] += by;
            set.shift(key, old, times[key]);
            assert_eq!(set.len(), 3);
            assert_eq!(set.least(), times.iter().min().copied());
            for (key, time) in times.iter().enumerate() {
                assert!(set.holds(key, *time), "{key} is not at {time}");
            }
        }
    }
}
