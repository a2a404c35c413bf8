//! The engines on the real starter models, against what PyTorch in float32 computes.
//!
//! The models are read from `$BULKHEAD_MODELS` (or the user's cache folder), where
//! `bulkhead models pull` puts them.

mod cached;
mod corrupt;
mod decoders;
mod encoders;
mod fixture;
mod minilm;
mod passes;
mod sampling;
mod smollm2;
mod speed;
mod text;
mod tiny;
