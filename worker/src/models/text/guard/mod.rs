//! What a tokenizer.json may hold, looked at before the library that reads it.
//!
//! The library reports most mistakes, and panics on some, which loading survives. What nothing survives
//! is refused here by name: it frees a vocabulary's tree by recursion, one level for each byte of the
//! longest piece, so that a piece of a megabyte overflows the stack; it allocates what a character map
//! claims, and follows it without looking, while a prompt is read too; and a few settings would make every
//! text cost without bound.

mod charsmap;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::Tokenizer;

/// Bytes of a vocabulary's piece at most; real ones stay below 256.
const PIECE_BYTES_MAX: usize = 1024;
/// Characters of a word that WordPiece looks up at most: it tries each part of a word. Usual is 100.
const WORD_CHARS_MAX: u64 = 1024;
/// Bytes of any text inside the steps before and after the model, but the character map.
const STEP_TEXT_BYTES_MAX: usize = 4096;
/// Bytes of a text that takes the place of every match of a pattern: a factor of a text's length.
const REPLACEMENT_BYTES_MAX: usize = 64;
/// Steps, and parts of steps, together.
const STEP_VALUES_MAX: usize = 4096;

/// Parses the bytes of a tokenizer.json; the error says what is wrong with it.
pub fn parse(bytes: &[u8]) -> Result<Tokenizer, String> {
    check(bytes)?;
    survived(|| Tokenizer::from_bytes(bytes))?.map_err(|error| error.to_string())
}

/// What the library makes of a file while it is loaded: it expects of some parts that they cannot fail,
/// and panics where they do.
pub fn survived<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work))
        .map_err(|_| "one of its parts is not as the format has it".into())
}

fn check(bytes: &[u8]) -> Result<(), String> {
    let file: File = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let words = file.model.max_input_chars_per_word;
    if words.is_some_and(|words| words > WORD_CHARS_MAX) {
        return Err(format!(
            "max_input_chars_per_word is beyond {WORD_CHARS_MAX}"
        ));
    }
    let mut left = STEP_VALUES_MAX;
    [&file.normalizer, &file.pre_tokenizer, &file.post_processor]
        .into_iter()
        .try_for_each(|step| check_step("", step, &mut left))
}

#[derive(serde::Deserialize)]
struct File {
    model: Model,
    #[serde(default)]
    normalizer: Value,
    #[serde(default)]
    pre_tokenizer: Value,
    #[serde(default)]
    post_processor: Value,
}

#[derive(serde::Deserialize)]
struct Model {
    #[serde(rename = "vocab")]
    _vocab: Pieces,
    max_input_chars_per_word: Option<u64>,
}

fn check_step(name: &str, value: &Value, left: &mut usize) -> Result<(), String> {
    *left = left
        .checked_sub(1)
        .ok_or("it has too many steps before and after its model")?;
    match value {
        Value::String(text) if name == "precompiled_charsmap" => {
            charsmap::check(text).map_err(|cause| format!("its precompiled_charsmap {cause}"))
        }
        Value::String(text) if name == "Regex" && refers_back(text) => {
            Err("a pattern of its refers back to what it has matched, which can take time without bound".into())
        }
        Value::String(text) => {
            let max = match name {
                "content" | "prepend" | "replacement" => REPLACEMENT_BYTES_MAX,
                _ => STEP_TEXT_BYTES_MAX,
            };
            match text.len() <= max {
                true => Ok(()),
                false => Err(format!("its {name} is longer than {max} bytes")),
            }
        }
        Value::Array(values) => values
            .iter()
            .try_for_each(|value| check_step(name, value, left)),
        Value::Object(fields) => fields
            .iter()
            .try_for_each(|(name, value)| check_step(name, value, left)),
        // A FixedLength of nothing.
        Value::Number(number) if name == "length" && number.as_u64() == Some(0) => {
            Err("its length is 0".into())
        }
        _ => Ok(()),
    }
}

/// True if a pattern refers to a group by its number or name: no published tokenizer's does.
fn refers_back(pattern: &str) -> bool {
    let mut rest = pattern.chars();
    while let Some(c) = rest.next() {
        if c == '\\'
            && rest
                .next()
                .is_some_and(|c| matches!(c, '1'..='9' | 'k' | 'g'))
        {
            return true;
        }
    }
    pattern.contains("(?P=")
}

/// A vocabulary of which no piece is too long: `{piece: id}` or `[[piece, score]]`.
struct Pieces;

impl<'de> Deserialize<'de> for Pieces {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PiecesVisitor)
    }
}

struct PiecesVisitor;

fn check_piece<E: Error>(piece: &str) -> Result<(), E> {
    if piece.len() > PIECE_BYTES_MAX {
        return Err(E::custom(format!(
            "a piece of its vocabulary is longer than {PIECE_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

impl<'de> Visitor<'de> for PiecesVisitor {
    type Value = Pieces;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a vocabulary")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pieces, A::Error> {
        while let Some((piece, _)) = map.next_entry::<Cow<'de, str>, IgnoredAny>()? {
            check_piece(&piece)?;
        }
        Ok(Pieces)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Pieces, A::Error> {
        while let Some((piece, _)) = list.next_element::<(Cow<'de, str>, IgnoredAny)>()? {
            check_piece(&piece)?;
        }
        Ok(Pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(json: &str) -> String {
        check(json.as_bytes()).expect_err("refused")
    }

    #[test]
    fn what_would_overflow_or_never_end_is_refused_by_name() {
        let long = "x".repeat(1 << 20);
        for json in [
            format!(r#"{{"model": {{"vocab": [["{long}", -1.0]]}}}}"#),
            format!(r#"{{"model": {{"vocab": {{"{long}": 7}}}}}}"#),
        ] {
            assert!(refused(&json).contains("piece"), "{}", refused(&json));
        }
        let word = r#"{"model": {"vocab": {}, "max_input_chars_per_word": 4000000000}}"#;
        assert!(refused(word).contains("max_input_chars_per_word"));
        let with = |step: &str| format!(r#"{{"model": {{"vocab": {{}}}}, "normalizer": {step}}}"#);
        let map = with(r#"[{"precompiled_charsmap": "/////w=="}]"#);
        assert!(refused(&map).contains("charsmap"), "it claims 4 GiB");
        assert!(
            refused(&with(&format!(r#"{{"content": "{}"}}"#, &long[..65]))).contains("content")
        );
        assert!(refused(&with(r#"{"length": 0}"#)).contains("length"));
        let back = with(r#"{"pattern": {"Regex": "(x)x{0,900}\\1y"}}"#);
        assert!(refused(&back).contains("refers back"));
        let published = with(r#"{"pattern": {"Regex": "\\\\1|\\s+(?!\\S)|\\p{N}{1,3}"}}"#);
        assert_eq!(check(published.as_bytes()), Ok(()));
        let many = vec!["0"; 5000].join(",");
        assert!(refused(&with(&format!("[{many}]"))).contains("too many"));
    }

    #[test]
    fn nesting_is_an_error_and_no_overflow() {
        refused(&format!(
            r#"{{"model": {{"vocab": {{}}}}, "normalizer": {}"#,
            "[".repeat(1 << 20)
        ));
    }
}
