//! What is to be thought of a device: from what was seen before, what is seen now, and which processes are
//! ours. No clock, no input or output: the same sights give the same verdicts.
//!
//! A device that is bad gets no work. What made it bad decides when it is good again: one that was gone, when
//! it is there; one whose driver reported a fault, or whose memory lost something, only once it has been gone
//! and come back, which is what a reset, a repair or a reloaded driver look like from here. The rest is told
//! and changes nothing about what may run: heat, wear, memory that strangers have taken (which is counted off
//! what may be used), silence.

mod judge;
mod memory;
mod verdict;
pub mod xid;

pub use judge::Judge;
pub use verdict::{Health, Trouble, Verdict};
