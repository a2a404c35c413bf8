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
use bulkhead_kernels::compute::choice::Wish;
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

/// What a pass came to.
#[derive(Debug)]
pub struct Answers<'a> {
    /// Logits after the wanted rows after which no token was wished for, one behind the other.
    pub logits: &'a mut [f32],
    /// The tokens of the others, in order; nothing where there was nothing to choose from.
    pub chosen: Vec<Option<u32>>,
}

/// What there is after one wanted row.
#[derive(Debug)]
pub enum Found<'a> {
    /// Its logits, to choose from.
    Logits(&'a mut [f32]),
    /// The token that was chosen, or nothing.
    Token(Option<u32>),
}

impl<'a> Answers<'a> {
    /// What there is after each wanted row, of which each has its wish or none; without any wishes, no row has.
    pub fn each(
        self,
        vocabulary: usize,
        wishes: &[Option<Wish>],
    ) -> impl Iterator<Item = Found<'a>> {
        let mut logits = self.logits.chunks_exact_mut(vocabulary);
        let mut chosen = self.chosen.into_iter();
        let mut wished = wishes.iter().map(Option::is_some);
        std::iter::from_fn(move || match wished.next() {
            Some(true) => chosen.next().map(Found::Token),
            _ => logits.next().map(Found::Logits),
        })
    }
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
    /// True where it can choose tokens itself.
    fn chooses(&self) -> bool {
        false
    }
    /// As [`Decoder::advance`], and after rows that have a wish chooses the token as [`Wish::of`] would. Of
    /// `wishes` there is one or none for each wanted row, or no element at all; only a decoder that chooses is
    /// given any.
    fn answer(
        &mut self,
        kind: PassKind,
        given: Given<'_>,
        _wishes: &[Option<Wish>],
        go_on: &mut GoOn<'_>,
    ) -> Result<Option<Answers<'_>>, DeviceError> {
        let of_logits = |logits| Answers {
            logits,
            chosen: Vec::new(),
        };
        Ok(self.advance(kind, given, go_on)?.map(of_logits))
    }
    /// Of the pass of this kind that is on its way, if one is, keeps these rows alone, of which `answers` are
    /// those whose logits are wanted, counted among all such. From then on it is given without the others; nothing
    /// of them is kept. Without any row there is no such pass any more.
    fn keep(&mut self, kind: PassKind, rows: &[usize], answers: &[usize]) -> Scrubbed;
    /// Zeroes these blocks and reads them back.
    fn clean(&mut self, blocks: Range<u32>) -> Scrubbed;
    /// Zeroes and reads back what is kept between steps beside the blocks and the passes on their way.
    fn scrub(&mut self) -> Scrubbed;
}
