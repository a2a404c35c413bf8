//! What a prefix cache keeps goes without anybody asking: zeroed, read back and told, though the worker
//! holds no lease and has nothing to do.

use super::{BLOCK_BYTES, counters, finished, fixture, last, smollm2_for};
use crate::support::Worker;
use bulkhead_proto::internal::{
    Assign, Expired, Finished, Forget, Work, from_worker::Message as From, to_worker::Message as To,
};
use std::time::Duration;

/// A worker that keeps what nobody uses for so long.
fn keeping(idle: Duration) -> Worker {
    smollm2_for(Assign {
        prefix_cache: true,
        prefix_cache_idle_ns: idle.as_nanos() as u64,
        ..Assign::default()
    })
}

/// Runs a long prompt of an agent to its end; how it ended, and the bytes that are cached then.
fn run(worker: &mut Worker, request: u64, agent: u64) -> (Finished, u64) {
    let text = format!("Agent {agent} says: {}", "ships carry grain. ".repeat(20));
    let mut item = fixture::generate(request, &text, 2);
    item.agent = agent;
    worker.send(To::Work(Work { items: vec![item] }));
    worker.grant(request);
    let (steps, released) = worker.until_released();
    assert!(released.dry, "what is cached is no work");
    let cached = counters(last(&steps)).cached_bytes;
    (finished(&steps, request).clone(), cached)
}

/// Waits until so much is left; the bytes that were zeroed and read back on the way.
fn expired_to(worker: &mut Worker, left: u64) -> u64 {
    let mut verified = 0;
    loop {
        let Some(From::Expired(Expired {
            scrub, counters, ..
        })) = worker.receive()
        else {
            panic!("it says what it drops, and nothing else");
        };
        let scrub = scrub.expect("evidence");
        assert_eq!(scrub.residue_bytes, 0);
        verified += scrub.bytes_verified;
        if counters.expect("counters").cached_bytes == left {
            return verified;
        }
    }
}

#[test]
fn what_nobody_used_for_a_time_is_zeroed_without_a_lease() {
    let mut worker = keeping(Duration::from_millis(1));
    let (first, cached) = run(&mut worker, 1, 7);
    assert!(first.retained_bytes >= 5 * BLOCK_BYTES, "{first:?}");
    // Some of it may have gone in the lease's last steps.
    assert!(cached <= first.retained_bytes);
    if cached > 0 {
        assert!(expired_to(&mut worker, 0) >= cached);
    }
    let (second, _) = run(&mut worker, 2, 7);
    assert_eq!(second.cached_tokens, 0, "nothing was there");
}

#[test]
fn what_is_still_due_later_stays() {
    let mut worker = keeping(Duration::from_secs(3600));
    let (first, cached) = run(&mut worker, 1, 7);
    assert_eq!(cached, first.retained_bytes);
    let (second, _) = run(&mut worker, 2, 7);
    assert!(second.cached_tokens > 64, "{second:?}");
}

/// The agent was revoked: what its prompts left goes, and what another's have too stays, here the
/// template's first words.
#[test]
fn what_an_agent_left_goes_with_it() {
    let mut worker = keeping(Duration::from_secs(3600));
    let (_, own) = run(&mut worker, 1, 7);
    let (other, both) = run(&mut worker, 2, 8);
    let shared = u64::from(other.cached_tokens) / 16 * BLOCK_BYTES;
    assert!(0 < shared && shared < own, "{other:?}");
    assert_eq!(both, own + other.retained_bytes - shared);
    worker.send(To::Forget(Forget { agent: 7 }));
    assert!(expired_to(&mut worker, other.retained_bytes) >= own - shared);
    let (again, _) = run(&mut worker, 3, 8);
    let found = u64::from(again.cached_tokens) / 16 * BLOCK_BYTES;
    assert!(found + BLOCK_BYTES >= other.retained_bytes, "{again:?}");
    let (gone, _) = run(&mut worker, 4, 7);
    assert_eq!(gone.cached_tokens, other.cached_tokens);
}
