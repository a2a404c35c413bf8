//! The vocabulary in a GGUF file's metadata.
//!
//! Two kinds: byte-level BPE, told by merges ("gpt2"), and SentencePiece's BPE, told by scores ("llama").
//! What neither reads is refused by name, and so is a vocabulary that could not read every text.

use super::added::{keeps, reserved};
use super::before::Pre;
use super::codec::{ENDS, TextCodec, Words, byte_alphabet};
use super::controls::{Controls, Literal, is_mark};
use super::pieces::{Pieces, SPACE, lone_byte};
use super::spaces::SpaceFirst;
use crate::models::LoadError;
use crate::models::source::{GGUF_FILE as FILE, Gguf};
use ahash::AHashMap;
use candle_core::quantized::gguf_file::Value;
use std::collections::HashSet;
use tokenizers::Tokenizer;
use tokenizers::models::bpe::BPE;

/// Kinds of tokens, as GGUF numbers them.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

/// A token as the file has it.
struct Token<'a> {
    id: u32,
    text: &'a str,
    kind: i64,
}

impl Token<'_> {
    /// True for tokens that no text becomes. Some files call their marks, like `[INST]`, words.
    fn is_control(&self) -> bool {
        self.kind == CONTROL || (self.kind == USER_DEFINED && is_mark(self.text))
    }

    /// True for words beside those that merges or scores make.
    fn is_added(&self) -> bool {
        self.kind == USER_DEFINED && !self.is_control()
    }
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

fn string(value: &Value) -> candle_core::Result<String> {
    value.to_string().cloned()
}

fn integer(value: &Value) -> candle_core::Result<i64> {
    value.to_i32().map(i64::from).or_else(|_| value.to_i64())
}

/// Reads the vocabulary.
pub(super) fn codec(gguf: &Gguf<'_>) -> Result<TextCodec, LoadError> {
    let model = gguf.text("tokenizer.ggml.model")?.unwrap_or_default();
    let scored = match model.as_str() {
        "gpt2" => false,
        "llama" => true,
        _ => {
            return Err(bad(format!(
                "tokenizer {model:?} is not supported, gpt2 and llama are"
            )));
        }
    };
    let texts = gguf.list("tokenizer.ggml.tokens", string)?;
    let kinds = gguf.list("tokenizer.ggml.token_type", integer)?;
    if kinds.len() != texts.len() {
        return Err(bad("it has not as many kinds of tokens as tokens"));
    }
    let tokens: Vec<Token<'_>> = texts
        .iter()
        .zip(kinds)
        .zip(0..)
        .map(|((text, kind), id)| Token { id, text, kind })
        .collect();
    let controls = literals(tokens.iter().filter(|token| token.is_control()))?;
    // SentencePiece's way has its own for these.
    let added = literals(tokens.iter().filter(|token| !scored && token.is_added()))?;
    let (bytes, starts) = match scored {
        true => bytes_of(&tokens, spaced),
        false => bytes_of(&tokens, printable()),
    };
    let told = |key: &str| gguf.has_key(key).then(|| gguf.flag(key)).transpose();
    Ok(TextCodec {
        words: match scored {
            true => Words::Pieces(Box::new(pieces(gguf, &tokens)?)),
            false => Words::Merges(Box::new(byte_level(gguf, &tokens)?)),
        },
        token_bytes_max: texts.iter().map(String::len).max().unwrap_or(1).max(1),
        ends: ends(gguf, controls.literals(), scored)?,
        controls,
        added,
        unknown: None,
        // SentencePiece's own settings are both yes, and files leave out what is as usual.
        begin: match told("tokenizer.ggml.add_bos_token")?.unwrap_or(scored) {
            true => special(gguf, "tokenizer.ggml.bos_token_id", 1, scored)?,
            false => None,
        },
        space_first: match scored && told("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) {
            true => SpaceFirst::Every,
            false => SpaceFirst::Never,
        },
        spaced: scored,
        bytes,
        starts,
    })
}

fn literals<'a>(tokens: impl Iterator<Item = &'a Token<'a>>) -> Result<Controls, LoadError> {
    Controls::new(tokens.map(|token| Literal::new(token.text, token.id))).map_err(bad)
}

/// A token that the file names, or the one that SentencePiece has in its place.
fn special(gguf: &Gguf<'_>, key: &str, usual: u32, scored: bool) -> Result<Option<u32>, LoadError> {
    Ok(gguf.number(key)?.or(scored.then_some(usual)))
}

