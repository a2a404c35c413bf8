//! What a forward pass asks of a device: a handful of operations on named buffers.
//!
//! The pass itself is written once, in [`super::model`], over these two traits. One implementation
//! computes in place on this machine's processor, the other with candle's tensors on any of its devices.

use super::DeviceError;
use crate::models::LoadError;
use crate::models::source::Raw;

/// What a pass's rows are in, one after the other, in the order of computing. Every slot holds one row of
/// its width for every token of the pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// What passes from layer to layer: hidden wide, like the next and [`Slot::Change`].
    Rows,
    /// The same after a norm.
    Normed,
    /// Queries, keys and values of all heads side by side.
    Qkv,
    /// What the attention found, all query heads wide.
    Mixed,
    /// Gate and input of the feed-forward part side by side.
    GateUp,
    /// Their product.
    Inner,
    /// What is added to the rows.
    Change,
}

/// How many slots there are.
pub(super) const SLOTS: usize = Slot::Change as usize + 1;

/// Weights as a device computes with them.
pub(super) trait Weights {
    /// A norm's weights.
    type Vector;
    /// One matrix of a file, on its way into a [`Weights::Matrix`].
    type Part;
    /// One or more matrices over the same input, their outputs side by side, and maybe biases.
    type Matrix;

    fn vector(&self, values: Vec<f32>) -> Result<Self::Vector, LoadError>;
    fn part(&self, raw: &Raw<'_>, outputs: usize, inputs: usize) -> Result<Self::Part, LoadError>;
    /// An empty `bias` is none; otherwise there is one for every output.
    fn matrix(
        &self,
        parts: Vec<Self::Part>,
        inputs: usize,
        bias: Vec<f32>,
    ) -> Result<Self::Matrix, LoadError>;
    /// Bytes that it takes.
    fn bytes(matrix: &Self::Matrix) -> u64;
}

/// One pass on a device, whose tokens, positions and blocks it knows.
pub(super) trait Step<W: Weights> {
    /// The tokens' rows of the embedding table, into [`Slot::Rows`].
    fn embed(&mut self, table: &W::Matrix) -> Result<(), DeviceError>;
    /// [`Slot::Rows`] over the root of its mean square, times `weight`, into [`Slot::Normed`].
    fn norm(&mut self, weight: &W::Vector) -> Result<(), DeviceError>;
    /// `to = from · matrixᵀ + bias`.
    fn linear(&mut self, matrix: &W::Matrix, from: Slot, to: Slot) -> Result<(), DeviceError>;
    /// Each head's query and key in [`Slot::Qkv`] through a norm of its width.
    fn head_norms(&mut self, queries: &W::Vector, keys: &W::Vector) -> Result<(), DeviceError>;
    /// Turns the queries and keys in [`Slot::Qkv`] by their positions.
    fn rotate(&mut self) -> Result<(), DeviceError>;
    /// Puts the keys and values in [`Slot::Qkv`] into their blocks of `layer`.
    fn store(&mut self, layer: usize) -> Result<(), DeviceError>;
    /// Attention of the queries in [`Slot::Qkv`] to `window` last positions of their sequences (all, if
    /// none), into [`Slot::Mixed`].
    fn attend(&mut self, layer: usize, window: Option<usize>) -> Result<(), DeviceError>;
    /// Leaves only the wanted rows in [`Slot::Rows`] and [`Slot::Mixed`]; from here on there are no others.
    fn keep_wanted(&mut self) -> Result<(), DeviceError>;
    /// `silu(gate) * input` of [`Slot::GateUp`], into [`Slot::Inner`].
    fn swiglu(&mut self) -> Result<(), DeviceError>;
    /// Adds [`Slot::Change`] to [`Slot::Rows`].
    fn add(&mut self) -> Result<(), DeviceError>;
    /// The output matrix over [`Slot::Normed`].
    fn logits(&mut self, output: &W::Matrix) -> Result<(), DeviceError>;
}
