//! Pure planning of engine steps: what a step may cost, which texts or tokens go into it, and which
//! KV block belongs to whom.
//!
//! Everything here is a function of its arguments: time and sizes are passed in. There is no clock, no
//! I/O, no thread and no randomness, and no text or token id ever comes in: only counts and numbers.

mod agents;
mod blocks;
mod cost;
mod divide;
mod memory;
mod pass;
mod planner;
mod prefix;
mod price;
mod sequence;
mod texts;

pub use agents::Agent;
pub use blocks::{BLOCK_TOKENS, Blocks, Cleaner, Dirty, Live, blocks_for};
pub use cost::StepCost;
pub use divide::Part;
pub use pass::{Advanced, Clock, GoOn, Pass, PassKind, Underway, reading_ns};
pub use planner::{CannotFit, Ended, Planner, PlannerLimits, Room, Tally};
pub use prefix::BlockHash;
pub use price::{Prices, StepModel, StepWork};
pub use sequence::Arrival;
pub use texts::{Pick, Texts};
