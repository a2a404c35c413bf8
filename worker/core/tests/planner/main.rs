//! The planner against a device that knows what each block holds.

mod device;
mod fairness;
mod rules;
mod world;
