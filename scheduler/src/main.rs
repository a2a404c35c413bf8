//! `bulkhead`: the server and the command line in one binary.
//!
//! Nothing is decided here: parse what was typed, run it, say what went wrong. No thread exists
//! when a command starts, which `serve` relies on.

mod cli;
mod commands;
mod config;
mod hub;
mod launcher;
mod models;
mod server;
mod tls;

use bulkhead_client as client;
use bulkhead_kernels::ZeroingAllocator;
use clap::Parser;
use mimalloc::MiMalloc;
use std::{io::IsTerminal, process::ExitCode};

/// Prompts and tokens pass through here too: what is freed is zeroed. `serve` switches that off where
/// the configuration says so.
#[global_allocator]
static ALLOCATOR: ZeroingAllocator<MiMalloc> = ZeroingAllocator::over(MiMalloc);

fn main() -> ExitCode {
    let cli = cli::Cli::parse();
    log_to_stderr();
    match commands::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bulkhead: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error, filtered by `BULKHEAD_LOG`. Prompts and tokens are never logged.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BULKHEAD_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // What cannot be written is lost: to say so on the same way would be a panic.
        .log_internal_errors(false)
        .init();
}
