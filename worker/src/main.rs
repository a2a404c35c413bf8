//! `bulkhead-worker`: started by the launcher with a socket at descriptor 3, as a worker or, with
//! `--template`, as the process that loads a model once and forks its workers; or by hand with
//! `--probe`, to print as JSON which layers of the seal this machine grants.

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_worker::{models::Loaded, program};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

fn main() -> ExitCode {
    program::run("bulkhead-worker", Loaded::start)
}
