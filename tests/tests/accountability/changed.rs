//! A model's file that changes between the launcher's look and that of the process which loads it: only the latter can
//! find that, and it is on record all the same.
//!
//! The race is won by a script in the place of the worker's program, which writes to the file that it was
//! given before it becomes that program.

use bulkhead_audit::Kind;
use bulkhead_tests::{
    agent::{collect, prompt, reason},
    models::one_file,
    options::Options,
    programs::worker_with,
    records,
    server::Server,
    wait::eventually,
};
use serde_json::Value;
use std::time::Duration;

async fn found_by_who_loads(shared: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let models = dir.path().join("models");
    one_file(&models, "changing", b"no weights", "");
    let program = worker_with(dir.path(), "changing", "echo more >>$file");
    let options = Options::models(&models)
        .with("worker.share_weights", shared)
        .with_worker(&program);
    let server = Server::start(options).await;
    let client = server.agent("acme", "a").await.client().await;
    let answer = match client.generate(prompt("changing", "hello", 1)).await {
        Ok(stream) => collect(stream).await.map(|_| ()),
        Err(status) => Err(status),
    };
    let status = answer.expect_err("it is not what was installed");
    assert_eq!(reason(&status), "MODEL_UNAVAILABLE", "{status}");
    assert!(status.message().contains("not the one"), "{status}");

    let record = eventually(Duration::from_secs(20), "it is on record", async || {
        let all = records::all(&server);
        let system = all.iter().filter(|record| record.kind == Kind::System);
        let mut bodies = system.map(records::body);
        bodies.find(|body| body.to_string().contains("model.refused"))
    });
    let record = record.await;
    let said = |key: &str| find(&record, key).unwrap_or_else(|| panic!("{key} in {record}"));
    assert_eq!((said("model"), said("file")), ("changing", "model.gguf"));
    assert_eq!(said("found_sha256").len(), 64, "{record}");
    let label = "model=\"changing\"";
    assert!(server.metric("bulkhead_model_faults_total", label).await >= 1.0);
}

/// A text of this name, however deep.
fn find<'a>(value: &'a Value, key: &str) -> Option<&'a str> {
    let object = value.as_object()?;
    let own = object.get(key).and_then(Value::as_str);
    own.or_else(|| object.values().find_map(|inner| find(inner, key)))
}

#[tokio::test]
async fn a_file_that_a_template_finds_changed_is_on_record() {
    found_by_who_loads(true).await;
}

#[tokio::test]
async fn a_file_that_a_worker_finds_changed_is_on_record() {
    found_by_who_loads(false).await;
}
