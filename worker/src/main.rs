//! `bulkhead-worker`: started by the launcher with a socket at descriptor 3, as a worker or, with
//! `--template`, as the process that loads a model once and forks its workers; or by hand with
//! `--probe`, to print as JSON which layers of the seal this machine grants.

use bulkhead_kernels::ZeroingAllocator;
use bulkhead_worker::{life, models::Loaded, seal, template};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => life::live(Loaded::start),
        Some("--template") => template::live(Loaded::start),
        Some("--probe") => {
            println!("{}", seal::to_json(&seal::probe()));
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!(
                "bulkhead-worker: {other} is no option. It takes `--probe`, or none when \
                 `bulkhead serve` starts it."
            );
            ExitCode::FAILURE
        }
    }
}
