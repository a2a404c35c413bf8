//! BERT-family sentence embeddings on the CPU: mean pooling, unit length.
//!
//! Ragged: a batch is the tokens of many texts one behind the other, without padding, so what a text
//! costs and what it yields do not depend on its neighbours in the batch.

mod engine;
mod model;
mod tokenizer;

pub use engine::Embedder;
pub use tokenizer::{Encoded, TextEncoder};
