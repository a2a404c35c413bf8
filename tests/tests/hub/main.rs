//! `bulkhead models add hf:…` as an operator runs it, against a hub on this machine that also fails and
//! lies: what is fetched, what is refused and with which words, and that nothing half-made is left to use.

mod refusals;
mod transfers;
mod trust;

use bulkhead_tests::{
    agent::{chat, collect},
    hub::{COMMIT, Hub, REPOSITORY, sha256},
    options::Options,
    programs,
    server::Server,
    tiny,
};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The weights' file.
const WEIGHTS: &str = "model.safetensors";

/// An operator with an empty folder for models.
struct Operator {
    folder: tempfile::TempDir,
}

impl Operator {
    fn new() -> Operator {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Operator { folder }
    }

    fn models(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    /// `bulkhead models add SOURCE --json`: its answer, and what it said besides; or what it said.
    fn add_with(
        &self,
        endpoint: &str,
        source: &str,
        env: &[(&str, &str)],
    ) -> Result<(Value, String), String> {
        let mut command = programs::bulkhead();
        command
            .arg("--data")
            .arg(self.folder.path().join("data"))
            .args(["models", "add", source, "--json"])
            .env("BULKHEAD_MODELS", self.models())
            .env("HF_ENDPOINT", endpoint)
            .env_remove("HF_TOKEN")
            .envs(env.iter().copied());
        let output = command.output().expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (out, said) = (text(&output.stdout), text(&output.stderr));
        match output.status.success() {
            true => Ok((serde_json::from_str(&out).expect("JSON"), said)),
            false => Err(said),
        }
    }

    fn add(&self, hub: &Hub, source: &str) -> Result<Value, String> {
        self.add_with(hub.url(), source, &[])
            .map(|(added, _)| added)
    }

    /// Adds, and demands a refusal in these words that leaves no model.
    fn refused(&self, hub: &Hub, source: &str, words: &str) -> String {
        let said = self.add(hub, source).expect_err("a refusal");
        assert!(said.contains(words), "{said} should say {words}");
        self.has_no_model();
        said
    }

    /// Nothing in the models' folder but what waits to be gone on from.
    fn has_no_model(&self) {
        let names = entries(&self.models());
        assert!(names.iter().all(|name| name == ".partial"), "{names:?}");
    }

    /// Where files wait to be gone on from.
    fn partial(&self) -> PathBuf {
        let name = REPOSITORY.replace('/', "--");
        self.models().join(format!(".partial/{name}@{COMMIT}"))
    }
}

/// Names in a folder, in order; none where there is no folder.
fn entries(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let name = |e: fs::DirEntry| e.file_name().to_string_lossy().into_owned();
    let mut names: Vec<_> = entries.map(|e| name(e.expect("an entry"))).collect();
    names.sort();
    names
}

fn source() -> String {
    format!("hf:{REPOSITORY}")
}

/// The manifest of the only model.
fn manifest(operator: &Operator, name: &str) -> toml::Table {
    let text = fs::read_to_string(operator.models().join(name).join("model.toml"));
    toml::from_str(&text.expect("a manifest")).expect("TOML")
}

#[tokio::test]
async fn a_model_of_the_hub_is_served() {
    for files in [tiny::files(), tiny::files_sharded()] {
        let weights = (files.iter()).filter(|(name, _)| name.contains(".safetensors"));
        let mut expected: Vec<_> = weights.map(|(name, _)| name.clone()).collect();
        expected.extend(
            [
                "chat_template.jinja",
                "config.json",
                "model.toml",
                "tokenizer.json",
            ]
            .map(String::from),
        );
        expected.sort();

        let (hub, operator) = (Hub::start(files.clone()), Operator::new());
        let (added, said) = operator
            .add_with(hub.url(), &source(), &[])
            .expect("it is added");
        assert_eq!(added["name"], "random-llama");
        assert!(
            said.contains("fetching config.json ("),
            "a line for each file: {said}"
        );
        assert_eq!(entries(&operator.models()), ["random-llama"]);
        assert_eq!(entries(&operator.models().join("random-llama")), expected);

        let manifest = manifest(&operator, "random-llama");
        let from = manifest["source"].as_str().expect("a source");
        assert!(
            from.starts_with(&format!("hf:{REPOSITORY}@{COMMIT}")),
            "{from}"
        );
        for pinned in manifest["files"].as_array().expect("files") {
            let name = pinned["name"].as_str().expect("a name");
            let (_, bytes) = files
                .iter()
                .find(|(n, _)| n == name)
                .expect("it is the hub's");
            assert_eq!(
                pinned["sha256"].as_str(),
                Some(sha256(bytes).as_str()),
                "{name}"
            );
        }

        let server = Server::start(Options::models(&operator.models())).await;
        let client = server.agent("acme", "reader").await.client().await;
        let stream = client.generate(chat("random-llama", "hello", 8)).await;
        let answer = collect(stream.expect("a stream")).await.expect("an answer");
        let usage = answer.done.usage.expect("usage");
        assert!(
            usage.input_tokens >= 7 && usage.output_tokens > 0,
            "{usage:?}"
        );
        server
            .command(&["models", "verify"])
            .expect("every file is what was fetched");
    }
}

#[test]
fn a_gguf_file_is_picked_by_its_quantisation_and_by_its_name() {
    let hub = Hub::start(tiny::ggufs());
    for (file, name) in [("q8_0", "tiny-q8_0"), ("Tiny-Q4_K_M.gguf", "tiny-q4_k_m")] {
        let operator = Operator::new();
        let added = operator.add(&hub, &format!("{}@{COMMIT}:{file}", source()));
        assert_eq!(added.expect("it is added")["name"], name);
        assert_eq!(entries(&operator.models()), [name]);
        assert_eq!(
            entries(&operator.models().join(name)),
            ["model.gguf", "model.toml"]
        );
        let from = manifest(&operator, name)["source"].to_string();
        assert!(from.contains(&format!("@{COMMIT}:{file}")), "{from}");
    }
    Operator::new().refused(&hub, &source(), "Tiny-Q4_K_M.gguf, Tiny-Q8_0.gguf");
    assert!(
        Operator::new().add(&hub, "hf:old/Name:q8_0").is_ok(),
        "a name that was changed"
    );
}
