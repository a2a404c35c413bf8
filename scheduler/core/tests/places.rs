//! Promise: no agent has all of its tenant's places for itself once another of its agents wants one.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::*;

fn world(queue_requests_max: u32, open_requests_max: u32) -> World {
    let mut world = World::new(Limits {
        batch_tokens_max: 100,
        ..sim::limits()
    });
    world.tenant(
        TENANT,
        TenantSettings {
            queue_requests_max,
            open_requests_max,
            ..sim::settings(1)
        },
    );
    world
}

/// One agent tries twice as soon as a place becomes free, and then another once. Returns how often the other was accepted,
/// and refused.
fn beside_a_busy_agent(mut world: World) -> (u32, u32) {
    for _ in 0..60 {
        world.submit(1, X, (100, 0));
    }
    let worker = world.ready(X);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..500 {
        world.now += 10 * MS;
        let first = world.first_held(worker);
        world.step(worker, 100, vec![]);
        world.finish(worker, first, (100, 0), Outcome::Ok);
        for _ in 0..2 {
            world.submit(1, X, (100, 0));
        }
        let other = world.submit(2, X, (100, 0));
        match world.refused.get(&other) {
            Some(_) => refused += 1,
            None => accepted += 1,
        }
    }
    (accepted, refused)
}

/// Fails where a place belongs to whoever tries first. Each of the two has its turn, so the other has half of the places
/// that become free.
#[test]
fn a_busy_agent_leaves_its_siblings_places() {
    for (queue, open) in [(50, 60), (100, 50), (2, 4)] {
        let (accepted, refused) = beside_a_busy_agent(world(queue, open));
        assert!(accepted >= 200, "{queue}, {open}: {accepted} and {refused}");
    }
}

#[test]
fn an_agent_that_is_alone_may_have_all_places() {
    let mut world = world(50, 60);
    for n in 0..50 {
        let request = world.submit(1, X, (100, 0));
        assert!(!world.refused.contains_key(&request), "{n}");
    }
    let beyond = world.submit(1, X, (100, 0));
    assert_eq!(world.refused[&beyond].bound, Bound::TenantQueue);
}
