//! Vocabulary and chat template of a Hugging Face folder.
//!
//! The library encodes ordinary text alone. Tokens that were added to the vocabulary are taken out of its file
//! before it reads it ([`Added`]), so that text which merely looks like one never becomes one.

use super::added::{self, Added};
use super::codec::{ENDS, TextCodec, Words, byte_alphabet};
use super::controls::{Controls, Literal};
use super::guard;
use super::spaces::SpaceFirst;
use crate::models::LoadError;
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use tokenizers::{ModelWrapper, Tokenizer};

const FILE: &str = "tokenizer.json";
const CONFIG: &str = "tokenizer_config.json";
/// Ids that a vocabulary can have.
const TOKENS_MAX: usize = 1 << 20;
/// What a tokenizer must be able to read when it is loaded.
const TRIAL: &str = "A ship's log, étanche\n\t— Переборка, 水密隔壁 123 e\u{301} 🚢";

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

/// Reads the vocabulary.
pub(super) fn codec(
    tokenizer: &[u8],
    tokenizer_config: Option<&[u8]>,
    generation_config: Option<&[u8]>,
) -> Result<TextCodec, LoadError> {
    let mut file: Value = serde_json::from_slice(tokenizer).map_err(bad)?;
    let kind = file["model"]["type"].as_str().unwrap_or_default();
    if kind != "BPE" {
        return Err(bad(format!(
            "tokenizers of type {kind:?} are not supported, BPE is"
        )));
    }
    let added = Added::take(&mut file)?;
    let begin = begin(&file["post_processor"], &added, tokenizer_config)?;
    let byte_level = [&file["decoder"], &file["pre_tokenizer"]]
        .iter()
        .any(|step| is_byte_level(step));
    for part in ["post_processor", "truncation", "padding"] {
        file[part] = Value::Null;
    }
    let controls = added.iter().filter(|one| one.is_control());
    let controls: HashSet<u32> = controls.map(|one| one.id).collect();
    added::remove(&mut file["model"], &controls);
    let space_first = SpaceFirst::take(&mut file);
    let tokenizer = library(&serde_json::to_vec(&file).map_err(bad)?)?;
    let unknown = file["model"]["unk_token"].as_str();
    let unknown = unknown.and_then(|text| tokenizer.get_vocab(false).get(text).copied());
    drop(file);
    let vocabulary = tokenizer.get_vocab(false);
    let ids = vocabulary.values().chain(added.iter().map(|one| &one.id));
    let count = ids.max().map_or(0, |id| *id as usize + 1);
    if !(1..=TOKENS_MAX).contains(&count) {
        return Err(bad(format!(
            "its ids reach {count}, and 1 to {TOKENS_MAX} are possible"
        )));
    }
    let texts: BTreeMap<u32, &str> = vocabulary
        .iter()
        .map(|(text, id)| (*id, text.as_str()))
        .collect();
    let literals: BTreeMap<u32, &Added> = added.iter().map(|one| (one.id, one)).collect();
    let alphabet = byte_alphabet();
    let (mut bytes, mut starts) = (Vec::new(), vec![0]);
    for id in 0..count as u32 {
        match (literals.get(&id), texts.get(&id)) {
            (Some(literal), _) if literal.special => {}
            (Some(literal), _) => bytes.extend(literal.content.bytes()),
            (None, Some(text)) if byte_level => {
                for character in text.chars() {
                    match alphabet.get(&character) {
                        Some(byte) => bytes.push(*byte),
                        None => bytes.extend(character.to_string().bytes()),
                    }
                }
            }
            (None, Some(text)) => bytes.extend(spaced(text)),
            (None, None) => {}
        }
        starts.push(bytes.len());
    }
    let literals = |control: bool| {
        let these = added.iter().filter(move |one| one.is_control() == control);
        Controls::new(these.map(Added::literal)).map_err(bad)
    };
    let controls = literals(true)?;
    let contents = added.iter().map(|one| &one.content);
    let longest = vocabulary.keys().chain(contents).map(String::len).max();
    let codec = TextCodec {
        ends: ends(controls.literals(), generation_config)?,
        controls,
        added: literals(false)?,
        unknown,
        begin,
        bytes,
        starts,
        token_bytes_max: longest.unwrap_or(1).max(1),
        spaced: !byte_level,
        space_first,
        words: Words::Merges(Box::new(tokenizer)),
    };
    Ok(codec)
}

