//! A worker that was taken over: the real program, sealed the real way, but for what it does once it is given a text
//! that starts with "attempt". Every other text it serves honestly.
//!
//! It is a program of the tests alone, and nothing that is installed depends on it.

mod attempts;
mod engine;

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_worker::program;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

fn main() -> ExitCode {
    program::run("bulkhead-worker", engine::start)
}
