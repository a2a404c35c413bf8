//! In the place of `bulkhead-worker-cuda` where there is no GPU: started, restricted and sealed as a worker on a GPU is,
//! with a driver of pretend, and the engine of a worker that was taken over. It computes on the processor, and nothing
//! that it shows is of a GPU.

mod attempts;
mod engine;

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_proto::internal::Load;
use bulkhead_worker::models::{LoadError, On};
use bulkhead_worker::program;
use std::fs::{self, File};
use std::process::ExitCode;
use std::thread;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

fn main() -> ExitCode {
    program::run_on_gpu("bulkhead-worker-cuda", open, engine::start)
}

/// What a driver does, as far as the seal can tell: reads what it was told, looks things up, and makes a thread that
/// stays.
fn open(load: &Load) -> Result<On, LoadError> {
    let failed = |cause: String| LoadError::Device { cause };
    let visible = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    if load.device != "cuda:0" || load.gpu_minor.is_none() || !visible.starts_with("GPU-") {
        let (device, minor) = (&load.device, load.gpu_minor);
        return Err(failed(format!("told of {device}, {minor:?}, {visible:?}")));
    }
    let looked_up = fs::read_to_string("/proc/self/status").map(drop);
    looked_up.map_err(|error| failed(format!("its own process cannot be looked up: {error}")))?;
    if File::open("/etc/passwd").is_ok() {
        return Err(failed("any file can be read while it is opened".to_owned()));
    }
    let stays = thread::Builder::new().spawn(thread::park);
    stays.map_err(|error| failed(error.to_string()))?;
    Ok(On::Processor)
}
