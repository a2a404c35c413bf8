//! What an installed model is and costs, from the headers of its files. Its weights are not read.

use super::{
    Format, GGUF_FILE, Manifest,
    cost::{self, Cost, Tensor},
    families::{self, Family, Sizes},
    gguf, safetensors,
};
use std::{
    fs::File,
    io::{BufReader, Read},
    path::Path,
};

/// Longest config.json, bytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// The family of a model and what it takes; or what is wrong with its files.
pub fn inspect(manifest: &Manifest) -> Result<Option<(Family, Cost)>, String> {
    let (sizes, tensors) = match manifest.format {
        Format::Null => return Ok(None),
        Format::Gguf => of_gguf(&manifest.dir.join(GGUF_FILE))?,
        Format::Safetensors => {
            let weights = manifest.files.iter().map(|file| file.name.as_str());
            let weights = weights.filter(|name| name.ends_with(".safetensors"));
            of_folder(&manifest.dir, weights)?
        }
    };
    Ok(Some((sizes.family, cost::of(&sizes, &tensors))))
}

/// A GGUF file's sizes and tensors. One part of several is refused.
pub fn of_gguf(path: &Path) -> Result<(Sizes, Vec<Tensor>), String> {
    let named = |what: String| format!("{} {what}", path.display());
    let file = File::open(path).map_err(|e| named(format!("cannot be opened: {e}")))?;
    let bytes = file.metadata().map_err(|e| named(e.to_string()))?.len();
    let header = gguf::header(BufReader::new(file), bytes).map_err(|e| named(e.to_string()))?;
    if header.number("split.count").is_some_and(|parts| parts > 1) {
        return Err(named(
            "is one part of several; join them with `llama-gguf-split --merge` first".into(),
        ));
    }
    let architecture = header.text("general.architecture").unwrap_or_default();
    let family =
        Family::of_gguf(architecture).map_err(|e| named(format!("cannot be used: {e}")))?;
    if !header.has_list("tokenizer.ggml.tokens") {
        return Err(named(
            "has no vocabulary (tokenizer.ggml.tokens); convert the model again, with its tokenizer"
                .into(),
        ));
    }
    let number = |key: &str| header.number(&format!("{architecture}.{key}"));
    let heads = number("attention.head_count").unwrap_or(0);
    let width = number("attention.key_length")
        .or_else(|| number("embedding_length")?.checked_div(heads))
        .unwrap_or(0);
    let sizes = Sizes {
        family,
        layers: number("block_count").unwrap_or(0),
        kv_heads: number("attention.head_count_kv").unwrap_or(heads),
        head_width: width,
    };
    let sizes = sizes.checked();
    let sizes = sizes.ok_or_else(|| named("has sizes that make no model".into()))?;
    Ok((sizes, header.tensors))
}

/// The sizes and tensors of a folder with config.json and these safetensors files.
pub fn of_folder<'a>(
    dir: &Path,
    weights: impl Iterator<Item = &'a str>,
) -> Result<(Sizes, Vec<Tensor>), String> {
    let config = read_small(&dir.join("config.json"), CONFIG_BYTES_MAX)?;
    let sizes = families::from_config(&config).map_err(|e| e.to_string())?;
    let mut tensors = Vec::new();
    for name in weights {
        let say = |what: String| format!("{name} {what}");
        let file = File::open(dir.join(name)).map_err(|e| say(format!("cannot be opened: {e}")))?;
        let bytes = file.metadata().map_err(|e| say(e.to_string()))?.len();
        let found = safetensors::tensors(BufReader::new(file), bytes);
        tensors.extend(found.map_err(|e| say(e.to_string()))?);
    }
    Ok((sizes, tensors))
}

/// All of a file that has to be small.
pub fn read_small(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    let say = |e: std::io::Error| format!("cannot read {}: {e}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(say)?;
    file.take(bytes_max + 1)
        .read_to_end(&mut bytes)
        .map_err(say)?;
    match bytes.len() as u64 > bytes_max {
        true => Err(format!(
            "{} is longer than {bytes_max} bytes",
            path.display()
        )),
        false => Ok(bytes),
    }
}
