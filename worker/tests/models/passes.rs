//! Passes that are left on their way, on the real decoder. The clock is the test's own: it goes on by a fixed time
//! whenever it is asked, so where a pass is left is the same on every machine.

use crate::fixture::{Said, clock, drain, drain_by, generate, smollm2, text};
use bulkhead_proto::internal::Outcome;
use bulkhead_worker::engine::Engine;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const LIMIT_NS: u64 = 25_000_000;

/// A clock that goes on by this much whenever it is asked.
fn ticking(by_ns: u64) -> impl Fn() -> u64 + Sync {
    let now = AtomicU64::new(0);
    move || now.fetch_add(by_ns, Relaxed)
}

/// With a limit of 25 ms.
fn engine() -> Box<dyn Engine> {
    let mut engine = smollm2();
    engine.assign(512 << 20, LIMIT_NS);
    engine
}

fn alone(content: &str, max_tokens: u32) -> String {
    let mut engine = engine();
    engine.add(generate(1, content, max_tokens));
    text(&drain(engine.as_mut()), 1)
}

#[test]
fn an_answer_is_the_same_wherever_its_passes_are_left() {
    let (long, short) = ("The ship carries grain. ".repeat(12), "Count to ten.");
    let want = (alone(&long, 12), alone(short, 12));
    for by_ns in [1_000_000, 3_000_000, 11_000_000] {
        let mut engine = engine();
        engine.add(generate(1, &long, 12));
        engine.add(generate(2, short, 12));
        let said = drain_by(engine.as_mut(), &ticking(by_ns));
        let idle = said.steps.iter().filter(|step| step.tokens == 0);
        assert!(
            idle.count() > 24,
            "passes take steps in which they do not end"
        );
        assert_eq!((text(&said, 1), text(&said, 2)), want, "by {by_ns} ns");
        assert_eq!(engine.counters().tokens_recomputed, 0);
    }
}

/// Two prompts are on their way in one pass when one of them is cancelled.
#[test]
fn a_request_that_is_cancelled_inside_a_pass_leaves_it_at_once_and_clean() {
    let (long, other) = (
        "Tell me a secret. ".repeat(12),
        "Ships carry grain. ".repeat(12),
    );
    let want = alone(&other, 8);
    // At first passes are short; what was learned of steps stays.
    let mut engine = engine();
    engine.add(generate(1, &other, 8));
    drain_by(engine.as_mut(), &ticking(1_000_000));
    engine.scrub();

    let now = ticking(1_000_000);
    engine.add(generate(2, &long, 8));
    engine.add(generate(3, &other, 8));
    let mut said = Said::default();
    while said
        .steps
        .last()
        .is_none_or(|step| step.sequences < 2 || step.tokens > 0)
    {
        said.steps.push(engine.step(&now));
    }
    let held = engine.kv_bytes();
    engine.cancel(2);
    // Cleaning may take a step or two.
    while said
        .steps
        .last()
        .is_none_or(|step| step.finished.is_empty())
    {
        let step = engine.step(&now);
        assert!(step.sequences <= 1, "the other alone");
        said.steps.push(step);
    }
    let ended = said.finished(2);
    assert_eq!(ended.outcome(), Outcome::Cancelled);
    let evidence = engine.scrub();
    assert!(
        evidence.verified > held / 3 && evidence.residue == 0,
        "{evidence:?}"
    );

    said.steps.extend(drain_by(engine.as_mut(), &now).steps);
    assert_eq!(text(&said, 3), want);
    let counters = engine.counters();
    assert_eq!((counters.tokens_recomputed, counters.preemptions), (0, 0));
    assert_eq!(engine.kv_bytes(), 0);
}

/// Real time, and much of it at once: the limit is that of a step, not of a pass.
#[test]
fn a_prompt_is_read_in_steps_while_another_answers() {
    let mut engine = engine();
    let now = clock();
    engine.add(generate(1, "Count to one hundred.", 60));
    while engine.kv_bytes() == 0 {
        engine.step(&now);
    }
    engine.add(generate(2, &"The ship carries grain. ".repeat(30), 1));
    let said = drain_by(engine.as_mut(), &now);
    let first = said
        .steps
        .iter()
        .position(|step| step.pieces.iter().any(|piece| piece.request == 2));
    let before = &said.steps[..first.expect("it is answered")];
    let pieces = before.iter().flat_map(|step| &step.pieces);
    assert!(pieces.count() > 3, "the other goes on meanwhile");
}
