//! Text to tokens and tokens to text, from the vocabulary in a GGUF's metadata or a folder.
//!
//! Byte-level BPE. Control tokens (`<|im_start|>` and its like) are not part of the text tokenizer at all:
//! whoever encodes says where they are, so text that merely looks like one never becomes one.

use super::folder;
use crate::models::LoadError;
use crate::models::source::{GGUF_FILE as FILE, Gguf};
use ahash::AHashMap;
use candle_core::quantized::gguf_file::Value;
use std::collections::HashMap;
use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{SplitDelimiterBehavior, Tokenizer};

/// GGUF's mark of a control token.
const CONTROL: i64 = 3;
/// Names of control tokens that end an answer, whatever else the file says.
pub(super) const ENDS: [&str; 4] = ["<|endoftext|>", "<|im_end|>", "<|eot_id|>", "</s>"];

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Ordinary text, in which nothing is special.
    Text(String),
    /// A control token.
    Control(u32),
}

/// The vocabulary, both ways.
pub struct TextCodec {
    pub(super) tokenizer: Tokenizer,
    /// The control tokens' literals, the longest first.
    pub(super) controls: Vec<(String, u32)>,
    pub(super) ends: Vec<u32>,
    pub(super) begin: Option<u32>,
    /// All tokens' bytes one behind the other, and where each token's begin.
    pub(super) bytes: Vec<u8>,
    pub(super) starts: Vec<usize>,
    pub(super) token_bytes_max: usize,
    /// Whether the vocabulary writes a space before every word.
    pub(super) spaced: bool,
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

impl TextCodec {
    /// Reads a Hugging Face folder's tokenizer.json and, where there are such, tokenizer_config.json and
    /// generation_config.json (or config.json: whichever names the tokens that end an answer).
    pub fn from_json(
        tokenizer: &[u8],
        tokenizer_config: Option<&[u8]>,
        generation_config: Option<&[u8]>,
    ) -> Result<Self, LoadError> {
        folder::codec(tokenizer, tokenizer_config, generation_config)
    }

    /// Reads vocabulary, merges and kinds of tokens from a GGUF file's metadata.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        let model = gguf.text("tokenizer.ggml.model")?.unwrap_or_default();
        if model != "gpt2" {
            return Err(bad(format!(
                "tokenizer {model:?} is not supported, gpt2 is"
            )));
        }
        let tokens = gguf.list("tokenizer.ggml.tokens", string)?;
        let kinds = gguf.list("tokenizer.ggml.token_type", integer)?;
        if kinds.len() != tokens.len() {
            return Err(bad("it has not as many kinds of tokens as tokens"));
        }
        let numbered = || tokens.iter().zip(0u32..);
        let mut controls: Vec<(String, u32)> = numbered()
            .zip(&kinds)
            .filter(|((text, _), kind)| **kind == CONTROL && !text.is_empty())
            .map(|((text, id), _)| (text.clone(), id))
            .collect();
        controls.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let mut ends: Vec<u32> = controls
            .iter()
            .filter(|(text, _)| ENDS.contains(&text.as_str()))
            .map(|(_, id)| *id)
            .collect();
        for key in ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id"] {
            ends.extend(gguf.number(key)?);
        }
        let begin = match gguf.flag("tokenizer.ggml.add_bos_token")? {
            true => gguf.number("tokenizer.ggml.bos_token_id")?,
            false => None,
        };
        let (bytes, starts) = token_bytes(&tokens, &kinds);
        Ok(TextCodec {
            tokenizer: text_tokenizer(gguf, &tokens)?,
            token_bytes_max: tokens.iter().map(String::len).max().unwrap_or(1).max(1),
            controls,
            ends,
            begin,
            bytes,
            starts,
            spaced: false,
        })
    }

    /// The token that every sequence begins with, if there is one.
    pub fn begin(&self) -> Option<u32> {
        self.begin
    }

    /// True for tokens that end an answer.
    pub fn ends(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// The tokens that end an answer.
    pub fn end_tokens(&self) -> &[u32] {
        &self.ends
    }

    /// How many tokens there are: ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.starts.len() - 1
    }

    /// The text of a control token.
    pub fn control_text(&self, token: u32) -> Option<&str> {
        self.controls
            .iter()
            .find(|(_, id)| *id == token)
            .map(|(text, _)| text.as_str())
    }

    /// Characters that control tokens begin with.
    pub fn control_starts(&self) -> Vec<char> {
        let mut starts: Vec<char> = self
            .controls
            .iter()
            .filter_map(|(text, _)| text.chars().next())
            .collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// Divides text at the control tokens that are written out in it.
    pub fn split(&self, text: &str) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut start = 0;
        let mut at = 0;
        while let Some(character) = text[at..].chars().next() {
            let found = self
                .controls
                .iter()
                .find(|(literal, _)| text[at..].starts_with(literal));
            let Some((literal, id)) = found else {
                at += character.len_utf8();
                continue;
            };
            if start < at {
                parts.push(Part::Text(text[start..at].to_owned()));
            }
            parts.push(Part::Control(*id));
            at += literal.len();
            start = at;
        }
        if start < at {
            parts.push(Part::Text(text[start..].to_owned()));
        }
        parts
    }

    /// The least number of tokens that text of so many bytes can be.
    pub fn tokens_at_least(&self, bytes: usize) -> usize {
        bytes / self.token_bytes_max
    }

    /// Token ids; none if the tokenizer cannot.
    pub fn encode(&self, parts: &[Part]) -> Option<Vec<u32>> {
        let mut ids = Vec::new();
        for part in parts {
            match part {
                Part::Control(id) => ids.push(*id),
                Part::Text(text) => {
                    let encoding = self.tokenizer.encode_fast(text.as_str(), false).ok()?;
                    ids.extend_from_slice(encoding.get_ids());
                }
            }
        }
        Some(ids)
    }

    /// A token's bytes; control tokens have none. Characters may be divided among tokens.
    ///
    /// `first` is true for the first token of an answer to messages: in vocabularies that write a space
    /// before every word, the answer's own first word comes without.
    pub fn bytes_of(&self, token: u32, first: bool) -> &[u8] {
        let token = token as usize;
        let bytes = match (self.starts.get(token), self.starts.get(token + 1)) {
            (Some(start), Some(end)) => &self.bytes[*start..*end],
            _ => &[],
        };
        match bytes.strip_prefix(b" ") {
            Some(word) if first && self.spaced => word,
            _ => bytes,
        }
    }
}

fn text_tokenizer(gguf: &Gguf<'_>, tokens: &[String]) -> Result<Tokenizer, LoadError> {
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

/// The bytes that byte-level BPE writes as printable characters, undone.
fn token_bytes(tokens: &[String], kinds: &[i64]) -> (Vec<u8>, Vec<usize>) {
    let byte_of = byte_alphabet();
    let mut bytes = Vec::new();
    let mut starts = vec![0];
    for (token, kind) in tokens.iter().zip(kinds) {
        if *kind != CONTROL {
            for character in token.chars() {
                match byte_of.get(&character) {
                    Some(byte) => bytes.push(*byte),
                    None => bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
        }
        starts.push(bytes.len());
    }
    (bytes, starts)
}

/// GPT-2's alphabet: printable bytes stand for themselves, the others for characters from 256 on.
pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let own = (0..=255u8)
        .filter(printable)
        .map(|byte| (char::from(byte), byte));
    let others = (0..=255u8).filter(|byte| !printable(byte));
    let moved = ('\u{100}'..).zip(others);
    own.chain(moved).collect()
}
