//! Promise: an agent pays for what its requests occupied, however they end, and holds nobody up with what costs nothing.
//! One whose requests end in a way that costs nothing would always be the one with the least time, and its siblings would
//! never be served.

mod by_hand;
mod sim;

use bulkhead_core::*;
use by_hand::*;

fn world(batch_tokens_max: u32) -> World {
    let mut world = World::new(Limits {
        batch_tokens_max,
        ..sim::limits()
    });
    world.tenant(TENANT, sim::settings(1));
    world
}

/// Two agents have texts of 100 tokens, one of which fits at a time and takes 10 ms. What becomes of the first one's is
/// `ends`; the second one's are served. Returns how many turns each of them had.
fn turns(ends: impl Fn(&mut World, WorkerId, RequestId)) -> (u32, u32) {
    turns_of(100, |world, worker, request| {
        world.now += 10 * MS;
        ends(world, worker, request);
    })
}

/// The same with texts of `tokens`, a tenth of a millisecond each, and the first one's time is what `ends` makes it.
fn turns_of(tokens: u32, mut ends: impl FnMut(&mut World, WorkerId, RequestId)) -> (u32, u32) {
    let mut world = world(100);
    for _ in 0..500 {
        world.submit(1, X, (tokens, 0));
        world.submit(2, X, (tokens, 0));
    }
    let worker = world.ready(X);
    let (mut first, mut second) = (0, 0);
    for _ in 0..400 {
        let request = world.first_held(worker);
        if agent_of(request) == 1 {
            first += 1;
            ends(&mut world, worker, request);
        } else {
            second += 1;
            world.now += u64::from(tokens) * MS / 10;
            world.step(worker, tokens, vec![]);
            world.finish(worker, request, (tokens, 0), Outcome::Ok);
        }
        if tokens > 100 {
            // Each in a lease of its own.
            world.release(worker);
        }
    }
    (first, second)
}

/// A worker says that there was nothing while a text is being read. Fails where that is all that is looked at.
#[test]
fn texts_that_are_hung_up_while_they_are_read_are_paid_for() {
    let (first, second) = turns(|world, worker, request| {
        world.hang_up(request);
        world.finish(worker, request, (0, 0), Outcome::Cancelled);
    });
    assert!(first.abs_diff(second) <= 20, "{first} and {second}");
}

#[test]
fn what_fails_in_a_worker_is_paid_for() {
    let (first, second) = turns(|world, worker, request| {
        world.finish(worker, request, (0, 0), Outcome::Internal);
    });
    assert!(first.abs_diff(second) <= 20, "{first} and {second}");
}

/// Texts of megabytes, of which a worker has read a part. While it reads one, nothing else fits.
#[test]
fn large_texts_that_are_hung_up_leave_their_siblings_a_turn() {
    let mut world = world(4_096);
    world.submit(1, X, (1_400_000, 0));
    for _ in 0..100 {
        world.submit(2, X, (50, 0));
    }
    let worker = world.ready(X);
    let mut served = 0;
    for _ in 0..4 {
        world.submit(1, X, (1_400_000, 0));
        world.now += 500 * MS;
        for request in world.held[&worker].clone() {
            if agent_of(request) == 1 {
                world.hang_up(request);
                world.finish(worker, request, (0, 0), Outcome::Cancelled);
            } else {
                served += 1;
                world.step(worker, 50, vec![]);
                world.finish(worker, request, (50, 0), Outcome::Ok);
            }
        }
    }
    assert!(served >= 90, "{served} of 100");
}

/// Fails where a request costs lane time that its worker had before it, or more than was expected of it.
#[test]
fn who_hangs_up_pays_no_more_than_for_a_whole_turn() {
    let mut late = false;
    let (first, second) = turns_of(100, |world, worker, request| {
        // Ten times as long as expected, since the worker waits for its lane.
        late = !late;
        world.now += if late { 0 } else { 100 * MS };
        world.hang_up(request);
        world.finish(worker, request, (0, 0), Outcome::Cancelled);
    });
    assert!((250..=300).contains(&first), "{first} and {second}");
}

/// The same, each in a lease of its own. Fails where the time that went into what was hung up is the price of its siblings'
/// tokens: they would pay twice as much as it does, and so be dearer with each turn that they lose.
#[test]
fn what_was_hung_up_is_not_the_price_of_siblings_tokens() {
    let (first, second) = turns_of(300, |world, worker, request| {
        world.now += 30 * MS;
        world.hang_up(request);
        world.finish(worker, request, (0, 0), Outcome::Cancelled);
    });
    assert!(u32::abs_diff(first, second) <= 20, "{first} and {second}");
}

/// How many texts of the first agent, of so many tokens, are served before its worker is given a request.
fn served_before(world: &mut World, worker: WorkerId, request: RequestId, tokens: u32) -> u32 {
    let mut before = 0;
    while !world.holds(worker, request) {
        let next = world.held[&worker].iter().find(|one| agent_of(**one) == 1);
        let next = *next.expect("it is its turn");
        world.now += u64::from(tokens) * MS / 10;
        world.step(worker, tokens, vec![]);
        world.finish(worker, next, (tokens, 0), Outcome::Ok);
        before += 1;
    }
    before
}

