//! What models compute with on the CPU: matrix products over packed weights, attention, and the
//! elementwise functions between them, each for the best instruction set that the processor has.
//!
//! All activations are f32 and lie in buffers of the caller. Nothing here keeps anything of what it
//! computes, knows a model, or starts a thread: work is divided among the rayon pool it is called in.

pub mod choice;
pub mod linear;
pub mod paged;
pub mod ragged;
pub mod reference;
pub mod simd;

pub use linear::{GROUP, Linear, Rows};
