//! A simulator of published fair scheduling, to compare our own with.
//!
//! It replays a [`Workload`] on an [`Engine`] model whose batch all tenants share, under one of the
//! [`Policy`]s that the VTC paper compares ("Fairness in Serving Large Language Models", OSDI 2024),
//! and computes that paper's metric ([`Row`]). Bulkhead's own order among the agents of one tenant stands beside
//! them ([`Ours`]); and the same workload where no batch holds two tenants, under the core itself ([`run_pure`]). Time is virtual and counted in whole nanoseconds; the same workload gives the same outcome, bit
//! for bit. No clock, no input or output, no threads: printing is for others.

mod cost;
mod draw;
mod engine;
mod metric;
mod policy;
mod pool;
mod pure;
mod shared;
pub mod workload;

pub use cost::{INPUT_PRICE, OUTPUT_PRICE, cost};
pub use draw::Draw;
pub use engine::Engine;
pub use metric::{Row, diffs, ttft_p99};
pub use policy::{Fcfs, Ours, Policy, Request, Rpm, Verdict, Vtc};
pub use pool::{Claim, peak_tokens};
pub use pure::{PureOutcome, Turns, run_pure};
pub use shared::{Outcome, Served, run};
pub use workload::{Arrival, Workload};
