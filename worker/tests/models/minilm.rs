//! Embeddings: equal to the reference, and the same whatever else is in the batch.

use crate::fixture::{MINILM, cosine, drain, embed_item, files, minilm, reference, values};
use bulkhead_proto::internal::{GenerateJob, Outcome, WorkItem, work_item::Job};
use bulkhead_worker::models::encoder::TextEncoder;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    text: String,
    input_ids: Vec<u32>,
    embedding: Vec<f32>,
}

fn cases() -> Vec<Case> {
    reference::<Reference>("minilm.json").cases
}

/// The least cosine to the reference that counts as equal.
const COSINE_MIN: f64 = 0.9999;

#[test]
fn token_ids_are_those_of_the_reference() {
    let tokenizer = files("minilm", MINILM).swap_remove(2).bytes;
    let encoder = TextEncoder::parse(&tokenizer, 256, 30522).expect("it parses");
    for case in cases() {
        let mut ids = Vec::new();
        let truncated = encoder.append(&case.text, &mut ids).expect("it encodes");
        assert_eq!(ids, case.input_ids, "{:?}", case.text);
        assert_eq!(truncated, case.text.len() == 2000);
    }
}

#[test]
fn each_text_alone_meets_the_reference() {
    let mut engine = minilm();
    for (request, case) in cases().into_iter().enumerate() {
        engine.add(embed_item(request as u64, &[&case.text]));
        let said = drain(engine.as_mut());
        let finished = said.finished(request as u64);
        assert_eq!(finished.outcome(), Outcome::Ok);
        let vector = &finished.vectors[0];
        assert_eq!(vector.tokens as usize, case.input_ids.len());
        assert_eq!(vector.truncated, case.text.len() == 2000);
        let cosine = cosine(&values(vector), &case.embedding);
        assert!(cosine >= COSINE_MIN, "{:?}: {cosine}", case.text);
    }
}

#[test]
fn one_ragged_batch_and_a_shuffled_one_meet_the_reference() {
    let mut engine = minilm();
    let cases = cases();
    let mut first: HashMap<&str, Vec<f32>> = HashMap::new();
    // 7 has no factor in common with the number of cases, so this visits each once.
    for stride in [1, 7] {
        let order: Vec<&Case> = (0..cases.len())
            .map(|at| &cases[at * stride % cases.len()])
            .collect();
        let texts: Vec<&String> = order.iter().map(|case| &case.text).collect();
        engine.assign(0, u64::MAX);
        engine.add(embed_item(1, &texts));
        let said = drain(engine.as_mut());
        assert_eq!(said.steps.len(), 1, "all in one batch");
        for (case, vector) in order.iter().zip(&said.finished(1).vectors) {
            let cosine = cosine(&values(vector), &case.embedding);
            assert!(cosine >= COSINE_MIN, "{:?}: {cosine}", case.text);
            let before = first.entry(&case.text).or_insert_with(|| values(vector));
            assert_eq!(*before, values(vector), "in any order, to the last bit");
        }
    }
}

#[test]
fn a_text_divided_into_many_steps_is_the_same_text() {
    let mut engine = minilm();
    // A limit of a microsecond: one piece a step.
    engine.assign(0, 1_000);
    let case = cases().swap_remove(9);
    engine.add(embed_item(1, &[&case.text]));
    let said = drain(engine.as_mut());
    // One step reads the text; 256 tokens are 8 pieces through both halves of 6 layers.
    assert_eq!(said.steps.len(), 1 + 8 * 2 * 6);
    assert!(cosine(&values(&said.finished(1).vectors[0]), &case.embedding) >= COSINE_MIN);
}

