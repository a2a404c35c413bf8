//! The command line: what can be typed, with its bounds.

use crate::scenario::noisy::{Aggressor, Victim};
use clap::{Args as Group, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Measures Bulkhead: each scenario runs the real programs and prints figures.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead-bench",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "The programs bulkhead, bulkhead-worker, bulkhead-audit and bulkhead-gpus must lie beside this one:
  cargo build --release --workspace && ./target/release/bulkhead-bench noisy"
)]
pub struct Args {
    #[command(subcommand)]
    pub scenario: Scenario,
    /// Print one JSON object on standard output, and the table on standard error
    #[arg(long, global = true)]
    pub json: bool,
    /// What to measure: cpu or cuda:N
    #[arg(long, global = true, default_value = "cpu")]
    pub device: String,
    #[command(flatten)]
    pub server: ServerArgs,
}

/// How servers are started.
#[derive(Clone, Debug, Group)]
pub struct ServerArgs {
    /// Folder of the models [default: where `bulkhead models pull` puts them]
    #[arg(long, global = true, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// A line of the server's configuration, such as scheduling.quantum_ms=20; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    pub settings: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub enum Scenario {
    /// A tenant's latency alone, and beside neighbours of seven kinds, under ours and first come, first served
    Noisy(Noisy),
    /// Texts and tokens a second: the bare engine, beside PyTorch and llama.cpp, and through the server
    Engine(Engine),
    /// Zeroing and reading back: speed beside memset and memchr, and the price for a busy server
    Scrub(Scrub),
    /// Durable records a second, and what they add to a bare fdatasync
    Audit(Audit),
    /// Many tenants on one model, with one copy of its weights and with one each: memory and starts
    Weights(Weights),
    /// The published table of fair scheduling, with our row beside it, in virtual time
    Sim(Sim),
    /// What a request passes through with nothing to compute, beside a bare tonic echo
    Overhead(Overhead),
    /// What of a prompt and its answer lies in a server's memory afterwards, beside llama.cpp's server
    Canary(Canary),
    /// The echo of `overhead`
    #[command(hide = true)]
    Echo(Echo),
    /// The unprotected server of `scrub`
    #[command(hide = true)]
    Open,
}

impl Scenario {
    /// The name in results.
    pub fn name(&self) -> &'static str {
        match self {
            Scenario::Noisy(_) => "noisy",
            Scenario::Engine(_) => "engine",
            Scenario::Scrub(_) => "scrub",
            Scenario::Audit(_) => "audit",
            Scenario::Weights(_) => "weights",
            Scenario::Sim(_) => "sim",
            Scenario::Overhead(_) => "overhead",
            Scenario::Canary(_) => "canary",
            Scenario::Echo(_) => "echo",
            Scenario::Open => "open",
        }
    }
}

#[derive(Debug, Group)]
pub struct Noisy {
    /// How long the victim is measured alone, under ours and under first come, first served, for each aggressor
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub seconds: u64,
    /// The victim's schedule: one text each, milliseconds
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub every_ms: u64,
    /// The same of the victim that generates: one answer each, milliseconds
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    pub answer_every_ms: u64,
    /// Only these aggressors, with commas between them [default: all]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub aggressors: Vec<Aggressor>,
    /// Only these victims [default: both]
    #[arg(long, value_enum, value_delimiter = ',', value_name = "NAME")]
    pub victims: Vec<Victim>,
    /// Draw the ratios to alone into this file, SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
    /// The flood's connections
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub connections: u32,
    /// The flood's requests outstanding on each connection
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub outstanding: u32,
    /// Texts in each of the flood's requests
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=512))]
    pub texts: u32,
}

#[derive(Debug, Group)]
pub struct Engine {
    /// How often each figure is measured, in turns with what it is compared with
    #[arg(long, default_value_t = 9, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    #[command(flatten)]
    pub peers: PeersArgs,
    /// Measure this part alone
    #[arg(long, value_name = "PART")]
    pub only: Option<Part>,
    /// About how long the prompt is that is read beside a neighbour, tokens
    #[arg(long, default_value_t = 8000, value_parser = clap::value_parser!(u32).range(100..=8000))]
    pub prompt_tokens: u32,
}

/// What is compared with.
#[derive(Debug, Group)]
pub struct PeersArgs {
    /// A Python with PyTorch and llama.cpp [default: what benches/peers/setup installs]
    #[arg(long, value_name = "PROGRAM")]
    pub peers: Option<PathBuf>,
    /// Leave PyTorch and llama.cpp out
    #[arg(long, conflicts_with = "peers")]
    pub no_peers: bool,
}

/// A part of the engine's scenario that can be measured by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Embeddings: bare, beside PyTorch, and through the server
    Embeddings,
    /// Whether steps keep their limit while a long prompt is read beside a neighbour that decodes
    Steps,
    /// What the prefix cache gains a tenant, and whether it tells another anything
    Prefix,
}

#[derive(Debug, Group)]
pub struct Scrub {
    /// How often the engine takes turns with zeroing and without
    #[arg(long, default_value_t = 101, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub turns: u32,
    /// Sets of servers: with every protection, without zeroing, and without any
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub sets: u32,
    /// How often those of a set take turns
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Size of the buffer that is filled and read back, MiB
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub mib: u32,
    /// Measure the kernels alone, without a server
    #[arg(long)]
    pub kernels_only: bool,
}

#[derive(Clone, Debug, Group)]
pub struct Audit {
    /// How long each figure is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=120))]
    pub seconds: u64,
    /// Records a second, on a fixed schedule, of which the latency is measured
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub paced_rps: u32,
    /// Appenders at a time, each waiting until its record is durable
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub appenders: u32,
    /// Bytes of each record's content
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub body_bytes: u32,
}

#[derive(Clone, Debug, Group)]
pub struct Weights {
    /// Tenants, each with a worker of its own
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=64))]
    pub tenants: u32,
    /// Requests of each tenant between the two looks at its worker's memory
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub requests: u32,
}

#[derive(Debug, Group)]
pub struct Sim {
    /// Runs of the arena trace with arrivals moved by up to a second, beside that of it as it is; a tenth as many of Azure's
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub runs: u64,
    /// Draw what turns of several lengths come to into this file, SVG
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub struct Overhead {
    /// Requests a second, on a fixed schedule, of which the latency is measured
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rps: u32,
    /// How long each figure is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: u64,
    /// Agents, each with a connection of its own
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub agents: u32,
    /// Tenants that they are of
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub tenants: u32,
    /// Requests under way where there are as many as there can be
    #[arg(long, default_value_t = 800, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub outstanding: u32,
}

#[derive(Debug, Group)]
pub struct Echo {
    /// Folder of its certificate and key
    pub tls: PathBuf,
}

#[derive(Debug, Group)]
pub struct Canary {
    /// Jobs with a canary each, every one on a fresh server
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub jobs: u32,
    #[command(flatten)]
    pub peers: PeersArgs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn options_may_follow_the_scenario() {
        let args = Args::parse_from(["bulkhead-bench", "noisy", "--json", "--seconds", "3"]);
        assert!(args.json && args.scenario.name() == "noisy");
        assert!(Args::try_parse_from(["bulkhead-bench", "noisy", "--seconds", "0"]).is_err());
        let some = ["bulkhead-bench", "noisy", "--aggressors", "flood,cancel"];
        let Scenario::Noisy(noisy) = Args::parse_from(some).scenario else {
            panic!("another scenario");
        };
        assert_eq!(noisy.aggressors, [Aggressor::Flood, Aggressor::Cancel]);
    }
}
