//! Llama-family generation on the CPU, from one GGUF file: weights, tokenizer and chat template.
//!
//! Ragged: a step computes the next tokens of many sequences at once, of each as many as planned;
//! prompts are read in pieces, and sequences come and go at every step. Keys and values live in the
//! blocks of one pool, the tenant's quota, and are zeroed and read back when their sequence ends.

mod attention;
mod chat;
mod engine;
mod gguf;
mod kv;
mod model;
mod sampling;
mod sequence;
mod stream;
mod tokenizer;

pub use chat::Chat;
pub use engine::LlamaEngine;
pub use gguf::Gguf;
pub use kv::Kv;
pub use model::{Model, Row, Scratch};
pub use tokenizer::TextCodec;

/// The file that all of this is read from.
const FILE: &str = "model.gguf";