/// The tokens that end an answer, by their well-known names and by what the file says.
fn ends(gguf: &Gguf<'_>, controls: &[Literal], scored: bool) -> Result<Vec<u32>, LoadError> {
    let known = controls
        .iter()
        .filter(|one| ENDS.contains(&one.text.as_str()));
    let mut ends: Vec<u32> = known.map(|one| one.id).collect();
    ends.extend(special(gguf, "tokenizer.ggml.eos_token_id", 2, scored)?);
    ends.extend(gguf.number("tokenizer.ggml.eot_token_id")?);
    Ok(ends)
}

/// SentencePiece's BPE, told by scores.
fn pieces(gguf: &Gguf<'_>, tokens: &[Token<'_>]) -> Result<Pieces, LoadError> {
    let scores = gguf.list("tokenizer.ggml.scores", Value::to_f32)?;
    if scores.len() != tokens.len() {
        return Err(bad("it has not as many scores as tokens"));
    }
    let of = |kind: i64| tokens.iter().filter(move |token| token.kind == kind);
    let scored = of(NORMAL).map(|token| (token.text, token.id, scores[token.id as usize]));
    let fixed = tokens.iter().filter(|token| token.is_added());
    let bytes = of(BYTE).filter_map(|token| Some((lone_byte(token.text)?, token.id)));
    Pieces::new(scored, fixed.map(|token| (token.text, token.id)), bytes).map_err(bad)
}

/// Byte-level BPE, told by merges, less what would make control tokens of ordinary text.
fn byte_level(gguf: &Gguf<'_>, tokens: &[Token<'_>]) -> Result<Tokenizer, LoadError> {
    let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or_default();
    let known = Pre::named(&pre).map_err(bad)?;
    let merges = gguf.list("tokenizer.ggml.merges", string)?;
    let merges = merges
        .iter()
        .map(|merge| merge.split_once(' '))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| bad("a merge is not a pair"))?;
    let controls = tokens.iter().filter(|token| token.is_control());
    let controls: HashSet<u32> = controls.map(|token| token.id).collect();
    let all = || tokens.iter().map(|token| (token.text, token.id));
    let gone = reserved(all(), &controls, None);
    let vocabulary: AHashMap<String, u32> = all()
        .filter(|(text, _)| !gone.contains(*text))
        .map(|(text, id)| (text.to_owned(), id))
        .collect();
    let merges = merges
        .into_iter()
        .filter(|(left, right)| keeps(&gone, left, right))
        .map(|(left, right)| (left.to_owned(), right.to_owned()))
        .collect();
    let told = "tokenizer.ggml.ignore_merges";
    let whole_words = match gguf.has_key(told) {
        true => gguf.flag(told)?,
        false => known.whole_words(),
    };
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(whole_words)
        // Its cache would keep words of prompts.
        .cache_capacity(0)
        .build()
        .map_err(bad)?;
    let mut tokenizer = Tokenizer::new(bpe);
    known.put_before(&mut tokenizer).map_err(bad)?;
    Ok(tokenizer)
}

/// All tokens' bytes one behind the other, and where each token's begin. Control tokens have none.
fn bytes_of(tokens: &[Token<'_>], read: impl Fn(&Token<'_>) -> Vec<u8>) -> (Vec<u8>, Vec<usize>) {
    let mut bytes = Vec::new();
    let mut starts = vec![0];
    for token in tokens {
        if token.kind != CONTROL {
            bytes.extend(read(token));
        }
        starts.push(bytes.len());
    }
    (bytes, starts)
}

/// The bytes that byte-level BPE writes as printable characters, undone.
fn printable() -> impl Fn(&Token<'_>) -> Vec<u8> {
    let byte_of = byte_alphabet();
    move |token| {
        // Words that were added are written as they are.
        if token.kind == USER_DEFINED {
            return token.text.as_bytes().to_vec();
        }
        let mut bytes = Vec::new();
        for character in token.text.chars() {
            match byte_of.get(&character) {
                Some(byte) => bytes.push(*byte),
                None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        bytes
    }
}

/// What SentencePiece's tokens say: spaces as themselves, and of those that mean no text nothing.
fn spaced(token: &Token<'_>) -> Vec<u8> {
    match (token.kind, lone_byte(token.text)) {
        (UNKNOWN | UNUSED, _) => Vec::new(),
        (BYTE, Some(byte)) => vec![byte],
        _ => token.text.replace(SPACE, " ").into_bytes(),
    }
}
