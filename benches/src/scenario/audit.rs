//! The audit log under load: the real `bulkhead-audit`, many appenders, each waiting for durability.
//!
//! Beside it, in the same folder and the same run, runs what it is measured against: one write and one
//! fdatasync after the other, with nothing else done. What the log adds to that is encryption, hashing,
//! the trees, the way through the socket, and the wait for the group before.

mod disk;
mod process;

use crate::{Failure, Figure, args, server::beside};
use bulkhead_client::load::Latency;
use process::{Appended, AuditProcess};
use serde::Deserialize;
use std::{
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// What `verify --json` is asked for.
#[derive(Deserialize)]
struct Verified {
    records: u64,
}

/// Runs the scenario.
pub async fn measure(args: &args::Audit) -> Result<Vec<Figure>, Failure> {
    let (seconds, appenders, bytes) = (args.seconds, args.appenders, args.body_bytes as usize);
    let measured = tokio::task::spawn_blocking(move || run(seconds, appenders as usize, bytes));
    measured.await?
}

fn run(seconds: u64, appenders: usize, body_bytes: usize) -> Result<Vec<Figure>, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("bulkhead-bench-audit-")
        .tempdir()?;
    let lasts = Duration::from_secs(seconds);
    // Half before and half after: a disk that changes its pace meets both sides.
    eprintln!("fdatasync alone");
    let mut bare = disk::fdatasync_loop(folder.path(), body_bytes, lasts / 2)?;
    eprintln!("{appenders} appenders");
    let audit = AuditProcess::start(&beside("bulkhead-audit")?, folder.path())?;
    let appended = audit.drive(appenders, body_bytes, lasts)?;
    bare.extend(disk::fdatasync_loop(folder.path(), body_bytes, lasts / 2)?);
    eprintln!("verification");
    let (records, verified_in) = verify(folder.path())?;
    if records < appended.latencies.len() as u64 {
        return Err(format!(
            "{records} records are in the log, {} were acknowledged",
            appended.latencies.len()
        )
        .into());
    }
    Ok(figures(
        appended,
        Latency::of(bare),
        records,
        verified_in,
        appenders,
    ))
}

fn figures(
    appended: Appended,
    bare: Latency,
    records: u64,
    verified_in: Duration,
    appenders: usize,
) -> Vec<Figure> {
    let rate = appended.latencies.len() as f64 / appended.took.as_secs_f64();
    let log = Latency::of(appended.latencies);
    let us = |ms: f64| ms * 1e3;
    vec![
        Figure::higher(
            "append_rps",
            rate,
            "records/s",
            format!("{appenders} appenders, each waits until its record is durable"),
        ),
        Figure::lower(
            "added_p99_vs_fdatasync",
            us(log.p99_ms - bare.p99_ms),
            "µs",
            "p99 of one write and fdatasync of the same size, same disk, same run",
        ),
        Figure::lower(
            "append_p50_us",
            us(log.p50_ms),
            "µs",
            format!("{} records", log.requests),
        ),
        Figure::lower("append_p99_us", us(log.p99_ms), "µs", ""),
        Figure::lower(
            "fdatasync_p50_us",
            us(bare.p50_ms),
            "µs",
            format!("{} writes, one after the other", bare.requests),
        ),
        Figure::lower("fdatasync_p99_us", us(bare.p99_ms), "µs", ""),
        Figure::higher(
            "verify_rps",
            records as f64 / verified_in.as_secs_f64(),
            "records/s",
            format!("`bulkhead-audit verify`, {records} records, start of the process included"),
        ),
    ]
}

/// Verifies the log as an outsider would. Returns how many records it holds, and how long that took.
fn verify(folder: &Path) -> Result<(u64, Duration), Failure> {
    let log = folder.join("log");
    let started = Instant::now();
    let output = Command::new(beside("bulkhead-audit")?)
        .arg("verify")
        .arg("--dir")
        .arg(&log)
        .arg("--key")
        .arg(log.join("public.key"))
        .arg("--json")
        .output()?;
    let took = started.elapsed();
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("the log does not verify: {said}").into());
    }
    let report: Verified = serde_json::from_slice(&output.stdout)?;
    Ok((report.records, took))
}
