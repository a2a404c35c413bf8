//! Models as operators meet them while the server runs: added, loaded ahead, listed as they stand,
//! changed under its feet, mended, owned, removed. One server, its real processes, its own commands.

use bulkhead_proto::v1::{EmbedResponse, ListModelsRequest};
use bulkhead_tests::{
    agent::{Client, reason},
    models::{self, turn},
    options::Options,
    records,
    server::Server,
    wait::eventually,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};
use tonic::{Code, Status};

/// From an operator's word until it shows.
const SHOWS_MAX: Duration = Duration::from_secs(30);
/// How far what a model takes may be from what its files say, in hundredths.
const ESTIMATE_OFF_MAX: u64 = 15;

/// A server whose models' folder is empty, but for the model that computes nothing.
async fn without_models(dir: &Path) -> Server {
    Server::start(Options::models(dir).with("models.null", true)).await
}

fn add(server: &Server, name: &str, more: &[&str]) -> String {
    let minilm = models::dir().join("minilm");
    let source = minilm.to_str().expect("UTF-8");
    let args = [&["models", "add", source, "--name", name], more].concat();
    server.command(&args).expect("it is added")
}

/// A model's entry in `models list --json`.
fn listed(server: &Server, name: &str, more: &[&str]) -> Option<Value> {
    let args = [&["models", "list", "--json"], more].concat();
    let text = server.command(&args).expect("a list");
    let list: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    list.into_iter().find(|model| model["name"] == name)
}

/// How a model stands.
fn live(server: &Server, name: &str) -> Value {
    listed(server, name, &[]).expect("it is listed")["live"].clone()
}

async fn embed(client: &Client, model: &str) -> Result<EmbedResponse, Status> {
    client.embed(model, &["a text"]).await
}

/// Reason and message, with every model's name the same.
fn told(status: &Status, model: &str) -> (Code, String, String) {
    let message = status.message().replace(model, "MODEL");
    (status.code(), reason(status), message)
}

#[tokio::test]
async fn a_model_is_added_loaded_used_unloaded_and_removed_without_a_restart() {
    let _turn = turn("models");
    let dir = tempfile::tempdir().expect("a folder");
    let server = without_models(dir.path()).await;
    let client = server.agent("acme", "reader").await.client().await;
    let absent = embed(&client, "mine").await.expect_err("not there yet");
    assert_eq!(reason(&absent), "MODEL_NOT_FOUND");

    assert!(add(&server, "mine", &[]).contains("offers it now"));
    let new = live(&server, "mine");
    assert_eq!(
        (&new["state"], &new["current"]),
        (&json!("not loaded"), &json!(true))
    );

    server.command(&["models", "load", "mine"]).expect("loaded");
    let held = live(&server, "mine");
    assert_eq!(
        (&held["state"], &held["workers"]),
        (&json!("ready"), &json!({}))
    );
    assert!(held["resident_bytes"].as_u64() > Some(64 << 20), "{held}");

    embed(&client, "mine").await.expect("an embedding");
    let row = listed(&server, "mine", &[]).expect("it is listed");
    assert_eq!(row["live"]["workers"], json!({ "acme": 1 }));
    let estimated = row["weights_bytes"].as_u64().expect("an estimate");
    let measured = row["live"]["weights_measured_bytes"]
        .as_u64()
        .expect("measured");
    let off = measured.abs_diff(estimated) * 100;
    assert!(
        off <= estimated * ESTIMATE_OFF_MAX,
        "{estimated} is not {measured}"
    );
    for (kind, bytes) in [("measured", measured), ("estimated", estimated)] {
        let label = format!("kind=\"{kind}\"");
        let metric = server.metric("bulkhead_model_weights_bytes", &label).await;
        assert_eq!(metric, bytes as f64, "{kind}");
    }

    server
        .command(&["models", "unload", "mine"])
        .expect("unloaded");
    eventually(SHOWS_MAX, "nothing of it is left", async || {
        let now = live(&server, "mine");
        (now["state"] == "not loaded" && now["workers"] == json!({})).then_some(())
    })
    .await;
    embed(&client, "mine").await.expect("loaded again");

    let said = server
        .command(&["models", "remove", "mine"])
        .expect("removed");
    assert!(said.contains("does not offer it any more"), "{said}");
    let gone = embed(&client, "mine").await.expect_err("it is gone");
    assert_eq!(told(&gone, "mine"), told(&absent, "mine"));
    let unknown = server
        .command(&["models", "load", "mine"])
        .expect_err("gone");
    assert!(unknown.contains("models reload"), "{unknown}");
    let acts: Vec<_> = (records::all(&server).iter())
        .filter(|record| record.kind == bulkhead_audit::Kind::Admin)
        .filter_map(|record| records::body(record)["act"].as_str().map(String::from))
        .filter(|what| what.starts_with("model."))
        .collect();
    assert_eq!(
        acts,
        ["model.reload", "model.load", "model.unload", "model.reload"]
    );
}

