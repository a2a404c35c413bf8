//! What a worker tells of its steps, from outside the process: SmolLM2, with steps so short that a pass takes many.

use super::{counters, fixture, last, next_step, smollm2_for};
use bulkhead_proto::SILENT_STEPS_MAX;
use bulkhead_proto::internal::{Assign, Step, Work, to_worker::Message as To};

fn says_something(step: &Step) -> bool {
    step.tokens > 0 || !step.pieces.is_empty() || !step.finished.is_empty()
}

/// Fails where each step is told of: the scheduler would wake for what changes nothing, on processors that compute.
#[test]
fn steps_that_have_nothing_to_say_are_told_of_with_the_next() {
    let mut worker = smollm2_for(Assign {
        step_limit_ns: 200_000,
        ..Assign::default()
    });
    let items = vec![fixture::generate(1, "Count to three.", 4)];
    worker.send(To::Work(Work { items }));
    worker.grant(1);
    let first = next_step(&mut worker);
    // In the midst of a pass as like as not: what was not told by then comes with the lane.
    worker.yield_(1);
    let (mut steps, released) = worker.until_released();
    assert!(!released.dry);
    steps.insert(0, first);
    let first_end = steps.len() - 1;
    worker.grant(2);
    let (second, released) = worker.until_released();
    assert!(released.dry);
    steps.extend(second);
    let ends = [first_end, steps.len() - 1];
    for (nth, step) in steps.iter().enumerate() {
        let full = step.silent_steps == SILENT_STEPS_MAX;
        assert!(
            says_something(step) || full || ends.contains(&nth),
            "{step:?}"
        );
    }
    for step in &steps {
        assert!(step.silent_steps <= SILENT_STEPS_MAX);
        assert!(step.longest_step_ns <= step.step_ns);
        let all = u64::from(1 + step.silent_steps);
        assert!(step.longest_step_ns >= step.step_ns / all, "{step:?}");
    }
    let silent: u32 = steps.iter().map(|step| step.silent_steps).sum();
    assert!(silent > 0, "a pass took many steps");
    let tokens: u32 = steps.iter().map(|step| step.tokens).sum();
    assert_eq!(u64::from(tokens), counters(last(&steps)).tokens_computed);
}
