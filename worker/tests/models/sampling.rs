//! Sampling on a real model: log-probabilities against the reference and in pace with the text, how
//! answers end, and that penalties choose what their definition says.

use crate::fixture::{self, STEP_LIMIT_NS, Said, drain, drain_by, generate, reference, smollm2};
use bulkhead_proto::internal::{GenerateJob, Outcome, TokenLogprob, WorkItem, work_item::Job};
use bulkhead_worker::engine::Engine;
use serde::Deserialize;

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    prompt: String,
    top5_ids: Vec<u32>,
    top5_logits: Vec<f32>,
    greedy_ids: Vec<u32>,
}

const FRANCE: &str = "What is the capital of France?";
/// "<|im_end|>", which ends SmolLM2's answers.
const END: u32 = 2;
/// How far a log-probability may be from the reference's, whose logits have three digits.
const TOLERANCE: f32 = 0.01;

fn ask(prompt: &str, max_tokens: u32, change: impl FnOnce(&mut GenerateJob)) -> WorkItem {
    let mut item = generate(1, prompt, max_tokens);
    if let Some(Job::Generate(job)) = &mut item.job {
        change(job);
    }
    item
}

fn answer(
    engine: &mut dyn Engine,
    prompt: &str,
    max_tokens: u32,
    change: impl FnOnce(&mut GenerateJob),
) -> Said {
    engine.add(ask(prompt, max_tokens, change));
    drain(engine)
}

fn text(said: &Said) -> String {
    let pieces = said.steps.iter().flat_map(|step| &step.pieces);
    pieces.map(|piece| piece.text.as_str()).collect()
}

fn entries(said: &Said) -> Vec<&TokenLogprob> {
    let pieces = said.steps.iter().flat_map(|step| &step.pieces);
    pieces.flat_map(|piece| &piece.logprobs).collect()
}

#[test]
fn log_probabilities_are_the_references() {
    let mut engine = smollm2();
    for case in reference::<Reference>("smollm2.json").cases {
        let said = answer(engine.as_mut(), &case.prompt, 8, |job| {
            job.logprobs = Some(20);
            // None of these changes the model's own probabilities.
            job.repetition_penalty = 1.0001;
            job.logit_bias = [(0, -5.0)].into();
        });
        let entries = entries(&said);
        let ids: Vec<u32> = entries.iter().map(|entry| entry.token).collect();
        let length = ids.len().min(case.greedy_ids.len());
        assert_eq!(ids[..length], case.greedy_ids[..length]);
        let top = &entries[0].top;
        assert_eq!(top.len(), 20);
        for (one, (id, logit)) in top.iter().zip(case.top5_ids.iter().zip(&case.top5_logits)) {
            assert_eq!(one.token, *id);
            // Logits and their log-probabilities differ by one constant.
            let below = case.top5_logits[0] - logit;
            assert!((top[0].logprob - one.logprob - below).abs() < 2.0 * TOLERANCE);
        }
        for entry in entries {
            assert_eq!(entry.logprob, entry.top[0].logprob, "greedy is likeliest");
            let sum: f32 = entry.top.iter().map(|one| one.logprob.exp()).sum();
            assert!((0.2..1.0001).contains(&sum), "{sum}");
        }
    }
    let none = answer(engine.as_mut(), FRANCE, 8, |job| job.logprobs = Some(0));
    assert!(entries(&none).iter().all(|entry| entry.top.is_empty()));
    assert!(entries(&none).len() > 4);
    let off = answer(engine.as_mut(), FRANCE, 8, |_| ());
    assert!(entries(&off).is_empty());
}

