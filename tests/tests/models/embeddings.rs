//! MiniLM against PyTorch's float32 vectors.

use super::{Served, check, reference, serve};
use bulkhead_tests::agent::reason;
use serde_json::Value;

/// The reference's own limit: rounding of the last bits, and no more.
const COSINE_MIN: f64 = 0.9999;
/// What the model reads of a text, tokens.
const LIMIT: usize = 256;

struct Case {
    text: String,
    tokens: usize,
    vector: Vec<f64>,
}

fn cases() -> Vec<Case> {
    let reference = reference("minilm.json");
    let cases = reference["cases"].as_array().expect("cases").iter();
    cases
        .map(|case| Case {
            text: case["text"].as_str().expect("a text").into(),
            tokens: case["input_ids"].as_array().expect("ids").len(),
            vector: numbers(&case["embedding"]),
        })
        .collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().expect("numbers").iter();
    numbers.map(|n| n.as_f64().expect("a number")).collect()
}

fn cosine(a: &[f32], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len(), "the same width");
    let dot: f64 = a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum();
    let (a, b): (f64, f64) = (
        a.iter().map(|a| f64::from(*a).powi(2)).sum(),
        b.iter().map(|b| b * b).sum(),
    );
    dot / (a * b).sqrt()
}

#[tokio::test]
async fn vectors_are_those_of_the_reference_in_one_batch_and_one_by_one() {
    let Served { client, server, .. } = serve().await;
    let cases = cases();
    assert!(
        cases.iter().any(|c| c.text.is_empty()),
        "the empty text is among them"
    );
    assert!(
        cases.iter().any(|c| c.tokens == LIMIT),
        "and one that is too long"
    );
    let texts: Vec<&str> = cases.iter().map(|c| c.text.as_str()).collect();
    let together = client.embed("minilm", &texts).await.expect("a batch");
    assert_eq!(together.embeddings.len(), cases.len());

    for (case, batched) in cases.iter().zip(&together.embeddings) {
        let alone = client
            .embed("minilm", &[&case.text])
            .await
            .expect("one text");
        for embedding in [batched, &alone.embeddings[0]] {
            let cosine = cosine(&embedding.values, &case.vector);
            assert!(cosine >= COSINE_MIN, "{cosine} for {:?}", case.text);
            let norm: f32 = embedding.values.iter().map(|v| v * v).sum();
            assert!((norm - 1.0).abs() < 1e-3, "vectors are normalised: {norm}");
            assert_eq!(
                embedding.tokens as usize, case.tokens,
                "tokens of {:?}",
                case.text
            );
            assert_eq!(embedding.truncated, case.tokens == LIMIT, "{:?}", case.text);
        }
        assert_eq!(
            alone.usage.expect("usage").input_tokens as usize,
            case.tokens
        );
        check(alone.receipt);
    }
    let all: usize = cases.iter().map(|c| c.tokens).sum();
    let usage = together.usage.expect("usage");
    assert_eq!((usage.input_tokens as usize, usage.output_tokens), (all, 0));
    drop(server);
}

#[tokio::test]
async fn positions_in_the_log_go_up() {
    let Served { client, server, .. } = serve().await;
    let mut last = None;
    for _ in 0..3 {
        let answer = client
            .embed("minilm", &["a text"])
            .await
            .expect("an embedding");
        let receipt = check(answer.receipt);
        assert!(last < Some(receipt.admitted_position), "{receipt:?}");
        last = Some(receipt.completed_position);
    }
    drop(server);
}

#[tokio::test]
async fn a_model_for_something_else_says_so() {
    let Served { client, server, .. } = serve().await;
    let status = client
        .embed("smollm2", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
    let request = bulkhead_tests::agent::prompt("minilm", "hello", 1);
    let status = client
        .generate(request)
        .await
        .map(|_| ())
        .expect_err("refused");
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
    drop(server);
}
