//! Reading models' files: containers of metadata and tensors, from bytes in memory.
//!
//! Whatever the bytes are, the answer is data or an error, and no size that a file merely claims is
//! ever allocated.

mod gguf;

pub use gguf::Gguf;

/// The name of a model in one GGUF file.
pub const GGUF_FILE: &str = "model.gguf";
