//! Which files of a folder make a model: the same ones, wherever the folder comes from.
//!
//! Everything else that lies there stays there. No code is among them, and nothing that could hold code:
//! weights are taken from safetensors and GGUF alone, never from Python's pickles.

use super::{inspect::read_small, names};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// What a model is.
pub const CONFIG: &str = "config.json";
/// The weights in one file, and the list of several.
pub const WEIGHTS: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
/// Longest index, bytes.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Files that a model must have, besides weights.
pub const NEEDED: [&str; 2] = [CONFIG, "tokenizer.json"];
/// Files that a worker uses where they are there.
pub const USED: [&str; 7] = [
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
];

/// The files that the index in `folder` names; or what is wrong with it.
pub fn shards(folder: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let index = read_small(&folder.join(INDEX), INDEX_BYTES_MAX)?;
    let index: Index = serde_json::from_slice(&index).map_err(|e| format!("{INDEX}: {e}"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    // Each is a name in this very folder, whatever the index says.
    let good = |name: &&String| {
        names::is_file(name) && !name.contains('/') && name.ends_with(".safetensors")
    };
    match shards.iter().find(|name| !good(name)) {
        Some(name) => Err(format!(
            "{INDEX} names {name:?}, which is no file of weights"
        )),
        None if shards.is_empty() => Err(format!("{INDEX} names no file")),
        None => Ok(shards.into_iter().collect()),
    }
}
