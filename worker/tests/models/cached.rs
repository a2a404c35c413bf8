//! The prefix cache on the real decoder: what is given up is zeroed and read back before it holds anything
//! else, and a full cache stands in nobody's way.

use crate::fixture::{STEP_LIMIT_NS, clock, drain, generate, smollm2};
use bulkhead_proto::internal::{Finished, Outcome};
use bulkhead_worker::engine::Engine;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Keys and values of 16 tokens.
const BLOCK_BYTES: u64 = 737_280;
const IDLE_NS: u64 = 1_000_000_000_000;

/// A prompt of some nine blocks that begins with this name.
fn prompt(name: &str) -> String {
    format!("{name} says: {}", "ships carry grain. ".repeat(24))
}

/// With a cache, and room for so many blocks.
fn caching(blocks: u64) -> Box<dyn Engine> {
    let mut engine = smollm2();
    engine.cache_prefixes(7, IDLE_NS);
    engine.assign(blocks * BLOCK_BYTES, STEP_LIMIT_NS);
    engine
}

fn run(engine: &mut dyn Engine, request: u64, name: &str) -> (Finished, String) {
    engine.add(generate(request, &prompt(name), 4));
    let said = drain(engine);
    let pieces = said.steps.iter().flat_map(|step| &step.pieces);
    let text = pieces.map(|piece| piece.text.as_str()).collect();
    (said.finished(request).clone(), text)
}

#[test]
fn what_is_evicted_is_zeroed_before_it_is_used_and_nobody_is_refused() {
    let (alone, expected) = run(caching(40).as_mut(), 1, "Second");
    let blocks = u64::from(alone.input_tokens + 4 - 1).div_ceil(16);
    // One prompt fills the pool; the next needs all of it.
    let mut engine = caching(blocks);
    let (first, _) = run(engine.as_mut(), 1, "First!");
    assert_eq!(first.outcome(), Outcome::Ok, "{}", first.detail);
    let cached = engine.counters().cached_bytes / BLOCK_BYTES;
    assert!(cached >= 7, "{cached}");
    engine.scrub();

    let before = engine.counters().blocks_cleaned;
    engine.add(generate(2, &prompt("Second"), 4));
    let now = clock();
    let mut answer = String::new();
    while answer.is_empty() {
        let step = engine.step(&now);
        assert_eq!(step.residue_bytes, 0);
        answer.extend(step.pieces.into_iter().map(|piece| piece.text));
    }
    // Its prompt is in its blocks: every one that it did not find clean or cached was zeroed on the way.
    let own = u64::from(alone.input_tokens).div_ceil(16);
    let clean = blocks - cached;
    let shared = engine.counters().tokens_cached / 16;
    let least = own - shared - clean;
    let cleaned = engine.counters().blocks_cleaned - before;
    assert!(least > 0 && cleaned >= least, "{cleaned} of {least}");
    let evidence = engine.scrub();
    assert!(
        evidence.verified >= cleaned * BLOCK_BYTES && evidence.residue == 0,
        "{evidence:?}"
    );

    let said = drain(engine.as_mut());
    let rest = said.steps.iter().flat_map(|step| &step.pieces);
    answer.extend(rest.map(|piece| piece.text.as_str()));
    let second = said.finished(2);
    assert_eq!(second.outcome(), Outcome::Ok, "{}", second.detail);
    assert_eq!(answer, expected, "nothing of the first is in it");
}

/// The clock is the test's own.
#[test]
fn what_nobody_uses_goes_when_its_time_has_come_and_no_sooner() {
    let mut engine = caching(40);
    let time = AtomicU64::new(0);
    let now = || time.load(Relaxed);
    engine.add(generate(1, &prompt("First!"), 4));
    while engine.has_work() {
        time.fetch_add(1_000_000, Relaxed);
        engine.step(&now);
    }
    let cached = engine.counters().cached_bytes;
    let due = engine.expires_at().expect("something is cached");
    assert!(due > IDLE_NS && due <= time.load(Relaxed) + IDLE_NS);
    engine.scrub();

    time.store(due - 1, Relaxed);
    engine.expire(&now);
    assert_eq!(engine.counters().cached_bytes, cached);
    time.store(due + 1_000_000_000, Relaxed);
    while engine.expires_at().is_some() {
        let before = engine.counters().cached_bytes;
        engine.expire(&now);
        assert!(engine.counters().cached_bytes < before);
    }
    let evidence = engine.scrub();
    assert_eq!((evidence.verified, evidence.residue), (cached, 0));
    assert_eq!(engine.counters().cached_bytes, 0);
    assert_eq!(run(engine.as_mut(), 2, "First!").0.cached_tokens, 0);
}
