//! Pure planning of engine steps: what a step may cost, which texts or tokens go into it, and which
//! KV block belongs to whom.
//!
//! Everything here is a function of its arguments: time and sizes are passed in. There is no clock, no
//! I/O, no thread and no randomness, and no text or token id ever comes in: only counts and numbers.

mod blocks;
mod cost;
mod decode;
mod texts;

pub use blocks::{BLOCK_TOKENS, Blocks, CannotFit, Dirty, Table, blocks_for};
pub use cost::StepCost;
pub use decode::{Ask, share};
pub use texts::{Pick, Texts};
