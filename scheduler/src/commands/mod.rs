//! The commands, one file each. Each takes what was typed and ends in an exit code or an error that
//! says what to do next. Whoever needs async makes its own runtime: `serve` must fork before any
//! thread exists, so nothing here starts one for all.

use crate::cli::{Cli, Command};
use std::process::ExitCode;

pub mod agent;
pub mod audit;
pub mod demo;
pub mod doctor;
pub mod embed;
pub mod generate;
pub mod init;
pub mod models;
mod output;
pub mod policy;
pub mod serve;
pub mod tenant;
pub mod token;
pub mod top;

/// How a command ends: an exit code, or what main prints before it exits with 1.
pub type Outcome = Result<ExitCode, Box<dyn std::error::Error + Send + Sync>>;

/// The exit code where the reader of standard output went away, as in `bulkhead audit show | head`:
/// 128 + SIGPIPE, as shells show it for programs that the signal ends.
const READER_GONE: u8 = 141;

/// Runs the command that was typed.
pub fn run(cli: Cli) -> Outcome {
    match dispatch(cli) {
        Err(error) if output::reader_is_gone(error.as_ref()) => Ok(ExitCode::from(READER_GONE)),
        outcome => outcome,
    }
}

fn dispatch(cli: Cli) -> Outcome {
    let globals = &cli.globals;
    match cli.command {
        Command::Demo(args) => demo::run(globals, args),
        Command::Serve(args) => serve::run(globals, args),
        Command::Init => init::run(globals),
        Command::Doctor(args) => doctor::run(globals, args),
        Command::Models(args) => models::run(globals, args),
        Command::Tenant(args) => tenant::run(globals, args),
        Command::Agent(args) => agent::run(globals, args),
        Command::Token(args) => token::run(globals, args),
        Command::Policy(args) => policy::run(globals, args),
        Command::Audit(args) => audit::run(globals, args),
        Command::Embed(args) => embed::run(globals, args),
        Command::Generate(args) => generate::run(globals, args),
        Command::Top(args) => top::run(globals, args),
    }
}

/// What `--batch` asks for.
fn priority(batch: bool) -> bulkhead_proto::v1::Priority {
    match batch {
        true => bulkhead_proto::v1::Priority::Batch,
        false => bulkhead_proto::v1::Priority::Interactive,
    }
}
