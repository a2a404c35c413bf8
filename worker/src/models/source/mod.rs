//! Reading models' files: containers of metadata and tensors, from bytes in memory.
//!
//! Two containers, GGUF and safetensors, and one way to read from either: [`Tensors`], by name and with
//! the shape that is expected. Whatever the bytes are, the answer is data or an error, never a panic.
//! No size that a file merely claims is ever allocated: a tensor's bytes are in the file, no byte belongs
//! to two tensors, and so what a load takes is bounded by a small multiple of the files' size.

mod blocks;
mod gguf;
mod raw;
mod safetensors;

pub use gguf::Gguf;
pub use raw::{Kind, Raw};
pub use safetensors::Safetensors;

use crate::models::LoadError;
use bulkhead_kernels::compute::Rows;

/// The name of a model in one GGUF file.
pub const GGUF_FILE: &str = "model.gguf";

/// Named tensors, each to be read once.
pub trait Tensors {
    /// True if there is a tensor of that name.
    fn has(&self, name: &str) -> bool;

    /// The tensor's values as the file has them. An error if it is missing, of another shape or of a
    /// kind that is not supported; all of that is known before anything is allocated.
    fn raw<'s>(&'s mut self, name: &'s str, shape: &[usize]) -> Result<Raw<'s>, LoadError>;

    /// A tensor of any shape as f32, its last dimension side by side.
    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.raw(name, shape)?.floats()
    }

    /// A vector as f32.
    fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        self.floats(name, &[length])
    }

    /// A matrix as rows to pack.
    fn rows(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Rows, LoadError> {
        self.raw(name, &[outputs, inputs])?.rows(inputs)
    }
}
