//! Device memory: pools with a quota, zero fill, read-back, scrub and canaries, on the CPU and on
//! CUDA; and the allocator that zeroes what it frees.
//!
//! Promise 4 (clean memory) rests on two primitives: [`fill_zero`], which no optimiser may drop, and
//! [`verify_zero`], which really reads. Everything above them (allocator, pools) returns evidence in
//! bytes rather than a claim. `unsafe` is gathered here so that no other crate needs it for memory.
//! Nothing here knows a tenant, a model or a request, and nothing here reads the clock: whoever wants
//! a duration passes a clock in.

pub mod alloc;
pub mod canary;
pub mod compute;
pub mod device;
pub mod digest;
mod fill;
pub mod gpu;
mod measures;
pub mod pool;
mod report;
pub mod stack;
mod verify;

pub use alloc::ZeroingAllocator;
pub use fill::fill_zero;
pub use measures::Measure;
pub use pool::{Pool, PoolError};
pub use report::ScrubReport;
pub use verify::{Residue, verify_zero};
