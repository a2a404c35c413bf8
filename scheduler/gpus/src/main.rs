//! `bulkhead-gpus`: tells the scheduler how the GPUs are, until the scheduler has gone.
//!
//! Started by the launcher with one end of a connection as descriptor 3 and nothing else. Where there are no
//! GPUs it says so and ends.

use bulkhead_gpus::{process, watch};
use bulkhead_kernels::device::Library;
use std::{os::fd::OwnedFd, process::ExitCode};

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead-gpus: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Succeeds only where there is nothing to watch: then nobody has to be started again.
fn run() -> std::io::Result<ExitCode> {
    let connection = process::start()?;
    let watched = |library: &Library| match library.source() {
        Ok(mut source) => watch::watch(&mut source, &connection).map(|()| ExitCode::FAILURE),
        Err(reason) => absent(reason, &connection),
    };
    match Library::open() {
        Ok(library) => watched(&library),
        Err(reason) => absent(reason, &connection),
    }
}

fn absent(reason: String, connection: &OwnedFd) -> std::io::Result<ExitCode> {
    watch::absent(reason, connection).map(|()| ExitCode::SUCCESS)
}