/// In a text of rare characters, each is divided among tokens; the hotter the draws, the more of them
/// never become whole.
#[test]
fn log_probabilities_keep_pace_with_the_text() {
    let mut engine = smollm2();
    let mut divided = 0;
    for seed in 0..8 {
        let said = answer(engine.as_mut(), "", 40, |job| {
            job.messages.clear();
            job.prompt = "漢字 🚢 漢字 🚢 漢字 🚢 漢字".into();
            job.temperature = 0.5 + seed as f32 / 2.0;
            job.seed = seed;
            job.ignore_eos = true;
            job.logprobs = Some(1);
            job.stop = vec!["\n\n".into(), " the".into(), "字 漢".into()];
        });
        let (mut shown, mut told) = (String::new(), Vec::new());
        let mut paces = Vec::new();
        for piece in said.steps.iter().flat_map(|step| &step.pieces) {
            shown.push_str(&piece.text);
            for entry in &piece.logprobs {
                told.extend_from_slice(&entry.bytes);
                divided += usize::from(std::str::from_utf8(&entry.bytes).is_err());
            }
            paces.push((shown.clone(), told.clone()));
        }
        // What is told is shown, but for a token that a stop string cut, which comes last.
        paces.pop();
        for (shown, told) in paces {
            let told = String::from_utf8_lossy(&told);
            assert!(shown.starts_with(told.trim_end_matches('\u{FFFD}')));
        }
        let finished = said.finished(1);
        match finished.finish_reason.as_str() {
            "length" => assert_eq!(String::from_utf8_lossy(&told), shown),
            "stop" => assert!(String::from_utf8_lossy(&told).starts_with(&shown)),
            other => panic!("{other:?}"),
        }
        assert!(entries(&said).len() <= finished.output_tokens as usize);
    }
    assert!(
        divided > 4,
        "characters were divided among tokens: {divided}"
    );
}

#[test]
fn what_a_stop_string_cuts_off_is_not_told() {
    let mut engine = smollm2();
    let said = answer(engine.as_mut(), FRANCE, 16, |job| {
        job.logprobs = Some(0);
        // Divides a token of "The capital of France is Paris." and spans two more.
        job.stop = vec!["rance is P".into(), "never".into()];
    });
    assert_eq!(text(&said), "The capital of F");
    let told: Vec<u8> = entries(&said)
        .iter()
        .flat_map(|entry| entry.bytes.clone())
        .collect();
    assert_eq!(String::from_utf8_lossy(&told), "The capital of France");
    let finished = said.finished(1);
    assert_eq!(finished.stop_sequence, "rance is P");
    assert_eq!(
        (finished.finish_reason.as_str(), finished.stop_token),
        ("stop", None)
    );
    // Generated all the same, and counted: " is" and " Paris" are of the stop string.
    assert_eq!(finished.output_tokens, 6);
}

#[test]
fn tokens_end_an_answer_when_they_may() {
    let mut engine = smollm2();
    let engine = engine.as_mut();
    let said = answer(engine, FRANCE, 32, |_| ());
    let (whole, finished) = (text(&said), said.finished(1).clone());
    assert_eq!(
        (finished.stop_sequence.as_str(), finished.stop_token),
        ("", None)
    );
    assert_eq!(finished.output_tokens, 7);

    // " of", the third of the reference's tokens.
    let said = answer(engine, FRANCE, 32, |job| job.stop_token_ids = vec![9, 282]);
    assert_eq!(text(&said), "The capital");
    let finished = said.finished(1);
    assert_eq!(
        (finished.finish_reason.as_str(), finished.stop_token),
        ("stop", Some(282))
    );

    let said = answer(engine, FRANCE, 32, |job| job.stop_token_ids = vec![END]);
    assert_eq!(
        (text(&said), said.finished(1).stop_token),
        (whole.clone(), Some(END))
    );

    let said = answer(engine, FRANCE, 32, |job| job.min_tokens = 12);
    assert!(text(&said).starts_with(&whole));
    assert!(said.finished(1).output_tokens >= 12);

    let said = answer(engine, FRANCE, 20, |job| job.ignore_eos = true);
    let finished = said.finished(1);
    assert_eq!(
        (finished.finish_reason.as_str(), finished.output_tokens),
        ("length", 20)
    );
}

/// Frequency and presence penalties do not depend on a constant in the logits, so what they choose
/// follows from log-probabilities, as far as the likeliest tokens are told.
#[test]
fn penalties_choose_what_their_definition_says() {
    let mut engine = smollm2();
    let (frequency, presence) = (0.9f32, 0.4f32);
    let said = answer(
        engine.as_mut(),
        "Write the word ship ten times.",
        40,
        |job| {
            job.frequency_penalty = frequency;
            job.presence_penalty = presence;
            job.logprobs = Some(20);
        },
    );
    let mut before = Vec::new();
    let mut changed = 0;
    for entry in entries(&said) {
        let count = |token: u32| before.iter().filter(|seen| **seen == token).count() as f32;
        let penalised = |token: u32, logprob: f32| {
            let count = count(token);
            logprob - frequency * count - if count > 0.0 { presence } else { 0.0 }
        };
        let all = entry.top.iter();
        let best = all
            .max_by(|a, b| penalised(a.token, a.logprob).total_cmp(&penalised(b.token, b.logprob)));
        let best = best.expect("alternatives");
        assert_eq!(entry.token, best.token, "after {before:?}");
        changed += usize::from(best.token != entry.top[0].token);
        before.push(entry.token);
    }
    assert!(changed > 0, "the penalties made a difference");
}

