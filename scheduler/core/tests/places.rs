//! Promise: no agent has all of its tenant's places for itself once another of its agents wants one, and the hint when to
//! try again tells a tenant no more of others than it has to.

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

/// A pool full of the requests of so many agents, which fill it again as soon as one of them ends; one more wants little.
/// Returns how often it was accepted.
fn beside_a_full_pool(busy: u32, rounds: u32) -> u32 {
    let mut world = World::new(Limits {
        queue_bytes_max: 6_400,
        tenant_reserved_bytes: 640,
        ..sim::limits()
    });
    for tenant in [TENANT, TenantId(2)] {
        world.tenant(tenant, sim::settings(1));
    }
    let offer = |world: &mut World, agent, tenant, bytes| {
        let mut submission = world.submission(agent, X, (10, 0));
        (submission.tenant, submission.bytes) = (tenant, bytes);
        world.offer(submission)
    };
    let mut held = Vec::new();
    for n in 0..57 {
        let agent = 1 + n % busy;
        held.push((agent, offer(&mut world, agent, TENANT, 100)));
    }
    assert!(world.refused.is_empty());
    let mut accepted = 0;
    for _ in 0..rounds {
        world.now += 10 * MS;
        let (agent, ended) = held.remove(0);
        world.hang_up(ended);
        for _ in 0..2 {
            let again = offer(&mut world, agent, TENANT, 100);
            if !world.refused.contains_key(&again) {
                held.push((agent, again));
            }
        }
        let other = offer(&mut world, 8, TENANT, 100);
        match world.refused.get(&other) {
            Some(refusal) => assert_eq!(refusal.bound, Bound::GlobalQueue),
            None => accepted += 1,
        }
        let stranger = offer(&mut world, 9, TenantId(2), 32);
        assert!(!world.refused.contains_key(&stranger), "another's part");
    }
    accepted
}

/// Fails where memory belongs to whoever tries first: all but the first, which says that somebody is there, are let in.
#[test]
fn busy_agents_leave_their_siblings_queue_memory() {
    assert_eq!([1, 2].map(|busy| beside_a_full_pool(busy, 14)), [13, 13]);
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

/// The hint of a tenant whose queue is full, beside so many others that compete.
fn hint_beside(others: u32, tokens: u32) -> Nanos {
    let mut world = world(3, 60);
    for other in 2..2 + others {
        world.tenant(TenantId(other), sim::settings(1));
        let mut submission = world.submission(other, X, (900, 0));
        submission.tenant = TenantId(other);
        world.offer(submission);
        world.ready_of(TenantId(other), X);
    }
    for _ in 0..3 {
        world.submit(1, Y, (tokens, 0));
    }
    let refused = world.submit(1, Y, (tokens, 0));
    world.refused[&refused].retry_after_ns.expect("a hint")
}

/// Fails where a hint is proportional to what others have to do, and where it is only rounded: with a queue of the right
/// length it would tell on which side of any number they are.
#[test]
fn hints_tell_others_load_within_a_factor_of_two() {
    for tokens in [500, 700, 900, 1_111] {
        let hint = |others| hint_beside(others, tokens);
        let alone = hint(0);
        assert_eq!(hint(1), alone);
        assert_eq!(hint(2), 2 * alone);
        assert_eq!([hint(3), hint(4)], [4 * alone; 2]);
        assert_eq!([hint(5), hint(6), hint(7), hint(8)], [8 * alone; 4]);
    }
}
