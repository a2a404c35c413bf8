//! `bulkhead-audit`: writes the audit log (`serve`), and verifies one (`verify`).
//!
//! `serve` is started by the launcher with one end of a socket pair, and ends with it. `verify` is for
//! anybody who has a copy of a log and its public key; it needs nothing else of Bulkhead.

mod process;

use bulkhead_audit::log::Options;
use bulkhead_audit::note::VerifierKey;
use bulkhead_audit::{journal, serve, verify};
use clap::{Parser, Subcommand};
use std::fs;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

type Error = Box<dyn std::error::Error>;

/// The tamper-evident audit log of Bulkhead.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a log for the scheduler at the other end of an inherited socket.
    Serve {
        /// Folder of the log; made if it is not there.
        #[arg(long)]
        dir: PathBuf,
        /// Folder of the log's keys, outside the log's folder; made if it is not there.
        #[arg(long)]
        keys: PathBuf,
        /// Number of the inherited socket.
        #[arg(long, default_value_t = 3)]
        socket_fd: RawFd,
        /// Bytes that the log's folder may take. Requests are refused when it is full.
        #[arg(long)]
        max_bytes: Option<u64>,
        /// Bytes of each new segment of the journal.
        #[arg(long, default_value_t = journal::SEGMENT_BYTES)]
        segment_bytes: u64,
    },
    /// Verify a log with its public key. Exits with 0 only if it is what was signed.
    Verify {
        /// Folder of the log.
        #[arg(long)]
        dir: PathBuf,
        /// The public key: a file or the key itself. Take it from where you trust it, not from the log.
        #[arg(long)]
        key: String,
        /// A checkpoint that you kept from earlier. May be given several times.
        #[arg(long)]
        checkpoint: Vec<PathBuf>,
        /// Print the report as JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve {
            dir,
            keys,
            socket_fd,
            max_bytes,
            segment_bytes,
        } => run_serve(
            Options {
                dir,
                keys_dir: keys,
                segment_bytes,
                bytes_max: max_bytes,
            },
            socket_fd,
        ),
        Command::Verify {
            dir,
            key,
            checkpoint,
            json,
        } => run_verify(&dir, &key, &checkpoint, json),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bulkhead-audit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run_serve(options: Options, socket_fd: RawFd) -> Result<(), Error> {
    let socket = process::inherited_socket(socket_fd)?;
    process::harden()?;
    let (inputs, received) = serve::channel();
    process::forward_termination(inputs.clone())?;
    serve::spawn_reader(socket.try_clone()?, inputs)?;
    Ok(serve::run(options, socket, &received)?)
}

fn run_verify(dir: &Path, key: &str, checkpoints: &[PathBuf], json: bool) -> Result<(), Error> {
    let key = match fs::read_to_string(key) {
        Ok(text) => VerifierKey::parse(&text)?,
        Err(_) => VerifierKey::parse(key).map_err(|e| format!("{key} is no file, and {e}"))?,
    };
    let earlier = checkpoints
        .iter()
        .map(|path| fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display())))
        .collect::<Result<Vec<_>, _>>()?;
    let report = verify::verify(dir, &key, &earlier)?;
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