#[test]
fn one_text_is_not_stuck_behind_many() {
    let mut engine = minilm();
    for _ in 0..3 {
        engine.add(embed_item(1, &["some words to learn the speed by"; 16]));
        drain(engine.as_mut());
    }
    let long = "one of a great many texts that all came before the short one ".repeat(3);
    engine.add(embed_item(1, &vec![long; 64]));
    engine.add(embed_item(2, &["short"]));
    let said = drain(engine.as_mut());
    let ended = |request| {
        let of = |step: &bulkhead_worker::engine::StepOutcome| {
            step.finished
                .iter()
                .any(|finished| finished.request == request)
        };
        said.steps.iter().position(of).expect("answered")
    };
    assert!(ended(2) < ended(1), "{} and {}", ended(2), ended(1));
}

#[test]
fn cancelling_drops_a_request_and_no_other() {
    let mut engine = minilm();
    engine.assign(0, 1_000);
    engine.add(embed_item(1, &["first", "second"]));
    engine.add(embed_item(2, &["third"]));
    let now = crate::fixture::clock();
    engine.step(&now);
    engine.step(&now);
    engine.cancel(1);
    let said = drain(engine.as_mut());
    assert_eq!(said.finished(1).outcome(), Outcome::Cancelled);
    assert_eq!(said.finished(2).outcome(), Outcome::Ok);
    engine.add(embed_item(3, &["gone before its batch is through"]));
    engine.step(&now);
    engine.step(&now);
    engine.cancel(3);
    let said = drain(engine.as_mut());
    assert_eq!(said.steps.len(), 1, "the batch is dropped at once");
    assert!(
        said.finished(3).input_tokens > 6,
        "what was read is counted"
    );
}

/// Its text is in a batch with another's, which goes on: what the batch has of it is zeroed at once.
#[test]
fn of_a_cancelled_text_nothing_stays_in_a_batch_that_goes_on() {
    let text = |word: &str| vec![word; 198].join(" ");
    let mut alone = minilm();
    alone.add(embed_item(2, &[text("sea")]));
    let want = values(&drain(alone.as_mut()).finished(2).vectors[0]);

    let mut engine = minilm();
    // Room for the two by their tokens, and not for what attention costs beside.
    engine.assign(0, 208_000_000);
    engine.add(embed_item(1, &[text("ship")]));
    engine.add(embed_item(2, &[text("sea")]));
    let first = engine.step(&|| 0);
    assert_eq!(
        (first.sequences, first.finished.len()),
        (2, 0),
        "on its way"
    );
    engine.scrub();
    engine.cancel(1);
    let evidence = engine.scrub();
    // Of each token a row, its query, key and value, 384 floats each.
    let least = 200 * 4 * 384 * 4;
    assert!(
        evidence.verified >= least && evidence.residue == 0,
        "{evidence:?}"
    );
    let said = drain(engine.as_mut());
    assert_eq!(said.finished(1).outcome(), Outcome::Cancelled);
    let got = values(&said.finished(2).vectors[0]);
    assert_eq!(want, got);
}

#[test]
fn what_cannot_run_is_answered_and_not_kept() {
    let mut engine = minilm();
    engine.add(embed_item::<&str>(1, &[]));
    let generate = GenerateJob {
        prompt: "hello".into(),
        ..GenerateJob::default()
    };
    engine.add(WorkItem {
        request: 2,
        job: Some(Job::Generate(generate)),
        ..WorkItem::default()
    });
    engine.add(WorkItem {
        request: 3,
        job: None,
        ..WorkItem::default()
    });
    let said = drain(engine.as_mut());
    for request in 1..=3 {
        assert_eq!(said.finished(request).outcome(), Outcome::Invalid);
        assert!(!said.finished(request).detail.is_empty());
    }
}

#[test]
fn a_scrub_covers_the_scratch_and_finds_it_clean() {
    let mut engine = minilm();
    engine.add(embed_item(1, &["a text that leaves activations behind"]));
    drain(engine.as_mut());
    let scrubbed = engine.scrub();
    assert!(scrubbed.verified > 9 * 384 * 4, "{scrubbed:?}");
    assert!(scrubbed.zeroed >= scrubbed.verified);
    assert_eq!(scrubbed.residue, 0);
    assert_eq!(
        engine.scrub().verified,
        0,
        "what is clean is not counted again"
    );
}
