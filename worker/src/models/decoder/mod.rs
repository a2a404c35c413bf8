//! The decoder: weights and one tenant's keys and values on a device, computed over ragged steps.
//!
//! One forward pass ([`model`]) for Llama, Mistral, Qwen2 and Qwen3, which differ in their [`Config`]
//! alone, over the operations of a device ([`ops`]). A pass's rows are the next tokens of many sequences,
//! of each as many as planned. Between two layers it may be left where it is: two passes can be on their
//! way at a time. Which block of the pool belongs to which sequence is decided by the caller; nothing here
//! remembers a sequence.

mod candle;
mod checkpoint;
mod config;
mod cpu;
#[cfg(feature = "cuda")]
mod cuda;
mod model;
mod names;
mod ops;
mod rope;
mod shared;

pub use bulkhead_kernels::compute::paged::Layout;
pub use candle::CandleDecoder;
pub use checkpoint::Checkpoint;
pub use config::{Config, FAMILIES, Family};
pub use cpu::{CpuDecoder, CpuModel};
#[cfg(feature = "cuda")]
pub use cuda::{Borrowed, CudaDecoder, GpuLender, OpenGpu};
pub use rope::{Pairs, Rope, Scaling};
pub use shared::{FromTable, Lender, Mapped, TABLE_BYTES_MAX, Table, Values, Weight, lay_out};

use crate::engine::Scrubbed;
use bulkhead_worker_core::{GoOn, PassKind};
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
    /// Layers that a pass goes through.
    pub layers: usize,
    /// Bytes of a KV block.
    pub block_bytes: u64,
    /// Bytes that the weights take.
    pub weights_bytes: u64,
}

/// A device did not compute. Not the request's fault; another try on the same device may fail alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the device failed: {0}")]
pub struct DeviceError(pub String);

/// What a pass is given: the same from its beginning to its end.
#[derive(Clone, Copy, Debug)]
pub struct Given<'a> {
    /// Of each sequence in order, without gaps, one sequence after the other. Every row's place lies in its
    /// table.
    pub rows: &'a [Row],
    /// The rows after which logits are wanted, ascending.
    pub wanted: &'a [usize],
    /// Sequences' blocks in the order of their tokens.
    pub tables: &'a [&'a [u32]],
}

/// A decoder on some device.
pub trait Decoder: Send {
    /// Its sizes.
    fn shape(&self) -> Shape;
    /// Takes memory for keys and values, `quota_bytes` at most. Returns how many blocks fit.
    fn assign(&mut self, quota_bytes: u64) -> u32;
    /// Begins the pass of this kind, or goes on with the one that was left on its way, until `go_on` says
    /// no. Returns the logits after the wanted rows, one behind the other, or nothing where it was told to
    /// stop. After an error the keys and values of its rows are not known.
    fn advance(
        &mut self,
        kind: PassKind,
        given: Given<'_>,
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<&mut [f32]>, DeviceError>;
    /// Of the pass of this kind that is on its way, if one is, keeps these rows alone, of which `answers` are
    /// those whose logits are wanted, counted among all such. From then on it is given without the others; nothing
    /// of them is kept. Without any row there is no such pass any more.
    fn keep(&mut self, kind: PassKind, rows: &[usize], answers: &[usize]) -> Scrubbed;
    /// Zeroes these blocks and reads them back.
    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed;
    /// Zeroes and reads back what is kept between steps beside the blocks and the passes on their way.
    fn scrub(&mut self) -> Scrubbed;
}
