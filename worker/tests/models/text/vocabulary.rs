//! Vocabularies as GGUF files say them, written by the test.

use candle_core::quantized::gguf_file::{Value, write};
use serde::Deserialize;
use std::io::Cursor;

/// What the reference library makes of one text.
#[derive(Deserialize)]
pub struct Case {
    /// Ordinary text.
    pub text: String,
    /// Its tokens.
    pub ids: Vec<u32>,
}

/// A GGUF file of nothing but metadata.
pub fn file(metadata: Vec<(&str, Value)>) -> Vec<u8> {
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (*key, value)).collect();
    let mut bytes = Cursor::new(Vec::new());
    write(&mut bytes, &metadata, &[]).expect("it writes");
    bytes.into_inner()
}

/// A list of texts.
pub fn texts(all: &[String]) -> Value {
    Value::Array(all.iter().cloned().map(Value::String).collect())
}
