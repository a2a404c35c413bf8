//! SmolLM2 against the reference: the rendered prompt's length, the first token, the sense.
//!
//! An engine that quantises activations may leave the reference's greedy path after some tokens, so
//! whole texts are not compared.

use super::{Served, check, reference, serve};
use bulkhead_proto::v1::{ChatMessage, GenerateRequest};
use bulkhead_tests::agent::{chat, collect, prompt, reason};

#[tokio::test]
async fn answers_begin_as_the_reference_does_and_make_the_same_sense() {
    let Served { client, server, .. } = serve().await;
    let reference = reference("smollm2.json");
    for case in reference["cases"].as_array().expect("cases") {
        let question = case["prompt"].as_str().expect("a prompt");
        let expected = case["greedy_text"].as_str().expect("a text");
        let ids = case["input_ids"].as_array().expect("ids").len();

        let stream = client
            .generate(chat("smollm2", question, 32))
            .await
            .expect("a stream");
        let answer = collect(stream).await.expect("an answer");
        let usage = answer.done.usage.expect("usage");
        assert_eq!(
            usage.input_tokens as usize, ids,
            "rendered prompt of {question:?}"
        );
        assert!((1..=32).contains(&usage.output_tokens), "{usage:?}");
        // The reference's first token is a word of its own in each case.
        let first = |text: &str| text.split([' ', '.']).next().unwrap_or("").to_owned();
        assert_eq!(
            first(&answer.text()),
            first(expected),
            "{:?}",
            answer.text()
        );
        check(answer.done.receipt.clone());
        if question.contains("France") {
            assert!(answer.text().contains("Paris"), "{:?}", answer.text());
            assert_eq!(answer.done.finish_reason, "stop");
            assert!(
                !answer.text().contains("<|im_end|>"),
                "special tokens are not text"
            );
        }
    }
    drop(server);
}

/// The rendered prompt given raw is the same prompt: the template is the model's own and nothing
/// is added to a raw one.
#[tokio::test]
async fn a_raw_prompt_is_given_to_the_model_as_it_is() {
    let Served { client, server, .. } = serve().await;
    let reference = reference("smollm2.json");
    let case = &reference["cases"][0];
    let rendered = case["rendered"].as_str().expect("a rendered prompt");
    let stream = client
        .generate(prompt("smollm2", rendered, 16))
        .await
        .expect("a stream");
    let answer = collect(stream).await.expect("an answer");
    let ids = case["input_ids"].as_array().expect("ids").len();
    assert_eq!(answer.done.usage.expect("usage").input_tokens as usize, ids);
    assert!(answer.text().contains("Paris"), "{:?}", answer.text());
    drop(server);
}

#[tokio::test]
async fn text_is_streamed_and_counted() {
    let Served { client, server, .. } = serve().await;
    let stream = client
        .generate(chat("smollm2", "List three colours.", 12))
        .await;
    let answer = collect(stream.expect("a stream")).await.expect("an answer");
    assert!(
        answer.pieces.len() > 4,
        "token by token: {:?}",
        answer.pieces
    );
    assert_eq!(answer.done.finish_reason, "length");
    assert_eq!(answer.done.usage.expect("usage").output_tokens, 12);
    drop(server);
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_and_a_stop_string_ends_it() {
    let Served { client, server, .. } = serve().await;
    let warm = GenerateRequest {
        temperature: 0.8,
        seed: Some(7),
        ..chat("smollm2", "Write one sentence about ships.", 12)
    };
    let mut texts = Vec::new();
    for _ in 0..2 {
        let stream = client.generate(warm.clone()).await.expect("a stream");
        texts.push(collect(stream).await.expect("an answer").text());
    }
    assert_eq!(texts[0], texts[1]);

    let stopped = GenerateRequest {
        stop: vec!["Paris".into()],
        ..chat("smollm2", "What is the capital of France?", 32)
    };
    let stream = client.generate(stopped).await.expect("a stream");
    let answer = collect(stream).await.expect("an answer");
    assert_eq!(answer.done.finish_reason, "stop");
    assert!(
        answer.text().ends_with("is "),
        "up to the stop string: {:?}",
        answer.text()
    );
    drop(server);
}

#[tokio::test]
async fn prompts_that_cannot_be_run_are_the_callers_to_mend() {
    let Served { client, server, .. } = serve().await;
    let long = "word ".repeat(20_000);
    let status = match client.generate(prompt("smollm2", &long, 4)).await {
        Err(status) => status,
        Ok(stream) => collect(stream).await.map(|_| ()).expect_err("refused"),
    };
    assert!(
        ["REQUEST_INVALID", "MEMORY_QUOTA"].contains(&reason(&status).as_str()),
        "{status}"
    );
    let strange = GenerateRequest {
        messages: vec![ChatMessage {
            role: "oracle".into(),
            content: "hello".into(),
        }],
        ..chat("smollm2", "", 4)
    };
    let status = client
        .generate(strange)
        .await
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
    drop(server);
}