/// The library's part, without its cache, which would keep words of prompts.
fn library(bytes: &[u8]) -> Result<Tokenizer, LoadError> {
    let mut tokenizer = guard::parse(bytes).map_err(bad)?;
    let mut model = tokenizer.get_model().clone();
    model.resize_cache(0);
    model.clear_cache();
    if let ModelWrapper::BPE(bpe) = &mut model {
        bpe.dropout = None;
    }
    tokenizer.with_model(model);
    match guard::survived(|| tokenizer.encode_fast(TRIAL, false).is_ok()).map_err(bad)? {
        true => Ok(tokenizer),
        false => Err(bad("it cannot read a text")),
    }
}

fn is_byte_level(step: &Value) -> bool {
    let parts = ["decoders", "pretokenizers"]
        .into_iter()
        .filter_map(|key| step[key].as_array());
    step["type"] == "ByteLevel" || parts.flatten().any(|part| part["type"] == "ByteLevel")
}

/// The bytes of a token in a vocabulary that writes spaces as `▁` and lone bytes as `<0x0A>`.
fn spaced(text: &str) -> Vec<u8> {
    let byte = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match byte.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
        Some(byte) => vec![byte],
        None => text.replace('▁', " ").into_bytes(),
    }
}

/// The token that every text begins with: what tokenizer_config.json says, or else what the tokenizer
/// would put in front.
fn begin(
    post_processor: &Value,
    added: &[Added],
    tokenizer_config: Option<&[u8]>,
) -> Result<Option<u32>, LoadError> {
    let config = settings(tokenizer_config)?;
    let of = |name: &str| {
        added
            .iter()
            .find(|one| one.content == name)
            .map(|one| one.id)
    };
    match config["add_bos_token"].as_bool() {
        Some(true) => return Ok(of(&literal(&config["bos_token"]))),
        Some(false) => return Ok(None),
        None => {}
    }
    let steps = post_processor["processors"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    let first = steps.iter().chain([post_processor]).find_map(|step| {
        step["single"][0]["SpecialToken"]["id"]
            .as_str()
            .map(str::to_owned)
    });
    Ok(first.and_then(|name| of(&name)))
}

/// The tokens that end an answer, by their well-known names and by what the model's files say.
fn ends(controls: &[Literal], generation_config: Option<&[u8]>) -> Result<Vec<u32>, LoadError> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Ids {
        One(u32),
        Many(Vec<u32>),
    }
    #[derive(Deserialize)]
    struct Config {
        eos_token_id: Option<Ids>,
    }
    let known = controls
        .iter()
        .filter(|one| ENDS.contains(&one.text.as_str()));
    let mut ends: Vec<u32> = known.map(|one| one.id).collect();
    if let Some(bytes) = generation_config {
        let config: Config = serde_json::from_slice(bytes)
            .map_err(|error| LoadError::bad("generation_config.json", error))?;
        match config.eos_token_id {
            Some(Ids::One(id)) => ends.push(id),
            Some(Ids::Many(ids)) => ends.extend(ids),
            None => {}
        }
    }
    ends.sort_unstable();
    ends.dedup();
    Ok(ends)
}

fn settings(tokenizer_config: Option<&[u8]>) -> Result<Value, LoadError> {
    match tokenizer_config {
        Some(bytes) => serde_json::from_slice(bytes).map_err(|error| LoadError::bad(CONFIG, error)),
        None => Ok(Value::Null),
    }
}

/// A token that is written as its text, or as an object that holds it.
fn literal(token: &Value) -> String {
    let text = token.as_str().or(token["content"].as_str());
    text.unwrap_or_default().to_owned()
}

/// A chat template, and the tokens that it may name.
pub(super) struct Template {
    pub(super) file: &'static str,
    pub(super) source: Option<String>,
    pub(super) begin: String,
    pub(super) end: String,
}

/// Reads the template: chat_template.jinja, or else the one in tokenizer_config.json, and of several there
/// the one called default.
pub(super) fn template(
    tokenizer_config: Option<&[u8]>,
    chat_template: Option<&[u8]>,
) -> Result<Template, LoadError> {
    const JINJA: &str = "chat_template.jinja";
    let config = settings(tokenizer_config)?;
    let several = config["chat_template"].as_array();
    let default = several.and_then(|all| all.iter().find(|one| one["name"] == "default"));
    let inside = match default {
        Some(one) => one["template"].as_str(),
        None => config["chat_template"].as_str(),
    };
    let (file, source) = match chat_template {
        Some(bytes) => {
            let text = String::from_utf8(bytes.to_vec());
            (
                JINJA,
                Some(text.map_err(|error| LoadError::bad(JINJA, error))?),
            )
        }
        None => (CONFIG, inside.map(str::to_owned)),
    };
    Ok(Template {
        file,
        source,
        begin: literal(&config["bos_token"]),
        end: literal(&config["eos_token"]),
    })
}
