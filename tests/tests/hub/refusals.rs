//! What does not work says why and what to do, and what it says is true.

use super::{Operator, WEIGHTS, entries, source};
use bulkhead_tests::{
    hub::{DESCRIPTION, Fault, Hub, REPOSITORY},
    tiny,
};
use serde_json::json;
use std::net::TcpListener;

#[test]
fn names_that_nobody_has_are_named() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    operator.refused(
        &hub,
        "hf:tiny/nothing",
        "has no model tiny/nothing, or it is private",
    );
    operator.refused(&hub, &format!("{}@v9", source()), "has no revision \"v9\"");
    operator.refused(
        &hub,
        &format!("{}:Q4_0", source()),
        "has no GGUF file \"Q4_0\"",
    );
    operator.refused(&hub, "hf:gpt2", "write hf:OWNER/NAME");
    operator.refused(
        &hub,
        &format!("{}:../x.gguf", source()),
        "write hf:OWNER/NAME",
    );
    assert!(
        operator
            .add(&hub, &format!("{}@refs/pr/1", source()))
            .is_ok()
    );
}

#[test]
fn a_name_that_is_taken_is_refused_before_anything_is_fetched() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    operator.add(&hub, &source()).expect("it is added");
    hub.seen();
    let said = operator.add(&hub, &source()).expect_err("a refusal");
    assert!(said.contains("models remove random-llama"), "{said}");
    assert!(hub.seen().iter().all(|seen| seen.path.starts_with("/api/")));
}

#[test]
fn a_hub_that_cannot_be_reached_or_is_unwell_says_so() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    let gone = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = gone.local_addr().expect("it is bound");
    drop(gone);
    let offline = operator.add_with(&format!("http://{address}"), &source(), &[]);
    let said = offline.expect_err("a refusal");
    assert!(said.contains(&format!("cannot reach {address}")), "{said}");
    assert!(said.contains("check the network"), "{said}");

    for (status, words) in [
        (503, "try again later"),
        (429, "set HF_TOKEN"),
        (418, "check the name"),
    ] {
        hub.fail(DESCRIPTION, Fault::Status(status, ""));
        operator.refused(&hub, &source(), words);
    }
    hub.fail(DESCRIPTION, Fault::Text("<html>".into()));
    operator.refused(&hub, &source(), "no description of a repository");
    hub.fail(DESCRIPTION, Fault::Text(" ".repeat(17 << 20)));
    operator.refused(&hub, &source(), "longer than");
    hub.fail(
        DESCRIPTION,
        Fault::Redirect(format!("/api/models/{REPOSITORY}/revision/main")),
    );
    operator.refused(&hub, &source(), "redirects");
}

#[test]
fn what_can_never_work_is_refused_early_and_leaves_nothing() {
    let without = |name: &str| -> Vec<_> {
        let files = tiny::files().into_iter();
        files.filter(|(n, _)| n != name).collect()
    };
    let operator = Operator::new();
    let said = operator.refused(&Hub::start(without(WEIGHTS)), &source(), "run code");
    assert!(said.contains("pytorch_model.bin"), "{said}");
    operator.refused(
        &Hub::start(without("tokenizer.json")),
        &source(),
        "no tokenizer.json",
    );

    let mut other = without("config.json");
    other.push(("config.json".into(), br#"{"model_type": "gpt2"}"#.into()));
    let hub = Hub::start(other);
    operator.refused(&hub, &source(), "gpt2");
    assert!(
        hub.seen().iter().all(|seen| !seen.path.contains(WEIGHTS)),
        "no weights were fetched"
    );
    assert_eq!(
        entries(&operator.models()),
        [""; 0],
        "nothing is kept that cannot work"
    );
}

#[test]
fn what_cannot_be_checked_or_held_is_not_fetched() {
    let (hub, operator) = (Hub::start(tiny::files()), Operator::new());
    hub.state(WEIGHTS, json!({"lfs": null, "blobId": null}));
    operator.refused(&hub, &source(), "states no hash");
    hub.state(WEIGHTS, json!({"lfs": null, "size": null}));
    operator.refused(&hub, &source(), "states no length");
    hub.state(
        WEIGHTS,
        json!({"lfs": {"sha256": "0".repeat(64), "size": 1u64 << 60}}),
    );
    operator.refused(&hub, &source(), "are possible");
    assert!(hub.seen().iter().all(|seen| seen.path.starts_with("/api/")));
}
