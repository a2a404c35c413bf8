//! The decoder: weights and one tenant's keys and values on a device, computed over ragged steps.
//!
//! A step's rows are the next tokens of many sequences, of each as many as planned. Which block of
//! the pool belongs to which sequence is decided by the caller; nothing here remembers a sequence.

mod cpu;
mod kv;
mod model;

pub use bulkhead_kernels::compute::paged::Layout;
pub use cpu::CpuDecoder;
pub use model::Model;

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
}

/// A decoder on some device.
pub trait Decoder: Send {
    /// Its sizes.
    fn shape(&self) -> Shape;
    /// Takes memory for keys and values, `quota_bytes` at most. Returns how many blocks fit.
    fn assign(&mut self, quota_bytes: u64) -> u32;
    /// Computes `rows` (of one sequence in order, without gaps) and returns the logits after those of
    /// them that `wanted` names, one behind the other. A table lists a sequence's blocks in the order
    /// of its tokens, and every row's place lies in its table.
    fn forward(&mut self, rows: &[Row], wanted: &[usize], tables: &[&[u32]]) -> &mut [f32];
    /// Zeroes these blocks and reads them back.
    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed;
    /// Zeroes and reads back what is kept between steps beside the blocks.
    fn scrub(&mut self) -> Scrubbed;
}
