//! `bulkhead-worker-cuda`: the worker for an NVIDIA GPU, started by the launcher where the device is one. The same
//! program as `bulkhead-worker` but for what computes, and for the seal, which lets it open its GPU first; built, not yet
//! run.

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_worker::models::{Loaded, On};
use bulkhead_worker::program;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

fn main() -> ExitCode {
    program::run_on_gpu("bulkhead-worker-cuda", On::gpu, Loaded::start)
}
