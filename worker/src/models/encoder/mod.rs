//! Sentence embeddings of the BERT and RoBERTa families on the CPU.
//!
//! Ragged: a batch is the tokens of many texts one behind the other, without padding, so what a text
//! costs and what it yields do not depend on its neighbours in the batch.

mod arrivals;
mod config;
mod engine;
mod model;
mod pooling;
mod tokenizer;
mod weights;

pub use config::FAMILIES;
pub use engine::Embedder;
pub use tokenizer::TextEncoder;