/// How often each of two agents had its turn, where the worker dies of each of the first one's requests. Two do not fit
/// together, or both would be in its hands; and the second agent comes first, as who comes to an empty queue alone begins
/// nobody's account.
fn turns_beside_deaths(dies: impl Fn(&mut World, WorkerId, RequestId)) -> (u32, u32) {
    let mut world = world(100);
    let (mut deaths, mut served) = (0, 0);
    for _ in 0..200 {
        // Longer than any backoff.
        world.now += 40 * SECOND;
        world.tell(Event::Tick);
        world.submit(2, X, (300, 0));
        world.submit(1, X, (300, 0));
        let worker = world.ready(X);
        let request = world.first_held(worker);
        if agent_of(request) == 1 {
            deaths += 1;
            dies(&mut world, worker, request);
        } else {
            served += 1;
            world.step(worker, 300, vec![]);
            world.finish(worker, request, (300, 0), Outcome::Ok);
            world.die(worker);
        }
        world.ended.clear();
    }
    (deaths, served)
}

#[test]
fn a_request_that_ends_its_worker_is_paid_for() {
    let (deaths, served) = turns_beside_deaths(|world, worker, _| world.die(worker));
    assert!(
        served.abs_diff(deaths) <= 10,
        "{deaths} deaths, {served} served"
    );
}

#[test]
fn hanging_up_before_the_worker_dies_is_no_way_out() {
    let (deaths, served) = turns_beside_deaths(|world, worker, request| {
        world.hang_up(request);
        world.die(worker);
    });
    assert!(
        served.abs_diff(deaths) <= 10,
        "{deaths} deaths, {served} served"
    );
}

/// A worker dies with a text of a megabyte in its hands, of which it would have read a part. Fails where its agent has to
/// wait until siblings have had as much as the bytes let expect.
#[test]
fn a_death_costs_who_is_innocent_no_more_than_a_batch() {
    let mut world = world(1_000);
    world.submit(1, X, (333_333, 0));
    for _ in 0..400 {
        world.submit(2, X, (50, 0));
    }
    let worker = world.ready(X);
    world.die(worker);
    // The backoff is short enough to wait it out in the queue.
    world.now += SECOND;
    world.tell(Event::Tick);
    world.submit(1, X, (50, 0));
    let worker = world.ready(X);
    let mut before = 0;
    while agent_of(world.first_held(worker)) == 2 {
        let request = world.first_held(worker);
        world.now += 5 * MS;
        world.step(worker, 50, vec![]);
        world.finish(worker, request, (50, 0), Outcome::Ok);
        before += 1;
    }
    assert!((15..=60).contains(&before), "{before} turns of 400");
}

/// A long answer runs beside which there is room. An agent keeps a text in the queue that does not fit beside it, hangs it
/// up and sends it again. Fails where what does not fit and costs nothing keeps siblings out.
#[test]
fn what_does_not_fit_and_is_sent_again_and_again_holds_up_nobody() {
    let mut world = world(1_000);
    world.submit(2, X, (10, 4_000));
    let worker = world.ready(X);
    let long = world.first_held(worker);
    let mut large = world.submit(1, X, (5_000, 0));
    for n in 1..400 {
        world.now += 20 * MS;
        world.step(worker, 1, vec![(long, n)]);
        let another = world.submit(1, X, (5_000, 0));
        world.hang_up(large);
        large = another;
        let small = world.submit(3, X, (10, 0));
        assert!(world.holds(worker, small), "at {n}");
        world.finish(worker, small, (10, 0), Outcome::Ok);
    }
}

/// Fails where what is large never runs, since there is always something small that fits.
#[test]
fn what_does_not_fit_runs_after_one_batch_of_others() {
    let mut world = world(1_000);
    for _ in 0..2_000 {
        world.submit(2, X, (10, 0));
        world.submit(3, X, (10, 0));
    }
    let worker = world.ready(X);
    for _ in 0..200 {
        let first = world.first_held(worker);
        world.now += MS;
        world.finish(worker, first, (10, 0), Outcome::Ok);
    }
    let large = world.submit(1, X, (5_000, 0));
    let mut before = 0;
    while !world.holds(worker, large) {
        let first = world.first_held(worker);
        world.now += MS;
        world.finish(worker, first, (10, 0), Outcome::Ok);
        before += 1;
        assert!(before <= 300, "what was there, and what one batch holds");
    }
    assert_eq!(world.held[&worker], [large]);
}

