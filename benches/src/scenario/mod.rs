//! The scenarios. Each starts what it measures, measures it, and returns figures.

pub mod audit;
pub mod canary;
pub mod engine;
pub mod noisy;
pub mod overhead;
pub mod scrub;
pub mod sim;
mod svg;
pub mod weights;
