//! SmolLM2 against the reference: the rendered prompt's length, the first token, the sense.
//!
//! An engine that quantises activations may leave the reference's greedy path after some tokens, so
//! whole texts are not compared.

use super::{Served, check, reference, serve};
use bulkhead_proto::v1::{ChatMessage, GenerateRequest};
use bulkhead_tests::agent::{Client, Generation, chat, collect, prompt, reason};

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

/// A sampled answer, with everything that changes what is likely.
fn warm(seed: Option<u64>) -> GenerateRequest {
    GenerateRequest {
        temperature: 0.9,
        top_k: 40,
        top_p: 0.95,
        min_p: 0.02,
        repetition_penalty: 1.1,
        frequency_penalty: 0.2,
        seed,
        ..chat("smollm2", "Write one sentence about ships.", 16)
    }
}

async fn answer(client: &Client, request: GenerateRequest) -> Generation {
    let stream = client.generate(request).await.expect("a stream");
    collect(stream).await.expect("an answer")
}

#[tokio::test]
async fn the_same_seed_gives_the_same_text_beside_other_traffic() {
    let Served { client, server, .. } = serve().await;
    let alone = answer(&client, warm(Some(7))).await;
    assert_eq!(alone.done.seed, 7);
    let other = |seed| answer(&client, warm(Some(seed)));
    let greedy = || answer(&client, chat("smollm2", "Count to one hundred.", 24));
    let same = || answer(&client, warm(Some(7)));
    let (_, first, second, a, b) = tokio::join!(greedy(), same(), same(), other(8), other(9));
    assert_eq!(first.text(), alone.text());
    assert_eq!(second.text(), alone.text());
    assert!(a.text() != alone.text() || b.text() != alone.text());

    let drawn = answer(&client, warm(None)).await;
    let again = answer(&client, warm(Some(drawn.done.seed))).await;
    assert_eq!(drawn.text(), again.text(), "the seed that was told");
    drop(server);
}

#[tokio::test]
async fn log_probabilities_are_those_of_the_reference() {
    let Served { client, server, .. } = serve().await;
    let reference = reference("smollm2.json");
    for case in reference["cases"].as_array().expect("cases") {
        let request = GenerateRequest {
            logprobs: Some(5),
            ..chat("smollm2", case["prompt"].as_str().expect("a prompt"), 4)
        };
        let answer = answer(&client, request).await;
        let bytes: Vec<u8> = answer
            .logprobs
            .iter()
            .flat_map(|t| t.bytes.clone())
            .collect();
        assert_eq!(String::from_utf8_lossy(&bytes), answer.text());
        let first = &answer.logprobs[0];
        assert_eq!(first.token, first.top[0].token, "greedy");
        let logit = |at: usize| case["top5_logits"][at].as_f64().expect("a logit");
        for (at, one) in first.top.iter().enumerate() {
            assert_eq!(Some(u64::from(one.token)), case["top5_ids"][at].as_u64());
            // Logits and their log-probabilities differ by one constant; the reference has three digits.
            let below = f64::from(first.top[0].logprob - one.logprob);
            assert!((below - (logit(0) - logit(at))).abs() < 0.02, "{first:?}");
        }
    }
    drop(server);
}

#[tokio::test]
async fn an_answer_says_what_ended_it() {
    let Served { client, server, .. } = serve().await;
    let capital = || chat("smollm2", "What is the capital of France?", 32);
    let stopped = GenerateRequest {
        stop: vec!["London".into(), "Paris".into()],
        ..capital()
    };
    let stopped = answer(&client, stopped).await;
    assert_eq!(stopped.done.finish_reason, "stop");
    assert_eq!(stopped.done.stop_sequence, "Paris");
    assert!(stopped.text().ends_with("is "), "{:?}", stopped.text());

    let whole = answer(&client, capital()).await;
    assert_eq!(whole.done.finish_reason, "stop");
    assert_eq!(
        (whole.done.stop_sequence.as_str(), whole.done.stop_token),
        ("", None)
    );

    let beyond = GenerateRequest {
        ignore_eos: true,
        max_tokens: 20,
        ..capital()
    };
    let beyond = answer(&client, beyond).await;
    assert_eq!(beyond.done.finish_reason, "length");
    assert_eq!(beyond.done.usage.expect("usage").output_tokens, 20);
    drop(server);
}

#[tokio::test]
async fn numbers_out_of_bounds_are_refused_by_name() {
    let Served { client, server, .. } = serve().await;
    let refuse = async |request: GenerateRequest, words: &str| {
        let status = match client.generate(request).await {
            Err(status) => status,
            Ok(stream) => collect(stream).await.map(|_| ()).expect_err("refused"),
        };
        assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
        assert!(status.message().contains(words), "{status}");
    };
    let base = || chat("smollm2", "hello", 4);
    refuse(
        GenerateRequest {
            min_p: 1.5,
            ..base()
        },
        "min_p is 0 to 1",
    )
    .await;
    refuse(
        GenerateRequest {
            logprobs: Some(21),
            ..base()
        },
        "0 to 20",
    )
    .await;
    // Only the worker knows which tokens there are.
    let unknown = GenerateRequest {
        logit_bias: [(1 << 30, 1.0)].into(),
        ..base()
    };
    refuse(unknown, "ids are below 49152").await;
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
