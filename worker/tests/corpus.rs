//! Every input that the fuzz targets keep, without libFuzzer: the seeds, what reached new code, and what
//! once went wrong.

#[path = "../fuzz/seeds/mod.rs"]
mod seeds;
#[path = "../fuzz/targets.rs"]
mod targets;

use std::fs;
use std::path::{Path, PathBuf};

/// The inputs of a target in a folder of worker/fuzz, if there are any.
fn inputs(folder: &str, target: &str) -> Vec<PathBuf> {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let Ok(entries) = fs::read_dir(fuzz.join(folder).join(target)) else {
        return Vec::new();
    };
    entries
        .map(|entry| entry.expect("it can be listed").path())
        .collect()
}

fn replay(name: &str) {
    let find = |(target, _): &&targets::Target| *target == name;
    let (_, run) = targets::ALL
        .iter()
        .find(find)
        .expect("there is such a target");
    let kept = inputs("corpus", name);
    assert!(!kept.is_empty(), "the corpus is part of the repository");
    for path in kept.into_iter().chain(inputs("regressions", name)) {
        run(&fs::read(&path).expect("it can be read"));
    }
}

#[test]
fn gguf_files_end_in_an_engine_or_an_error() {
    replay("gguf");
}

#[test]
fn safetensors_files_end_in_an_engine_or_an_error() {
    replay("safetensors");
}

#[test]
fn configurations_end_in_an_engine_or_an_error() {
    replay("config");
}

#[test]
fn tokenizers_end_in_an_engine_or_an_error() {
    replay("tokenizer");
}

#[test]
fn chat_templates_end_in_a_prompt_or_an_error() {
    replay("chat");
}

#[test]
fn frames_end_in_a_message_or_an_error() {
    replay("frame");
}

/// They are kept as files, since libFuzzer reads files; `BULKHEAD_WRITE_SEEDS=1` writes them anew.
#[test]
fn the_seeds_are_in_the_corpus() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (target, seeds) in seeds::all() {
        for (number, seed) in seeds.iter().enumerate() {
            let path = corpus.join(target).join(format!("seed-{number}"));
            if std::env::var_os("BULKHEAD_WRITE_SEEDS").is_some() {
                fs::create_dir_all(corpus.join(target)).expect("a folder of ours");
                fs::write(&path, seed).expect("a folder of ours");
            }
            let kept = fs::read(&path).unwrap_or_default();
            assert!(kept == *seed, "{} is not the seed of today", path.display());
        }
    }
}

#[test]
fn the_seeds_are_files_that_load() {
    use bulkhead_proto::internal::Load;
    use bulkhead_worker::load::FileBytes;
    let load = |format: &str, files: &[(&str, &[u8])]| {
        let load = Load {
            format: format.into(),
            threads: 1,
            ..Load::default()
        };
        let file = |(name, bytes): &(&str, &[u8])| FileBytes {
            name: (*name).into(),
            bytes: bytes.to_vec(),
        };
        bulkhead_worker::models::open(&load, files.iter().map(file).collect()).map(|_| ())
    };
    load("gguf", &[("model.gguf", &seeds::gguf("{{ messages }}"))]).expect("a sound GGUF file");
    let encoder = [
        ("config.json", seeds::ENCODER_CONFIG.as_bytes()),
        ("tokenizer.json", seeds::TOKENIZER.as_bytes()),
        ("model.safetensors", &seeds::weights()),
    ];
    load("safetensors", &encoder).expect("a sound encoder");
}
