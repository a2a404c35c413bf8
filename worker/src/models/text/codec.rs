//! Text to tokens and tokens to text, from the vocabulary in a GGUF's metadata or a folder.
//!
//! Control tokens (`<|im_start|>` and its like) are not part of the text tokenizer at all: whoever encodes
//! says where they are, so text that merely looks like one never becomes one. The text tokenizer's own
//! vocabulary does not hold them either; should one come out of a text all the same, the text is refused.

use super::controls::Controls;
use super::pieces::Pieces;
use super::spaces::SpaceFirst;
use super::{folder, vocabulary};
use crate::models::LoadError;
use crate::models::source::Gguf;
use std::collections::HashMap;
use std::ops::Range;
use tokenizers::Tokenizer;

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

/// What divides ordinary text into tokens.
pub(super) enum Words {
    /// The library, told by merges.
    Merges(Box<Tokenizer>),
    /// SentencePiece's way, told by scores.
    Pieces(Box<Pieces>),
}

/// The vocabulary, both ways.
pub struct TextCodec {
    pub(super) words: Words,
    /// Which texts get a space in front.
    pub(super) space_first: SpaceFirst,
    pub(super) controls: Controls,
    /// Words beside the model's own, which every text may hold.
    pub(super) added: Controls,
    /// What stands for characters that no token has.
    pub(super) unknown: Option<u32>,
    pub(super) ends: Vec<u32>,
    pub(super) begin: Option<u32>,
    /// All tokens' bytes one behind the other, and where each token's begin.
    pub(super) bytes: Vec<u8>,
    pub(super) starts: Vec<usize>,
    pub(super) token_bytes_max: usize,
    /// Whether the vocabulary writes a space before every word.
    pub(super) spaced: bool,
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

    /// Reads vocabulary, merges or scores, and kinds of tokens from a GGUF file's metadata.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        vocabulary::codec(gguf)
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
            .literals()
            .iter()
            .find(|control| control.id == token)
            .map(|control| control.text.as_str())
    }

    /// The literals of all control tokens.
    pub(super) fn control_literals(&self) -> impl Iterator<Item = &str> {
        let literals = self.controls.literals().iter();
        literals.map(|control| control.text.as_str())
    }

    /// Divides text at the control tokens that are written out in it.
    pub fn split(&self, text: &str) -> Vec<Part> {
        self.divide(text, self.controls.find(text), str::to_owned)
    }

    /// The same for what a template wrote with stand-ins for messages; `show` takes them away.
    pub(super) fn split_rendered(&self, text: &str, show: impl Fn(&str) -> String) -> Vec<Part> {
        self.divide(text, self.controls.find_among_words(text), show)
    }

    fn divide(
        &self,
        text: &str,
        controls: impl Iterator<Item = (Range<usize>, u32)>,
        show: impl Fn(&str) -> String,
    ) -> Vec<Part> {
        let word = |range: Range<usize>| {
            let word = show(&text[range.clone()]);
            Part::Text(self.space_first.put(&word, range.start))
        };
        let mut parts = Vec::new();
        let mut start = 0;
        for (place, id) in controls {
            if start < place.start {
                parts.push(word(start..place.start));
            }
            parts.push(Part::Control(id));
            start = place.end;
        }
        if start < text.len() {
            parts.push(word(start..text.len()));
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
                Part::Text(text) => self.encode_text(text, &mut ids)?,
            }
        }
        Some(ids)
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<u32>) -> Option<()> {
        let mut start = 0;
        for (place, id) in self.added.find(text) {
            self.encode_words(&text[start..place.start], ids)?;
            ids.push(id);
            start = place.end;
        }
        self.encode_words(&text[start..], ids)
    }

    /// None where a control token came out of it, which only one of a single character can.
    fn encode_words(&self, text: &str, ids: &mut Vec<u32>) -> Option<()> {
        let before = ids.len();
        match &self.words {
            Words::Merges(tokenizer) => {
                let encoding = tokenizer.encode_fast(text, false).ok()?;
                ids.extend_from_slice(encoding.get_ids());
            }
            Words::Pieces(pieces) => ids.extend(pieces.encode(text)?),
        }
        let forged = |id: &u32| self.controls.holds(*id) && Some(*id) != self.unknown;
        (!ids[before..].iter().any(forged)).then_some(())
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
