//! Text generation: continuous batching over a [`Decoder`](super::decoder::Decoder).
//!
//! Ragged: a step computes the next tokens of many sequences at once; prompts are read in pieces, and
//! sequences come and go at every step. Keys and values live in the blocks of one pool, the tenant's
//! quota, and are zeroed and read back when their sequence ends. What a step does is decided in
//! `bulkhead-worker-core`, which sees numbers only; texts and ids stay here.

mod answer;
mod cleaning;
mod encoding;
mod engine;
mod load;
mod prefix;
mod request;
mod sampling;
mod sequence;
mod telling;

pub use engine::Generator;
