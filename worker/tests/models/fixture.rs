//! The starter models' files, the reference outputs, and driving an engine to the end of its work.

use bulkhead_proto::internal::{
    EmbedJob, Finished, GenerateJob, Load, Turn, Vector, WorkItem, work_item::Job,
};
use bulkhead_worker::engine::{Engine, StepOutcome};
use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::{LoadError, open};
use bulkhead_worker_core::Clock;
use serde::de::DeserializeOwned;
use std::path::PathBuf;
use std::time::Instant;

/// Compute threads of the engines under test.
pub const THREADS: u32 = 2;
/// The step limit that workers plan for by default, nanoseconds.
pub const STEP_LIMIT_NS: u64 = 25_000_000;

/// The folder with the starter models.
fn models() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let cache = || match from("XDG_CACHE_HOME") {
        Some(cache) => PathBuf::from(cache),
        None => PathBuf::from(from("HOME").expect("HOME is set")).join(".cache"),
    };
    from("BULKHEAD_MODELS").map_or_else(|| cache().join("bulkhead/models"), PathBuf::from)
}

/// Files of one starter model.
pub fn files(model: &str, names: &[&str]) -> Vec<FileBytes> {
    let read = |name: &&str| {
        let path = models().join(model).join(name);
        let bytes = std::fs::read(&path).unwrap_or_else(|error| {
            panic!(
                "{}: {error}. Run `bulkhead models pull` first.",
                path.display()
            )
        });
        FileBytes {
            name: name.to_string(),
            bytes,
        }
    };
    names.iter().map(read).collect()
}

pub fn load(files: Vec<FileBytes>, format: &str) -> Result<Box<dyn Engine>, LoadError> {
    let load = Load {
        format: format.into(),
        threads: THREADS,
        ..Load::default()
    };
    open(&load, files)
}

pub const MINILM: &[&str] = &[
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "sentence_bert_config.json",
];

pub fn minilm() -> Box<dyn Engine> {
    let mut engine = load(files("minilm", MINILM), "bert").expect("the model loads");
    engine.assign(0, STEP_LIMIT_NS);
    engine
}

/// With half a gigabyte of KV.
pub fn smollm2() -> Box<dyn Engine> {
    let mut engine = load(files("smollm2", &["model.gguf"]), "gguf").expect("the model loads");
    engine.assign(512 << 20, STEP_LIMIT_NS);
    engine
}

/// A conversation of one message.
pub fn user(content: &str) -> Vec<Turn> {
    vec![Turn {
        role: "user".into(),
        content: content.into(),
    }]
}

/// A greedy answer to one message.
pub fn generate(request: u64, content: &str, max_tokens: u32) -> WorkItem {
    let job = GenerateJob {
        messages: user(content),
        max_tokens,
        ..GenerateJob::default()
    };
    WorkItem {
        request,
        job: Some(Job::Generate(job)),
        ..WorkItem::default()
    }
}

/// A file of reference outputs.
pub fn reference<T: DeserializeOwned>(name: &str) -> T {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/reference")
        .join(name);
    let text = std::fs::read_to_string(path).expect("the reference is part of the repository");
    serde_json::from_str(&text).expect("the reference is what the test expects")
}

/// A clock for the engine.
pub fn clock() -> impl Fn() -> u64 {
    let began = Instant::now();
    move || began.elapsed().as_nanos() as u64
}

/// Everything that an engine said until it had no work left.
#[derive(Default)]
pub struct Said {
    pub steps: Vec<StepOutcome>,
    pub longest_step_ns: u64,
}

impl Said {
    pub fn finished(&self, request: u64) -> &Finished {
        let mut all = self.steps.iter().flat_map(|step| &step.finished);
        let found = all
            .find(|finished| finished.request == request)
            .expect("it was answered");
        assert!(
            all.all(|finished| finished.request != request),
            "it was answered twice"
        );
        found
    }
}

/// Runs an engine dry.
pub fn drain(engine: &mut dyn Engine) -> Said {
    drain_by(engine, &clock())
}

/// The same by a clock of the test's.
pub fn drain_by(engine: &mut dyn Engine, now: &Clock<'_>) -> Said {
    let mut said = Said::default();
    while engine.has_work() {
        let began = now();
        said.steps.push(engine.step(now));
        said.longest_step_ns = said.longest_step_ns.max(now() - began);
        assert!(said.steps.len() < 100_000, "the engine never ends");
    }
    said
}

/// All that was said to a request.
pub fn text(said: &Said, request: u64) -> String {
    let pieces = said.steps.iter().flat_map(|step| &step.pieces);
    let own = pieces.filter(|piece| piece.request == request);
    own.map(|piece| piece.text.as_str()).collect()
}

pub fn embed_item<S: ToString>(request: u64, texts: &[S]) -> WorkItem {
    let texts = texts.iter().map(S::to_string).collect();
    WorkItem {
        request,
        job: Some(Job::Embed(EmbedJob { texts })),
        ..WorkItem::default()
    }
}

pub fn values(vector: &Vector) -> Vec<f32> {
    let (words, rest) = vector.values.as_chunks::<4>();
    assert!(rest.is_empty());
    words.iter().map(|word| f32::from_le_bytes(*word)).collect()
}

pub fn cosine(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| f64::from(*a) * f64::from(*b))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
