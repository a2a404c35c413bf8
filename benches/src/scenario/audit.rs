//! The audit log under load: the real `bulkhead-audit`, paced for what a record waits, saturated for how
//! many a second become durable.
//!
//! Beside it, in the same folder and the same run, runs what it is measured against: one write and one
//! fdatasync after the other, with nothing else done. What the log adds to that is encryption, hashing,
//! the trees, the way through the socket, and the wait for the group before.

mod disk;
mod process;

use crate::{Failure, Figure, args, server::beside};
use bulkhead_client::load::Latency;
use process::AuditProcess;
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

/// What was measured.
struct Measured {
    append_rps: f64,
    paced: Latency,
    bare: Latency,
    records: u64,
    verified_in: Duration,
}

/// Runs the scenario.
pub async fn measure(args: &args::Audit) -> Result<Vec<Figure>, Failure> {
    let args = args.clone();
    let measured = tokio::task::spawn_blocking(move || {
        let measured = run(&args)?;
        Ok(figures(&args, &measured))
    });
    measured.await?
}

fn run(args: &args::Audit) -> Result<Measured, Failure> {
    let body_bytes = args.body_bytes as usize;
    let folder = tempfile::Builder::new()
        .prefix("bulkhead-bench-audit-")
        .tempdir()?;
    let lasts = Duration::from_secs(args.seconds);
    // Half before and half after: a disk that changes its pace meets both sides.
    eprintln!("fdatasync alone");
    let mut bare = disk::fdatasync_loop(folder.path(), body_bytes, lasts / 2)?;
    let mut audit = AuditProcess::start(&beside("bulkhead-audit")?, folder.path())?;
    eprintln!("{} records a second", args.paced_rps);
    let every = Duration::from_secs(1) / args.paced_rps;
    let paced = audit.paced(every, body_bytes, lasts)?;
    eprintln!("fdatasync alone");
    bare.extend(disk::fdatasync_loop(folder.path(), body_bytes, lasts / 2)?);
    eprintln!("{} appenders", args.appenders);
    let append_rps = audit.saturate(args.appenders.into(), body_bytes, lasts)?;
    let sent = audit.end()?;
    eprintln!("verification");
    let (records, verified_in) = verify(folder.path())?;
    if records < sent {
        return Err(format!("{records} records are in the log, {sent} were acknowledged").into());
    }
    Ok(Measured {
        append_rps,
        paced: Latency::of(paced),
        bare: Latency::of(bare),
        records,
        verified_in,
    })
}

fn figures(args: &args::Audit, m: &Measured) -> Vec<Figure> {
    let us = |ms: f64| ms * 1e3;
    let paced = format!(
        "open loop, {} records/s, {} records",
        args.paced_rps, m.paced.requests
    );
    vec![
        Figure::higher(
            "append_rps",
            m.append_rps,
            "records/s",
            format!(
                "{} appenders, each waits until its record is durable",
                args.appenders
            ),
        ),
        Figure::lower(
            "added_p99_vs_fdatasync",
            us(m.paced.p99_ms - m.bare.p99_ms),
            "µs",
            "append_p99_us less fdatasync_p99_us",
        ),
        Figure::lower("append_p50_us", us(m.paced.p50_ms), "µs", paced),
        Figure::lower("append_p99_us", us(m.paced.p99_ms), "µs", ""),
        Figure::lower(
            "fdatasync_p50_us",
            us(m.bare.p50_ms),
            "µs",
            format!(
                "{} writes of as many bytes, one after the other, same disk, same run",
                m.bare.requests
            ),
        ),
        Figure::lower("fdatasync_p99_us", us(m.bare.p99_ms), "µs", ""),
        Figure::higher(
            "verify_rps",
            m.records as f64 / m.verified_in.as_secs_f64(),
            "records/s",
            format!(
                "`bulkhead-audit verify`, {} records, start of the process included",
                m.records
            ),
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