#[test]
fn a_bias_forces_and_forbids() {
    let mut engine = smollm2();
    let said = answer(engine.as_mut(), FRANCE, 3, |job| {
        job.logit_bias = [(7042, 100.0)].into();
    });
    assert_eq!(text(&said), " Paris Paris Paris");
    let said = answer(engine.as_mut(), FRANCE, 8, |job| {
        job.logit_bias = [(7042, -100.0)].into();
    });
    assert!(!text(&said).contains(" Paris"), "{:?}", text(&said));
}

#[test]
fn one_token_to_choose_from_is_greedy_at_any_temperature() {
    let mut engine = smollm2();
    let greedy = text(&answer(engine.as_mut(), FRANCE, 16, |_| ()));
    let narrow: [fn(&mut GenerateJob); 3] = [
        |job| job.top_k = 1,
        |job| job.min_p = 1.0,
        |job| job.top_p = 1e-6,
    ];
    for change in narrow {
        let said = answer(engine.as_mut(), FRANCE, 16, |job| {
            job.temperature = 5.0;
            change(job);
        });
        assert_eq!(text(&said), greedy);
    }
}

#[test]
fn numbers_that_mean_nothing_are_the_callers_to_mend() {
    let mut engine = smollm2();
    let mut refused = |words: &str, change: fn(&mut GenerateJob)| {
        let said = answer(engine.as_mut(), FRANCE, 4, change);
        let finished = said.finished(1);
        assert_eq!(finished.outcome(), Outcome::Invalid);
        assert!(finished.detail.contains(words), "{:?}", finished.detail);
    };
    refused("ids are below 49152", |job| {
        job.stop_token_ids = vec![49_152]
    });
    refused("ids are below 49152", |job| {
        job.logit_bias = [(u32::MAX, 1.0)].into();
    });
    refused("logprobs is at most 20", |job| job.logprobs = Some(21));
    refused("min_tokens", |job| job.min_tokens = 5);
    refused("repetition_penalty", |job| job.repetition_penalty = -1.0);
    refused("at most 64 stop_token_ids", |job| {
        job.stop_token_ids = vec![1; 65]
    });
}

/// Too little memory for all of them at once: their blocks are taken, and they are computed again.
#[test]
fn a_sampled_answer_is_the_same_however_often_it_is_computed_again() {
    let mut engine = smollm2();
    let prompts = ["Tell me about ships.", "Write a tale.", "Why?"];
    let max_tokens = 72;
    let item = |at: usize| {
        let mut item = ask(prompts[at], max_tokens, |job| {
            job.temperature = 0.9;
            job.top_k = 50;
            job.repetition_penalty = 1.2;
            job.frequency_penalty = 0.3;
            job.seed = at as u64;
            job.ignore_eos = true;
        });
        item.request = at as u64;
        item
    };
    let mut alone = Vec::new();
    for at in 0..prompts.len() {
        engine.add(item(at));
        alone.push(fixture::text(&drain(engine.as_mut()), at as u64));
    }
    // Room for all prompts, and for the answer of one.
    let tokens = 11 * 16;
    engine.assign(engine.info().kv_bytes_per_token * tokens, STEP_LIMIT_NS);
    for at in 0..prompts.len() {
        engine.add(item(at));
    }
    // No step is ever over: they all decode side by side, until there is no room.
    let said = drain_by(engine.as_mut(), &|| 0);
    assert!(engine.counters().preemptions > 0);
    for (at, alone) in alone.iter().enumerate() {
        assert_eq!(&fixture::text(&said, at as u64), alone);
        assert_eq!(said.finished(at as u64).output_tokens, max_tokens);
    }
}