/// Changes one byte in the middle of a file, in its place.
fn damage(file: &Path) {
    let open = File::options().read(true).write(true).open(file);
    let open = open.expect("it is ours");
    let middle = open.metadata().expect("a file").len() / 2;
    let mut byte = [0];
    open.read_exact_at(&mut byte, middle)
        .expect("it is long enough");
    open.write_all_at(&[!byte[0]], middle).expect("it is ours");
}

fn refusals(server: &Server) -> usize {
    let all = records::all(server);
    let bodies = all.iter().map(records::body);
    bodies.filter(|body| body["act"] == "model.refused").count()
}

#[tokio::test]
async fn a_changed_file_is_refused_recorded_and_mended_while_others_serve() {
    let _turn = turn("models");
    let dir = tempfile::tempdir().expect("a folder");
    let server = without_models(dir.path()).await;
    add(&server, "mine", &[]);
    let acme = server.agent("acme", "reader").await.client().await;
    let globex = server.agent("globex", "reader").await.client().await;
    embed(&acme, "mine").await.expect("an embedding");

    damage(&dir.path().join("mine/model.safetensors"));
    // Whoever has a worker keeps what it read; nobody gets a new one.
    let refused = embed(&globex, "mine")
        .await
        .expect_err("the file is another");
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::FailedPrecondition, "MODEL_UNAVAILABLE")
    );
    assert!(refused.message().contains("models verify"), "{refused}");
    assert!(
        !refused.message().contains("model.safetensors"),
        "the operator's alone"
    );
    embed(&globex, "null").await.expect("others are served");
    let state = live(&server, "mine");
    assert_eq!(state["state"], "refused");
    let why = state["reason"].as_str().expect("a reason");
    assert!(why.contains("model.safetensors"), "{why}");
    assert!(
        server
            .metric("bulkhead_model_faults_total", "model=\"mine\"")
            .await
            >= 1.0
    );
    embed(&globex, "mine").await.expect_err("and again");
    eventually(SHOWS_MAX, "the refusal is on record", async || {
        (refusals(&server) == 1).then_some(())
    })
    .await;

    let failed = server.command(&["models", "load", "mine"]);
    assert!(failed.expect_err("refused").contains("model.safetensors"));
    let reloaded = server.command(&["models", "reload", "--json"]);
    assert!(reloaded.expect_err("one is refused").contains("\"mine\""));
    let verified = server.command(&["models", "verify", "mine"]);
    assert!(verified.expect_err("changed").contains("model.safetensors"));

    server
        .command(&["models", "remove", "mine"])
        .expect("removed");
    assert!(add(&server, "mine", &[]).contains("offers it now"));
    embed(&globex, "mine").await.expect("mended");
    assert_eq!(live(&server, "mine")["state"], "ready");
}

#[tokio::test]
async fn a_tenants_own_model_is_there_for_that_tenant_alone() {
    let _turn = turn("models");
    let dir = tempfile::tempdir().expect("a folder");
    let server = without_models(dir.path()).await;
    add(&server, "secret", &["--tenant", "globex"]);
    let acme = server.agent("acme", "reader").await.client().await;
    let globex = server.agent("globex", "reader").await.client().await;
    embed(&globex, "secret").await.expect("its own");

    let theirs = embed(&acme, "secret").await.expect_err("another's");
    let nobodys = embed(&acme, "nonesuch").await.expect_err("nobody's");
    assert_eq!(told(&theirs, "secret"), told(&nobodys, "nonesuch"));
    assert_eq!(reason(&theirs), "MODEL_NOT_FOUND");
    for (client, sees) in [(&acme, false), (&globex, true)] {
        let request = client.request(ListModelsRequest {});
        let answer = client.inference.clone().list_models(request).await;
        let models = answer.expect("a list").into_inner().models;
        assert_eq!(models.iter().any(|model| model.name == "secret"), sees);
    }

    // What an operator may show to a tenant: no other's model, and no other's name.
    embed(&globex, "null").await.expect("shared");
    embed(&acme, "null").await.expect("shared");
    assert!(listed(&server, "secret", &["--tenant", "acme"]).is_none());
    let own = listed(&server, "secret", &["--tenant", "globex"]).expect("its own");
    assert_eq!(own["live"]["workers"], json!({ "globex": 1 }));
    let shared = listed(&server, "null", &["--tenant", "acme"]).expect("shared");
    assert_eq!(
        (&shared["live"]["workers"], &shared["live"]["other_workers"]),
        (&json!({ "acme": 1 }), &json!(1))
    );
}

#[tokio::test]
async fn a_folder_that_cannot_be_read_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let server = without_models(dir.path()).await;
    let client = server.agent("acme", "reader").await.client().await;
    fs::create_dir(dir.path().join("bad")).expect("a folder");
    fs::write(dir.path().join("bad/model.toml"), "name = 7").expect("a file");
    let error = server.command(&["models", "reload"]).expect_err("refused");
    assert!(
        error.contains("bad/model.toml") && error.contains("stay as they were"),
        "{error}"
    );
    embed(&client, "null").await.expect("as before");
}
