//! Load: an open loop for whoever is measured, a closed-loop flood for whoever presses, and what
//! their latencies come to.
//!
//! A closed loop waits for each answer before it sends the next request, so it slows down with the
//! server and hides the very waiting that is to be measured. A victim is therefore an open loop: its
//! requests leave on a fixed schedule, and a latency counts from the moment that the schedule named.
//! A flood is a closed loop, since what matters of it is only that there is always more.
//!
//! Nothing here knows what a request holds, and nothing here judges a figure.

mod closed;
mod latency;
mod open;
mod reasons;

pub use closed::{Flood, Served};
pub use latency::{Latency, ms};
pub use open::{OpenLoop, Schedule, open_loop};
pub use reasons::Reasons;
