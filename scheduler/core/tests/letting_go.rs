//! Promise: nobody waits for a place because of a worker that keeps what has ended, or for one that is long about it while
//! another has nothing to do.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::{MS, SECOND, TENANT, World, X};
use sim::{Sim, limits};

/// It is told to drop a request, runs step after step, and gives its lane back whenever it is asked. Fails where it may keep
/// the request for ever: a worker that holds something is never ended to make room.
#[test]
fn a_worker_that_keeps_a_request_that_has_ended_is_killed() {
    for lets_go in [false, true] {
        let mut world = World::new(limits());
        world.tenant(TENANT, sim::settings(1));
        let (ended, other) = (
            world.submit(1, X, (100, 0)),
            world.submit(1, X, (100, 4_000)),
        );
        let worker = world.ready(X);
        world.hang_up(ended);
        let grace_ns = limits().release_grace_ns;
        world.now += grace_ns / 2;
        world.step(worker, 1, vec![(other, 1)]);
        if lets_go {
            world.finish(worker, ended, (0, 0), Outcome::Cancelled);
        }
        assert!(world.killed.is_empty());
        // Lane time is what counts: without a lane it cannot say anything.
        world.release(worker);
        world.now += grace_ns / 2 - MS;
        world.step(worker, 1, vec![(other, 2)]);
        assert!(world.killed.is_empty());
        world.now += 2 * MS;
        world.tell(Event::Tick);
        let kept = (!lets_go).then_some(&KillReason::HeldRequest);
        assert_eq!(world.killed.get(&worker), kept);
    }
}

/// Fails where who retires is waited for, however long it has to do, though somebody else has nothing to do by now.
#[test]
fn an_idle_worker_makes_room_before_one_that_is_long_about_it() {
    let limits = Limits {
        batch_tokens_max: 10_000,
        ..limits()
    };
    let mut sim = Sim::new(limits, 1, 2);
    let [long, short, new] = [1, 2, 3].map(|n| sim.tenant(n, 1));
    sim.submit(short, 10);
    sim.run_until(SECOND / 10);
    sim.closed_loop(long, 9_000, 0);
    sim.run_until(2 * SECOND);
    sim.submit(short, 200);
    let request = sim.submit(new, 10);
    sim.run_until(sim.now + SECOND / 4);
    assert!(sim.is_ok(request));
}
