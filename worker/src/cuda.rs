//! `bulkhead-worker-cuda`: the worker for an NVIDIA GPU, started by the launcher where the device is one. The same
//! program as `bulkhead-worker` but for what computes; built, not yet run. It is never a template: a process that
//! holds a GPU cannot fork workers.

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_worker::{models::Loaded, program};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator;

fn main() -> ExitCode {
    program::run("bulkhead-worker-cuda", Loaded::start)
}