/// A text of megabytes, of which its model reads a part. Fails where its agent is charged for all of it until that is told: a
/// sibling that comes meanwhile is held to that, and has to wait until the agent has had as much.
#[test]
fn what_a_text_looked_like_holds_back_nobody_who_comes_meanwhile() {
    let mut world = world(1_000);
    let large = world.submit(1, X, (1_400_000, 0));
    for _ in 0..200 {
        world.submit(1, X, (100, 0));
    }
    let worker = world.ready(X);
    assert!(world.holds(worker, large));
    world.now += 50 * MS;
    world.step(worker, 500, vec![]);
    world.finish(worker, large, (500, 0), Outcome::Ok);
    let other = world.submit(2, X, (100, 0));
    let before = served_before(&mut world, worker, other, 100);
    assert!(before <= 30, "{before} turns of 200");
}

/// An agent always has something in the queue that does not fit, and hangs it up before it would. Fails where its siblings
/// owe it what they had meanwhile: it would have all of it at once, however much that is.
#[test]
fn turns_that_are_given_up_are_no_credit() {
    let mut world = world(1_000);
    world.submit(2, X, (10, 4_000));
    let worker = world.ready(X);
    let long = world.first_held(worker);
    let mut large = world.submit(1, X, (5_000, 0));
    for n in 1..400 {
        world.now += 20 * MS;
        world.step(worker, 1, vec![(long, n)]);
        let another = world.submit(1, X, (5_000, 0));
        world.hang_up(large);
        large = another;
        let small = world.submit(3, X, (50, 0));
        world.now += 5 * MS;
        world.finish(worker, small, (50, 0), Outcome::Ok);
    }
    for _ in 0..400 {
        world.submit(1, X, (50, 0));
    }
    world.hang_up(large);
    let small = world.submit(3, X, (50, 0));
    let before = served_before(&mut world, worker, small, 50);
    assert!(before <= 60, "{before} turns of 400");
}

/// A sibling goes past what does not fit, hangs up at once, and does so again. Fails where an agent whose deadline passes
/// meanwhile owes all of that, though it had nothing, and nobody else had much.
#[test]
fn a_turn_that_is_given_up_costs_no_more_than_the_turn() {
    let mut world = world(1_000);
    let answers = [0; 6].map(|_| world.submit(2, X, (10, 4_000)));
    let worker = world.ready(X);
    for request in answers {
        world.now += SECOND;
        world.step(worker, 4_000, vec![(request, 4_000)]);
        world.finish(worker, request, (10, 4_000), Outcome::Ok);
    }
    for _ in 0..2 {
        world.submit(2, X, (10, 4_000));
    }
    let large = world.submit(1, X, (2_000, 0));
    assert!(!world.holds(worker, large));
    let mut passed = 0;
    for _ in 0..3 {
        let past = world.submit(2, X, (10, 4_000));
        passed += u32::from(world.holds(worker, past));
        world.hang_up(past);
        if world.holds(worker, past) {
            world.finish(worker, past, (0, 0), Outcome::Cancelled);
        }
    }
    assert!(passed > 0);
    // They wait behind it, so that they are not let in at where it is once it has paid.
    for _ in 0..400 {
        world.submit(3, X, (50, 0));
    }
    world.hang_up(large);
    let small = world.submit(1, X, (50, 0));
    let mut before = 0;
    while !world.holds(worker, small) {
        let next = world.held[&worker].iter().find(|one| agent_of(**one) == 3);
        let next = *next.expect("it is its turn");
        world.now += 5 * MS;
        world.step(worker, 50, vec![]);
        world.finish(worker, next, (50, 0), Outcome::Ok);
        before += 1;
    }
    assert!(before <= 60, "{before} turns of 400");
}

/// Its agent has an answer that runs. Fails where what is larger than any budget holds siblings up for as long.
#[test]
fn what_never_fits_holds_up_nobody_beside_its_agents_own() {
    let mut world = world(1_000);
    world.submit(1, X, (10, 4_000));
    let worker = world.ready(X);
    let long = world.first_held(worker);
    world.submit(1, X, (5_000, 0));
    for n in 1..10 {
        world.now += 20 * MS;
        world.step(worker, 1, vec![(long, n)]);
        let small = world.submit(3, X, (10, 0));
        assert!(world.holds(worker, small), "at {n}");
        world.finish(worker, small, (10, 0), Outcome::Ok);
    }
}

/// An agent that is always passed, since its texts are large, is passed by no more than a batch. Fails where each text of
/// it is.
#[test]
fn who_is_passed_is_not_passed_for_ever() {
    let mut world = world(1_000);
    for _ in 0..40 {
        world.submit(1, X, (1_500, 0));
    }
    for _ in 0..2_000 {
        world.submit(2, X, (50, 0));
    }
    let worker = world.ready(X);
    let mut tokens = [0_i64; 3];
    for _ in 0..900 {
        let first = world.first_held(worker);
        let (agent, size) = match agent_of(first) {
            1 => (1, 1_500),
            _ => (2, 50),
        };
        world.now += u64::from(size) * MS / 10;
        world.step(worker, size, vec![]);
        world.finish(worker, first, (size, 0), Outcome::Ok);
        tokens[agent] += i64::from(size);
        let ahead = tokens[2] - tokens[1];
        assert!(ahead <= 2 * (1_500 + 2_000) + 1_000, "{ahead}");
    }
}
