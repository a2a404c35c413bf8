//! Real models through the whole server: the same answers as the reference, streamed, counted, listed,
//! and with the evidence that promises 4 and 6 speak of.
//!
//! The models are fetched by the first test that needs them. Tests here take turns: two models at once
//! on a small machine would only make both slow.

mod embeddings;
mod generation;
mod operators;
mod prefixes;
mod stopping;

use bulkhead_proto::v1::{ListModelsRequest, Receipt};
use bulkhead_tests::{
    agent::Client,
    models::{self, turn},
    options::Options,
    server::Server,
};
use std::{fs::File, path::Path};

/// A server with the starter models, and an agent's connection. Keeps the turn.
struct Served {
    server: Server,
    client: Client,
    _turn: File,
}

async fn serve() -> Served {
    let turn = turn("models");
    let server = Server::start(Options::models(models::dir())).await;
    let client = server.agent("acme", "reader").await.client().await;
    Served {
        server,
        client,
        _turn: turn,
    }
}

fn reference(name: &str) -> serde_json::Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("reference")
        .join(name);
    let text = std::fs::read_to_string(&path).expect("the reference is in the repository");
    serde_json::from_str(&text).expect("JSON")
}

/// What every receipt holds: two places in the log, in order, and evidence of a scrub.
fn check(receipt: Option<Receipt>) -> Receipt {
    let receipt = receipt.expect("a receipt");
    assert!(receipt.request_id.starts_with("req_"), "{receipt:?}");
    assert!(
        receipt.admitted_position < receipt.completed_position,
        "{receipt:?}"
    );
    let scrub = receipt.scrub.expect("evidence of the scrub");
    assert!(
        scrub.bytes_zeroed > 0 && scrub.bytes_verified > 0,
        "{scrub:?}"
    );
    assert_eq!(scrub.residue_bytes, 0, "{scrub:?}");
    receipt
}

#[tokio::test]
async fn models_are_listed_with_what_they_do() {
    let Served { client, server, .. } = serve().await;
    // Width and length are known once a worker has loaded the model.
    client
        .embed("minilm", &["a text"])
        .await
        .expect("an embedding");
    let request = client.request(ListModelsRequest {});
    let answer = client
        .inference
        .clone()
        .list_models(request)
        .await
        .expect("a list");
    let models = answer.into_inner().models;
    let find = |name: &str| {
        models
            .iter()
            .find(|m| m.name == name)
            .expect("it is listed")
    };
    let (minilm, smollm2) = (find("minilm"), find("smollm2"));
    assert_eq!(
        (
            minilm.task.as_str(),
            minilm.dimensions,
            minilm.context_tokens
        ),
        ("embed", 384, 256)
    );
    assert_eq!(smollm2.task, "generate");
    drop(server);
}
