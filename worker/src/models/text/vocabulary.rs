//! The vocabulary in a GGUF file's metadata.
//!
//! Two kinds: byte-level BPE, told by merges ("gpt2"), and SentencePiece's BPE, told by scores ("llama").
//! What neither reads is refused by name, and so is a vocabulary that could not read every text.

use super::codec::{ENDS, TextCodec, Words, byte_alphabet};
use super::controls::Controls;
use super::pieces::{Pieces, SPACE, lone_byte};
use super::spaces::SpaceFirst;
use crate::models::LoadError;
use crate::models::source::{GGUF_FILE as FILE, Gguf};
use ahash::AHashMap;
use candle_core::quantized::gguf_file::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

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
    fn is_control(&self, scored: bool) -> bool {
        let enclosed = |from, to| self.text.starts_with(from) && self.text.ends_with(to);
        let mark = enclosed('<', '>') || enclosed('[', ']');
        self.kind == CONTROL || (scored && self.kind == USER_DEFINED && mark)
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
    let controls = tokens.iter().filter(|token| token.is_control(scored));
    let controls =
        Controls::new(controls.map(|token| (token.text.to_owned(), token.id))).map_err(bad)?;
    let (bytes, starts) = match scored {
        true => bytes_of(&tokens, spaced),
        false => bytes_of(&tokens, printable()),
    };
    let told = |key: &str| gguf.has_key(key).then(|| gguf.flag(key)).transpose();
    Ok(TextCodec {
        words: match scored {
            true => Words::Pieces(Box::new(pieces(gguf, &tokens)?)),
            false => Words::Merges(Box::new(byte_level(gguf, &texts)?)),
        },
        token_bytes_max: texts.iter().map(String::len).max().unwrap_or(1).max(1),
        ends: ends(gguf, controls.literals(), scored)?,
        controls,
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

/// A token that the file names, or the one that SentencePiece has in its place.
fn special(gguf: &Gguf<'_>, key: &str, usual: u32, scored: bool) -> Result<Option<u32>, LoadError> {
    Ok(gguf.number(key)?.or(scored.then_some(usual)))
}

/// The tokens that end an answer, by their well-known names and by what the file says.
fn ends(gguf: &Gguf<'_>, controls: &[(String, u32)], scored: bool) -> Result<Vec<u32>, LoadError> {
    let known = controls
        .iter()
        .filter(|(text, _)| ENDS.contains(&text.as_str()));
    let mut ends: Vec<u32> = known.map(|(_, id)| *id).collect();
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
    let fixed = of(USER_DEFINED).filter(|token| !token.is_control(true));
    let bytes = of(BYTE).filter_map(|token| Some((lone_byte(token.text)?, token.id)));
    Pieces::new(scored, fixed.map(|token| (token.text, token.id)), bytes).map_err(bad)
}

/// Byte-level BPE, told by merges.
fn byte_level(gguf: &Gguf<'_>, tokens: &[String]) -> Result<Tokenizer, LoadError> {
    let merges = gguf.list("tokenizer.ggml.merges", string)?;
    let merges = merges
        .iter()
        .map(|merge| {
            merge
                .split_once(' ')
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
        })
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| bad("a merge is not a pair"))?;
    let vocabulary: AHashMap<String, u32> = tokens.iter().cloned().zip(0..).collect();
    let bpe = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        // Its cache would keep words of prompts.
        .cache_capacity(0)
        .build()
        .map_err(bad)?;
    let bytes = PreTokenizerWrapper::from(ByteLevel::new(false, true, true));
    let pre = gguf.text("tokenizer.ggml.pre")?.unwrap_or_default();
    let mut tokenizer = Tokenizer::new(bpe);
    let steps = match pre.as_str() {
        "smollm" => vec![Digits::new(true).into(), bytes],
        "gpt-2" => vec![bytes],
        "llama-bpe" | "llama3" => words("{1,3}")?,
        "qwen2" => {
            tokenizer.with_normalizer(Some(NFC)).map_err(bad)?;
            words("")?
        }
        _ => {
            return Err(bad(format!(
                "pre-tokenizer {pre:?} is not supported; smollm, gpt-2, llama-bpe and qwen2 are"
            )));
        }
    };
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    Ok(tokenizer)
}

/// The steps of the later families: words, numbers of so many digits, signs and spaces are divided first.
fn words(digits: &str) -> Result<Vec<PreTokenizerWrapper>, LoadError> {
    let pattern = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    let isolated = SplitDelimiterBehavior::Isolated;
    let split = Split::new(SplitPattern::Regex(pattern), isolated, false).map_err(bad)?;
    Ok(vec![
        split.into(),
        ByteLevel::new(false, true, false).into(),
    ])
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
