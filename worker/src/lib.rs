//! The sealed worker: one process, one tenant, one model, one device.
//!
//! It reads its model from descriptors that it was given, seals itself so that it can only compute and
//! speak through one socket, is assigned to a tenant for life, and runs that tenant's work while it holds
//! a lease. It never opens a path, a socket or a process, and never serves a second tenant.

pub mod engine;
pub mod evidence;
pub mod inbox;
pub mod keeper;
pub mod life;
pub mod load;
pub mod models;
pub mod process;
pub mod program;
pub mod seal;
pub mod serve;
pub mod template;
