//! SmolLM2 in a sealed worker process, its counters read off its socket: what a cancelled sequence still
//! costs, what a prefix cache keeps and gives up, and which steps are told of.

mod cancellation;
mod prefix;
mod telling;

#[path = "../support/mod.rs"]
mod support;

#[path = "../models/fixture.rs"]
#[allow(dead_code)] // The tests of models use the rest.
mod fixture;

use aws_lc_rs::digest;
use bulkhead_proto::internal::{
    Assign, Counters, Finished, Load, Step, from_worker::Message as From, to_worker::Message as To,
};
use support::{Worker, model_file, null_load};

/// Keys and values of 16 tokens.
const BLOCK_BYTES: u64 = 737_280;

/// A sealed worker with SmolLM2, and room for some 1,400 tokens.
fn smollm2() -> Worker {
    smollm2_for(Assign::default())
}

/// The same, whose steps have all the time that they need: none leaves a pass on its way, however slow the machine, so
/// that tokens can be counted to the last one.
fn unhurried() -> Worker {
    smollm2_for(Assign {
        step_limit_ns: 3_600_000_000_000,
        ..Assign::default()
    })
}

/// The same, assigned with these settings beside; steps of the usual length where they say nothing.
fn smollm2_for(settings: Assign) -> Worker {
    let file = fixture::files("smollm2", &["model.gguf"]).swap_remove(0);
    let hash = digest::digest(&digest::SHA256, &file.bytes);
    let hex: String = hash.as_ref().iter().map(|x| format!("{x:02x}")).collect();
    let (entry, file) = model_file(&file.name, &file.bytes, &hex, 4);
    let load = Load {
        model: "smollm2".into(),
        format: "gguf".into(),
        threads: fixture::THREADS,
        files: vec![entry],
        ..null_load()
    };
    let mut worker = Worker::load(load, &[file]);
    match worker.receive() {
        Some(From::Ready(_)) => {}
        other => panic!("not ready: {other:?}"),
    }
    let step_limit_ns = match settings.step_limit_ns {
        0 => fixture::STEP_LIMIT_NS,
        ns => ns,
    };
    worker.send(To::Assign(Assign {
        tenant: "acme".into(),
        quota_bytes: 64 << 20,
        step_limit_ns,
        ..settings
    }));
    worker
}

fn next_step(worker: &mut Worker) -> Step {
    match worker.receive() {
        Some(From::Step(step)) => step,
        other => panic!("no step: {other:?}"),
    }
}

fn counters(step: &Step) -> Counters {
    step.counters.expect("every step counts")
}

fn last(steps: &[Step]) -> &Step {
    steps.last().expect("there was a step")
}

fn finished(steps: &[Step], request: u64) -> &Finished {
    let mut all = steps.iter().flat_map(|step| &step.finished);
    let found = all.find(|one| one.request == request);
    found.expect("it was answered")
}

fn text(steps: &[Step], request: u64) -> String {
    let pieces = steps.iter().flat_map(|step| &step.pieces);
    let own = pieces.filter(|piece| piece.request == request);
    own.map(|piece| piece.text.as_str()).collect()
}
