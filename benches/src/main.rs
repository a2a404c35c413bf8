//! `bulkhead-bench`: runs a scenario against the real programs and prints what it measured.
//!
//! Each scenario starts what it measures by itself, from the programs beside this one, in a temporary
//! folder, and ends it again. A figure that cannot be measured honestly on this machine is an error or
//! is missing from the result; none is ever made up, and none is compared with a number from elsewhere:
//! what a figure is compared with ran in the same run, or is named as not compared.

mod again;
mod args;
mod bare;
mod device;
mod machine;
mod peer;
mod process;
mod report;
mod scenario;
mod server;
mod span;
mod waiting;
mod workload;

use args::{Args, Scenario};
use bulkhead_kernels::ZeroingAllocator;
use clap::Parser as _;
use machine::Machine;
use report::{Figure, Report};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The workers' own, so that an engine in this process costs what it costs in theirs.
#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

/// Why a scenario gave no result; its text says what to do.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let args = Args::parse();
    match &args.scenario {
        Scenario::Echo(echo) => return serve(scenario::overhead::echo::live(&echo.tls)),
        Scenario::Open => return serve(scenario::scrub::open::live(&args.server)),
        _ => {}
    }
    match run(&args) {
        Ok(report) => match report.print(args.json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(&error.into()),
        },
        Err(failure) => fail(&failure),
    }
}

/// Lives the life of a server that a scenario compares with, and that measures nothing itself.
fn serve(life: impl Future<Output = Result<(), Failure>>) -> ExitCode {
    let lived = again::end_with_parent().and_then(|()| {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(life)
    });
    match lived {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(&failure),
    }
}

fn fail(failure: &Failure) -> ExitCode {
    eprintln!("bulkhead-bench: {failure}");
    ExitCode::FAILURE
}

fn run(args: &Args) -> Result<Report, Failure> {
    if cfg!(debug_assertions) {
        eprintln!(
            "note: this is a development build; measure with `cargo build --release` for figures to keep"
        );
    }
    let machine = Machine::this();
    if machine.busy() {
        eprintln!(
            "note: other programs keep this machine busy (load {}): figures tell of them too",
            machine.load_before
        );
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let results = runtime.block_on(async {
        let mut terminated = signal(SignalKind::terminate())?;
        // What a scenario started ends when the scenario is dropped.
        tokio::select! {
            results = measure(args) => results,
            _ = tokio::signal::ctrl_c() => Err("interrupted; what was started was ended".into()),
            _ = terminated.recv() => Err("terminated; what was started was ended".into()),
        }
    })?;
    Ok(Report::of(args.scenario.name(), machine, results))
}

async fn measure(args: &Args) -> Result<Vec<Figure>, Failure> {
    let device = device::find(&args.device)?;
    match &args.scenario {
        Scenario::Scrub(scrub) => scenario::scrub::measure(&device, scrub, &args.server).await,
        Scenario::Noisy(noisy) => {
            device.must_be_cpu()?;
            scenario::noisy::measure(noisy, &args.server).await
        }
        Scenario::Engine(engine) => {
            device.must_be_cpu()?;
            scenario::engine::measure(engine, &args.server).await
        }
        Scenario::Audit(audit) => {
            device.must_be_cpu()?;
            scenario::audit::measure(audit).await
        }
        Scenario::Weights(weights) => {
            device.must_be_cpu()?;
            scenario::weights::measure(weights, &args.server).await
        }
        Scenario::Sim(sim) => {
            device.must_be_cpu()?;
            scenario::sim::measure(sim)
        }
        Scenario::Overhead(overhead) => {
            device.must_be_cpu()?;
            scenario::overhead::measure(overhead, &args.server).await
        }
        Scenario::Canary(canary) => {
            device.must_be_cpu()?;
            scenario::canary::measure(canary, &args.server).await
        }
        Scenario::Echo(_) | Scenario::Open => Err("this one measures nothing".into()),
    }
}
