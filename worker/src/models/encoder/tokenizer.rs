//! tokenizer.json, with the limits of the model instead of those of the file.

use crate::models::LoadError;
use tokenizers::{ModelWrapper, Tokenizer, TruncationParams};

const FILE: &str = "tokenizer.json";

/// Bytes of a text that can matter: far more than the longest input has room for in any writing. The
/// rest is cut off unread, so that an enormous text costs no time.
const TEXT_BYTES_MAX: usize = 64 << 10;

/// A text as the model reads it.
#[derive(Debug)]
pub struct Encoded {
    /// Token ids, special tokens included.
    pub ids: Vec<u32>,
    /// True where the end of the text was not read.
    pub truncated: bool,
}

/// The text encoder.
pub struct TextEncoder {
    tokenizer: Tokenizer,
}

impl TextEncoder {
    /// Parses tokenizer.json; texts are cut to `tokens_max` and never padded.
    pub fn parse(bytes: &[u8], tokens_max: usize) -> Result<Self, LoadError> {
        let mut tokenizer =
            Tokenizer::from_bytes(bytes).map_err(|error| LoadError::bad(FILE, error))?;
        // The other kinds keep a cache of the words that they have seen.
        if !matches!(tokenizer.get_model(), ModelWrapper::WordPiece(_)) {
            return Err(LoadError::bad(
                FILE,
                "only WordPiece tokenizers are supported",
            ));
        }
        let truncation = TruncationParams {
            max_length: tokens_max,
            ..TruncationParams::default()
        };
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| LoadError::bad(FILE, error))?
            .with_padding(None);
        Ok(TextEncoder { tokenizer })
    }

    /// Encodes a text; none if the tokenizer cannot.
    pub fn encode(&self, text: &str) -> Option<Encoded> {
        let mut end = text.len().min(TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let encoding = self.tokenizer.encode_fast(&text[..end], true).ok()?;
        let truncated = end < text.len() || !encoding.get_overflowing().is_empty();
        Some(Encoded {
            ids: encoding.get_ids().to_vec(),
            truncated,
        })
    }
}
