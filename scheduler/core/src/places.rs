//! Places: how many requests of a tenant may wait and be open, and that no agent of it has all of them.
//!
//! While there is room whoever comes may have it, so that a tenant with one agent can use all there is. Once an agent that
//! has less than its part (the places, divided by the agents that have requests there) was turned away for want of a
//! place, the last one is kept for such agents: who has its part already does not get it, however often it tries, and the
//! next that becomes free goes to who was turned away. Kept for as long as it may take to come back; it costs nobody a
//! place that is held.
//!
//! The same goes for queue memory: once an agent that would have no more than its part of what its tenant can reach found
//! none, as much as it asked for is kept for such agents.

use crate::Nanos;

/// How long a place is kept: twice as long as the longest hint when to ask again.
const KEPT_NS: Nanos = 20_000_000_000;

/// A tenant's agents and its places.
#[derive(Debug, Default)]
pub(crate) struct AgentPlaces {
    /// Agents that have open requests.
    pub agents: u32,
    kept_until: Nanos,
    /// Queue memory that is kept, and until when.
    bytes_kept: (u64, Nanos),
}

/// Queue memory that an agent would have, of what its tenant can reach.
#[derive(Clone, Copy)]
pub(crate) struct Bytes {
    pub own: u64,
    pub reachable: u64,
}

/// A bound, and what is taken of it.
#[derive(Clone, Copy)]
pub(crate) struct Room {
    pub taken: u32,
    pub max: u32,
}

impl AgentPlaces {
    /// Whether an agent that has so many open requests may have one place more.
    pub(crate) fn may(&self, own: u32, room: Room, now: Nanos) -> bool {
        let kept = now < self.kept_until && !self.is_below_part(own, room.max);
        room.taken.saturating_add(u32::from(kept)) < room.max
    }

    /// An agent that has so many open requests was turned away.
    pub(crate) fn turned_away(&mut self, own: u32, room: Room, now: Nanos) {
        if self.is_below_part(own, room.max) {
            self.kept_until = now.saturating_add(KEPT_NS);
        }
    }

    /// Queue memory that is kept for some agents now.
    pub(crate) fn bytes_kept(&self, now: Nanos) -> Option<u64> {
        let (bytes, until) = self.bytes_kept;
        (now < until).then_some(bytes)
    }

    /// An agent found no queue memory for so many bytes. Where it is alone nothing has to be kept from anybody.
    pub(crate) fn found_no_memory(&mut self, bytes: u64, would_have: Bytes, own: u32, now: Nanos) {
        if self.agents + u32::from(own == 0) > 1 && self.is_within_part(would_have) {
            let kept = self.bytes_kept(now).unwrap_or(0).max(bytes);
            self.bytes_kept = (kept, now.saturating_add(KEPT_NS));
        }
    }

    /// Divided by those that have open requests and one more, who may be the one that found nothing.
    pub(crate) fn is_within_part(&self, would_have: Bytes) -> bool {
        would_have.own <= would_have.reachable / u64::from(self.agents.saturating_add(1).max(2))
    }

    /// Somebody was turned away, so there are two at least.
    fn is_below_part(&self, own: u32, max: u32) -> bool {
        // One more may have nothing there, and be the one that was turned away.
        let agents = self.agents.saturating_add(1).max(2);
        own < (max / agents).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_place_is_kept_for_who_was_turned_away_and_not_for_ever() {
        let mut places = AgentPlaces {
            agents: 1,
            ..AgentPlaces::default()
        };
        let room = |taken| Room { taken, max: 10 };
        assert!(places.may(9, room(9), 0), "nobody else was there");
        assert!(!places.may(0, room(10), 0));
        places.turned_away(10, room(10), 0);
        assert!(places.may(9, room(9), 0), "it has its part");
        places.turned_away(0, room(10), 0);
        assert!(!places.may(9, room(9), KEPT_NS - 1));
        assert!(places.may(0, room(9), KEPT_NS - 1));
        assert!(places.may(9, room(8), KEPT_NS - 1), "only the last is kept");
        assert!(places.may(9, room(9), KEPT_NS));
    }

    /// Two that have half of the places each, and take turns at having one less. Fails where that counts as less than a part.
    #[test]
    fn who_has_none_is_one_of_those_among_whom_places_are_divided() {
        let mut places = AgentPlaces {
            agents: 2,
            ..AgentPlaces::default()
        };
        let room = |taken| Room { taken, max: 10 };
        places.turned_away(0, room(10), 0);
        assert!(!places.may(4, room(9), 1));
        assert!(places.may(0, room(9), 1));
    }
}
