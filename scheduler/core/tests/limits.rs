//! Promise: what a tenant may have a minute is what it gets, whatever its agents and its workers do: requests that wait
//! save nothing up, and what a text has beyond its estimate is paid for.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::*;

/// A tenant that may have so many tokens a minute.
fn world(tokens: u64) -> World {
    let mut world = World::new(Limits {
        batch_tokens_max: 100_000,
        ..sim::limits()
    });
    let rate = Rate {
        requests: 0,
        tokens,
    };
    world.tenant(
        TENANT,
        TenantSettings {
            rate,
            ..sim::settings(1)
        },
    );
    world
}

/// Ten requests wait for a model that is being started, each from a minute of its own. Fails where hanging up gives what
/// has leaked out of the bucket long ago back out of what is in it now.
#[test]
fn nothing_is_saved_up_in_requests_that_wait() {
    let mut world = world(1_000);
    let parked = [(); 10].map(|()| {
        let parked = world.submit(1, Y, (10, 890));
        world.now += MINUTE;
        parked
    });
    assert!(world.refused.is_empty());
    let whole = world.submit(2, X, (1_000, 0));
    assert!(!world.refused.contains_key(&whole));
    for one in parked {
        world.hang_up(one);
        let more = world.submit(2, X, (100, 0));
        assert_eq!(world.refused[&more].bound, Bound::TenantRate);
    }
}

/// Its sibling's waits, and its caller hangs up. Fails where what the sibling gives back is taken for what the older one
/// had, which could then give nothing back though nothing of it had leaked.
#[test]
fn hanging_up_costs_a_sibling_nothing() {
    let mut world = world(10_000);
    let first = world.submit(1, X, (1_000, 4_000));
    let worker = world.ready(X);
    let second = world.submit(2, Y, (1_000, 4_000));
    assert!(world.refused.is_empty());
    world.hang_up(second);
    world.step(worker, 1_100, vec![(first, 100)]);
    world.finish(worker, first, (1_000, 100), Outcome::Ok);
    let rest = world.submit(1, X, (8_900, 0));
    assert!(!world.refused.contains_key(&rest), "3,900 came back");
    let more = world.submit(1, X, (1, 0));
    assert_eq!(world.refused[&more].bound, Bound::TenantRate);
}

/// Three times as many tokens as the bytes let expect, as texts in some scripts have. Fails where what is beyond the
/// estimate counts for nothing.
#[test]
fn tokens_beyond_the_estimate_are_paid_for() {
    let mut world = world(300);
    let (mut done, mut worker) = (0, None);
    for minute in 0..30 {
        world.now = minute * MINUTE + 1;
        let text = world.submit(1, X, (300, 0));
        if world.refused.contains_key(&text) {
            continue;
        }
        let worker = *worker.get_or_insert_with(|| world.ready(X));
        world.step(worker, 900, vec![]);
        world.finish(worker, text, (900, 0), Outcome::Ok);
        world.release(worker);
        done += 900;
    }
    assert_eq!(done, 30 * 300, "over half an hour, as much as the limit");
}

/// Fails where an answer that was seen is given back because its worker says in the end that there was none, or that it
/// failed.
#[test]
fn what_was_seen_of_an_answer_is_not_given_back() {
    for outcome in [Outcome::Ok, Outcome::Internal, Outcome::Cancelled] {
        let mut world = world(1_000);
        let first = world.submit(1, X, (10, 900));
        let worker = world.ready(X);
        world.step(worker, 890, vec![(first, 890)]);
        world.finish(worker, first, (0, 0), outcome);
        let second = world.submit(1, X, (10, 900));
        let refused = world.refused.get(&second).map(|refusal| refusal.bound);
        assert_eq!(refused, Some(Bound::TenantRate), "{outcome:?}");
    }
}

#[test]
fn an_answer_that_lost_its_device_counts_as_far_as_it_was_seen() {
    let mut world = world(1_000);
    let first = world.submit(1, X, (10, 900));
    let worker = world.ready(X);
    world.step(worker, 500, vec![(first, 500)]);
    world.tell(Event::Answering {
        worker,
        request: first,
    });
    world.tell(Event::DeviceDown {
        device: DeviceId(1),
    });
    assert_eq!(world.ended[&first], End::DeviceLost);
    world.tell(Event::DeviceUp {
        device: DeviceId(1),
        kind: DeviceKind::Processor,
        region: RegionId(0),
        lanes: 1,
        workers_max: 16,
    });
    let too_much = world.submit(1, X, (500, 0));
    assert_eq!(world.refused[&too_much].bound, Bound::TenantRate);
    let rest = world.submit(1, X, (400, 0));
    assert!(
        !world.refused.contains_key(&rest),
        "the rest was given back"
    );
}

/// It was given to a worker, the device of that went down, and its caller hangs up while it waits for another. Fails
/// where it counts as one that never ran.
#[test]
fn what_has_met_a_device_has_run() {
    let mut world = world(1_000);
    world.tell(Event::DeviceUp {
        device: DeviceId(2),
        kind: DeviceKind::Processor,
        region: RegionId(0),
        lanes: 1,
        workers_max: 16,
    });
    let first = world.submit(1, X, (10, 900));
    let worker = world.ready(X);
    world.step(worker, 800, vec![(first, 800)]);
    let on = world.core.workers().find(|view| view.worker == worker);
    world.tell(Event::DeviceDown {
        device: on.expect("it lives").device,
    });
    world.hang_up(first);
    let second = world.submit(1, X, (500, 0));
    assert_eq!(world.refused[&second].bound, Bound::TenantRate);
}

/// A text that was being read when its caller hung up, of which its worker says nothing.
#[test]
fn what_was_read_of_a_text_counts() {
    let mut world = world(1_000);
    let first = world.submit(1, X, (1_000, 0));
    let worker = world.ready(X);
    world.now += 50 * MS;
    world.hang_up(first);
    world.finish(worker, first, (0, 0), Outcome::Cancelled);
    let second = world.submit(1, X, (800, 0));
    assert_eq!(world.refused[&second].bound, Bound::TenantRate);
    let third = world.submit(1, X, (400, 0));
    assert!(
        !world.refused.contains_key(&third),
        "half of it was not read"
    );
}

/// What its agent's answers are expected to have is learnt from what was possible. Fails where a worker can teach that a
/// batch has no room.
#[test]
fn a_worker_teaches_no_longer_answers_than_there_could_be() {
    let mut world = World::new(Limits {
        batch_tokens_max: 1_000,
        ..sim::limits()
    });
    world.tenant(TENANT, sim::settings(1));
    for _ in 0..100 {
        world.submit(1, X, (1, 10));
    }
    let worker = world.ready(X);
    for _ in 0..60 {
        let first = world.first_held(worker);
        world.step(worker, 10, vec![(first, 10)]);
        world.finish(worker, first, (1, u32::MAX), Outcome::Ok);
    }
    for request in world.held[&worker].clone() {
        world.finish(worker, request, (1, 10), Outcome::Ok);
    }
    for _ in 0..100 {
        world.submit(1, X, (1, 4_000));
    }
    assert!(
        world.held[&worker].len() > 8,
        "{}",
        world.held[&worker].len()
    );
}
