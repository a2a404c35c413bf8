//! What both programs are: a worker on a socket, a template, or a probe of the seal.

use crate::models::Loaded;
use crate::{life, seal, template};
use std::process::ExitCode;

/// Does what the command line says. `name` is the program's.
pub fn run(name: &str) -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None => life::live(Loaded::start),
        Some("--template") => template::live(Loaded::start),
        Some("--probe") => {
            println!("{}", seal::to_json(&seal::probe()));
            ExitCode::SUCCESS
        }
        Some(other) => {
            eprintln!(
                "{name}: {other} is no option. It takes `--probe`, or none when `bulkhead serve` starts it."
            );
            ExitCode::FAILURE
        }
    }
}
