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
