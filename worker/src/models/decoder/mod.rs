//! The decoder: weights and one tenant's keys and values on a device, computed over ragged steps.
//!
//! One forward pass ([`model`]) for Llama, Mistral, Qwen2 and Qwen3, which differ in their [`Config`]
//! alone, over the operations of a device ([`ops`]). A step's rows are the next tokens of many sequences,
//! of each as many as planned. Which block of the pool belongs to which sequence is decided by the caller;
//! nothing here remembers a sequence.

mod candle;
mod checkpoint;
mod config;
mod cpu;
mod model;
mod names;
mod ops;
mod rope;

pub use bulkhead_kernels::compute::paged::Layout;
pub use candle::CandleDecoder;
pub use checkpoint::Checkpoint;
pub use config::{Config, FAMILIES, Family};
pub use cpu::{CpuDecoder, CpuModel};
pub use rope::{Pairs, Rope, Scaling};

use crate::engine::Scrubbed;
use std::ops::Range;

/// One token to compute.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its id.
    pub token: u32,
    /// Its place in its sequence.
    pub position: usize,
    /// Which of the tables given is its sequence's.
    pub table: usize,
}

/// What of a decoder its callers plan with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Tokens that a sequence can have.
    pub context_tokens: usize,
    /// Bytes of a KV block.
    pub block_bytes: u64,
    /// Bytes that the weights take.
    pub weights_bytes: u64,
}

/// A device did not compute. Not the request's fault; another try on the same device may fail alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(pub String);

/// A decoder on some device.
pub trait Decoder: Send {
    /// Its sizes.
    fn shape(&self) -> Shape;
    /// Takes memory for keys and values, `quota_bytes` at most. Returns how many blocks fit.
    fn assign(&mut self, quota_bytes: u64) -> u32;
    /// Computes `rows` (of one sequence in order, without gaps) and returns the logits after those of
    /// them that `wanted` names, in ascending order, one behind the other. A table lists a sequence's blocks in
    /// the order of its tokens, and every row's place lies in its table. After an error the keys and
    /// values of this step's rows are not known.
    fn forward(
        &mut self,
        rows: &[Row],
        wanted: &[usize],
        tables: &[&[u32]],
    ) -> Result<&mut [f32], DeviceError>;
    /// Zeroes these blocks and reads them back.
    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed;
    /// Zeroes and reads back what is kept between steps beside the blocks.
    fn scrub(&mut self) -> Scrubbed;
}
