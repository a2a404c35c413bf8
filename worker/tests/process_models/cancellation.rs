//! Cancellation, from outside the process: SmolLM2 in a sealed worker, its counters read off its socket.
//!
//! Where the moment matters, the worker holds no lease when it is told, so that nothing is left to chance:
//! whatever the first step of the next lease does, it does after the cancellation.

use super::{BLOCK_BYTES, counters, finished, fixture, last, next_step, smollm2, text, unhurried};
use crate::support::Worker;
use bulkhead_proto::internal::to_worker::Message as To;
use bulkhead_proto::internal::{Cancel, Outcome, Work, WorkItem, work_item::Job};

/// A sequence that nobody would wait for, and that fits into the quota.
const ENDLESS: u32 = 1200;

/// A request of one of the tenant's agents, which does not end before its time.
fn ask(worker: &mut Worker, request: u64, agent: u64, max_tokens: u32) {
    let mut item = fixture::generate(request, "Count to one hundred.", max_tokens);
    item.agent = agent;
    if let Some(Job::Generate(job)) = &mut item.job {
        job.ignore_eos = true;
    }
    worker.send(To::Work(Work { items: vec![item] }));
}

fn cancel(worker: &mut Worker, request: u64) {
    worker.send(To::Cancel(Cancel { request }));
}

/// Steps until all of these requests have shown some text.
fn until_shown(worker: &mut Worker, requests: &[u64]) {
    let mut missing = requests.to_vec();
    while !missing.is_empty() {
        let step = next_step(worker);
        missing.retain(|request| step.pieces.iter().all(|piece| piece.request != *request));
    }
}

/// Two agents' sequences run; one is cancelled between two leases. Not a token is computed for it under
/// the next, its memory is given up in that lease's first steps, and the other's answer is what it is alone.
#[test]
fn nothing_is_computed_for_a_cancelled_sequence_and_its_blocks_are_free() {
    let mut worker = unhurried();
    ask(&mut worker, 1, 7, 40);
    worker.grant(1);
    let (alone, _) = worker.until_released();

    ask(&mut worker, 2, 8, ENDLESS);
    ask(&mut worker, 3, 7, 40);
    worker.grant(2);
    until_shown(&mut worker, &[2, 3]);
    worker.yield_(2);
    let (_, released) = worker.until_released();
    assert!(!released.dry);
    cancel(&mut worker, 2);
    worker.grant(3);
    let (after, released) = worker.until_released();
    assert!(released.dry, "nothing is left to do");

    let end = finished(&after, 2);
    assert_eq!(end.outcome(), Outcome::Cancelled);
    assert!(end.output_tokens > 0 && end.output_tokens < ENDLESS);
    let scrub = end.scrub.expect("evidence");
    assert!(
        scrub.bytes_verified > 0 && scrub.residue_bytes == 0,
        "{scrub:?}"
    );
    assert_eq!(text(&after, 2), "", "not a piece more");
    assert!(
        after.iter().all(|step| step.sequences <= 1),
        "the other alone"
    );

    let other = finished(&after, 3);
    assert_eq!((other.outcome(), other.output_tokens), (Outcome::Ok, 40));
    let whole = text(&alone, 1);
    assert!(whole.ends_with(&text(&after, 3)));

    // What was computed in all, but for the cancelled one's share, is the other's prompt and answer but
    // for the last token.
    let (first, last) = (last(&alone), last(&after));
    let computed = counters(last).tokens_computed - counters(first).tokens_computed;
    let own = other.input_tokens + other.output_tokens - 1;
    let dropped = end.input_tokens + end.output_tokens - 1;
    assert_eq!(computed, u64::from(own + dropped));
    assert_eq!(counters(last).sequences_cancelled, 1);
    assert_eq!(counters(last).tokens_recomputed, 0);
    assert_eq!(last.kv_bytes, 0, "every block is free");
}

/// One that is cancelled alone leaves nothing: the steps that follow only clean.
#[test]
fn a_worker_whose_only_sequence_is_cancelled_runs_dry() {
    let mut worker = unhurried();
    ask(&mut worker, 1, 7, ENDLESS);
    worker.grant(1);
    until_shown(&mut worker, &[1]);
    worker.yield_(1);
    let (before, _) = worker.until_released();
    cancel(&mut worker, 1);
    worker.grant(2);
    let (after, released) = worker.until_released();
    assert!(released.dry);
    let end = finished(&after, 1);
    assert_eq!(end.outcome(), Outcome::Cancelled);
    let computed = u64::from(end.input_tokens + end.output_tokens - 1);
    for step in &after {
        assert_eq!((step.sequences, step.tokens), (0, 0));
        assert_eq!(counters(step).tokens_computed, computed);
    }
    let held = u64::from(end.input_tokens + end.output_tokens).div_ceil(16);
    let cleaned = counters(last(&after)).blocks_cleaned;
    assert!(
        cleaned.abs_diff(held) <= 1,
        "{cleaned} blocks cleaned of {held}"
    );
    assert_eq!(last(&after).kv_bytes, 0);
    if let Some(step) = before.last() {
        assert!(step.kv_bytes >= (held - 1) * BLOCK_BYTES);
    }
}

/// Told in the midst of its steps, and while its prompt is read: it stops within the steps that were under
/// way.
#[test]
fn one_that_is_cancelled_while_it_runs_stops_before_its_end() {
    let mut worker = smollm2();
    let text = "The ship carries grain and oil to the islands. ".repeat(60);
    let prompt: WorkItem = fixture::generate(1, &text, 4);
    worker.send(To::Work(Work {
        items: vec![prompt],
    }));
    worker.grant(1);
    while next_step(&mut worker).tokens == 0 {}
    cancel(&mut worker, 1);
    let (steps, released) = worker.until_released();
    assert!(released.dry);
    let end = finished(&steps, 1);
    assert_eq!((end.outcome(), end.output_tokens), (Outcome::Cancelled, 0));
    let last = last(&steps);
    assert!(counters(last).tokens_computed < u64::from(end.input_tokens));
    assert_eq!((counters(last).sequences_cancelled, last.kv_bytes), (1, 0));
}

/// One whose prompt was not looked at yet costs nothing at all.
#[test]
fn one_that_is_cancelled_before_its_first_lease_is_never_begun() {
    let mut worker = smollm2();
    ask(&mut worker, 1, 7, ENDLESS);
    cancel(&mut worker, 1);
    worker.grant(1);
    let (steps, released) = worker.until_released();
    assert!(released.dry);
    let end = finished(&steps, 1);
    assert_eq!((end.outcome(), end.input_tokens), (Outcome::Cancelled, 0));
    let counters = counters(last(&steps));
    assert_eq!((counters.tokens_computed, counters.blocks_cleaned), (0, 0));
    assert_eq!(counters.sequences_cancelled, 1);
}
