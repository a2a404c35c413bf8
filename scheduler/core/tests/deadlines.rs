//! Promise: a deadline is refused as too soon only where the request's own work would make it late: what a text loses when it
//! is cut is no work, and neither is what siblings' requests took.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::*;

/// A world that has seen leases of one text each. `text`: its tokens as estimated and as they were, and how long it took;
/// before each, `sibling` may have a lease of its own.
fn taught(
    leases: u32,
    (estimated, tokens, took_ns): (u32, u32, Nanos),
    sibling: impl Fn(&mut World, Option<WorkerId>),
) -> World {
    let mut world = World::new(Limits {
        batch_tokens_max: 4_096,
        ..sim::limits()
    });
    world.tenant(TENANT, sim::settings(1));
    let mut worker = None;
    for _ in 0..leases {
        sibling(&mut world, worker);
        let text = world.submit(2, X, (estimated, 0));
        let worker = *worker.get_or_insert_with(|| world.ready(X));
        world.now += took_ns;
        world.step(worker, tokens, vec![]);
        world.finish(worker, text, (tokens, 0), Outcome::Ok);
        world.release(worker);
    }
    world
}

/// Offers a text of so many tokens as estimated, of which so many have to be read.
fn refused(
    world: &mut World,
    (estimated, read_min): (u32, u32),
    within_ns: Nanos,
) -> Option<Bound> {
    let mut submission = world.submission(2, X, (estimated, 0));
    submission.tokens_read_min = read_min;
    submission.deadline = Some(world.now + within_ns);
    let request = world.offer(submission);
    world.refused.get(&request).map(|refusal| refusal.bound)
}

/// Texts of a megabyte of which a model reads 512 tokens, in 50 ms. Fails where a deadline is refused by the length that
/// a text had before.
#[test]
fn what_is_cut_off_a_text_is_no_reason_to_refuse() {
    let mut world = taught(60, (333_333, 512, 50 * MS), |_, _| {});
    assert_eq!(refused(&mut world, (333_333, 512), 2 * SECOND), None);
    let hopeless = refused(&mut world, (333_333, 512), MS);
    assert_eq!(hopeless, Some(Bound::DeadlineTooSoon));
    // Where all of it may have been kept from before, nothing is sure.
    assert_eq!(refused(&mut world, (333_333, 0), MS), None);
}

/// Before each text of 10 ms, one of a sibling's that is hung up after a second. Fails where that second is the price of
/// the text's tokens.
#[test]
fn what_a_sibling_hung_up_is_no_reason_to_refuse() {
    let mut world = taught(200, (100, 100, 10 * MS), |world, worker| {
        let large = world.submit(1, X, (1_400_000, 0));
        if let Some(worker) = worker {
            world.now += SECOND;
            world.hang_up(large);
            world.finish(worker, large, (0, 0), Outcome::Cancelled);
            world.release(worker);
        } else {
            world.hang_up(large);
        }
    });
    assert_eq!(refused(&mut world, (1_000, 1_000), SECOND), None);
    let hopeless = refused(&mut world, (1_000, 1_000), MS);
    assert_eq!(hopeless, Some(Bound::DeadlineTooSoon));
}

/// For each text of 10 ms ten of a sibling's, of which as much is read in a second. Fails where the sibling's are the measure
/// of what a text takes at the very least.
#[test]
fn what_a_siblings_texts_take_is_no_reason_to_refuse() {
    let slow = |world: &mut World, worker: Option<WorkerId>| {
        let Some(worker) = worker else { return };
        for _ in 0..10 {
            let large = world.submit(1, X, (4_000, 0));
            world.now += SECOND;
            world.step(worker, 100, vec![]);
            world.finish(worker, large, (100, 0), Outcome::Ok);
            world.release(worker);
        }
    };
    let mut world = taught(60, (100, 100, 10 * MS), slow);
    let worker = world.held.keys().next().copied();
    slow(&mut world, worker);
    assert_eq!(refused(&mut world, (1_000, 1_000), SECOND), None);
}
