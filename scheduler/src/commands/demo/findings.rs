//! All that the demo found, as `--json` prints it, and whether each promise held.

use super::{
    evidence::Totals,
    neighbour::Neighbour,
    preparation::Seal,
    revocation::Revocation,
    talk::{Answer, Similarity},
};
use crate::{client::load::Latency, commands::output};
use bulkhead_audit::verify::Report;
use serde::Serialize;

/// The figures of a whole run.
#[derive(Debug, Serialize)]
pub struct Findings {
    pub version: &'static str,
    /// True where this machine refuses a layer of the seal that servers demand by default.
    pub reduced: bool,
    pub seal: Vec<String>,
    pub seal_missing: Vec<String>,
    pub ready_ms: f64,
    pub similarity: Similarity,
    pub answer: Answer,
    pub neighbour: Neighbour,
    pub revocation: Revocation,
    pub memory: Totals,
    pub audit: Report,
    pub seconds: f64,
    pub checks: Vec<Check>,
    pub ok: bool,
}

/// A promise, and whether it held.
#[derive(Debug, Serialize)]
pub struct Check {
    pub promise: &'static str,
    pub held: bool,
    pub shown_by: String,
}

/// What the steps found, before it is judged.
pub struct Steps {
    pub seal: Seal,
    /// Layers that every worker of the run reported.
    pub worker_seal: Vec<String>,
    pub ready_ms: f64,
    pub similarity: Similarity,
    pub answer: Answer,
    pub neighbour: Neighbour,
    pub revocation: Revocation,
    pub memory: Totals,
    pub audit: Report,
    pub seconds: f64,
}

impl Findings {
    /// Judges a run.
    pub fn of(steps: Steps) -> Findings {
        let checks = checks(&steps);
        Findings {
            version: env!("CARGO_PKG_VERSION"),
            reduced: !steps.seal.missing.is_empty(),
            seal: steps.worker_seal,
            seal_missing: steps.seal.missing,
            ready_ms: steps.ready_ms,
            similarity: steps.similarity,
            answer: steps.answer,
            neighbour: steps.neighbour,
            revocation: steps.revocation,
            memory: steps.memory,
            audit: steps.audit,
            seconds: steps.seconds,
            ok: checks.iter().all(|check| check.held),
            checks,
        }
    }

    /// The closing table.
    pub fn table(&self) -> String {
        let rows = self.checks.iter().map(|check| {
            vec![
                check.promise.to_owned(),
                if check.held { "held" } else { "NOT HELD" }.to_owned(),
                check.shown_by.clone(),
            ]
        });
        output::table(&["promise", "", "shown by"], rows)
    }
}

fn checks(steps: &Steps) -> Vec<Check> {
    vec![
        sealed(steps),
        Check {
            promise: "real models",
            held: steps.similarity.real() && steps.answer.streamed(),
            shown_by: format!(
                "cosine {:.2} for the same meaning, {:.2} for another; {} tokens streamed",
                steps.similarity.same_meaning,
                steps.similarity.other_subject,
                steps.answer.output_tokens
            ),
        },
        fair(&steps.neighbour),
        Check {
            promise: "revocation",
            held: steps.revocation.held(),
            shown_by: format!(
                "stream ended in {:.0} ms; then {}",
                steps.revocation.stream_ended_ms, steps.revocation.next_reason
            ),
        },
        clean(&steps.memory),
        accountable(steps),
    ]
}

fn sealed(steps: &Steps) -> Check {
    let unsealed: Vec<String> = steps
        .seal
        .granted
        .iter()
        .filter(|layer| !steps.worker_seal.contains(layer))
        .cloned()
        .collect();
    let shown_by = match (unsealed.is_empty(), steps.seal.missing.is_empty()) {
        (false, _) => format!("workers ran without {}", unsealed.join(", ")),
        (true, true) => format!("{} layers on every worker", steps.worker_seal.len()),
        (true, false) => format!(
            "REDUCED: this machine refuses {}",
            steps.seal.missing.join(", ")
        ),
    };
    Check {
        promise: "sealed workers",
        held: unsealed.is_empty(),
        shown_by,
    }
}

fn fair(neighbour: &Neighbour) -> Check {
    let Latency { p50_ms, p99_ms, .. } = neighbour.beside;
    Check {
        promise: "fair share",
        held: neighbour.isolated(),
        shown_by: format!(
            "p50 {p50_ms:.0}, p99 {p99_ms:.0} ms beside the flood, bound {:.0} ms (alone {:.0}, {:.0})",
            neighbour.p99_bound_ms(),
            neighbour.alone.p50_ms,
            neighbour.alone.p99_ms
        ),
    }
}

fn clean(memory: &Totals) -> Check {
    Check {
        promise: "clean memory",
        held: memory.clean(),
        shown_by: format!(
            "{} zeroed, {} read back, residue {} B",
            output::bytes(memory.bytes_zeroed),
            output::bytes(memory.bytes_verified),
            memory.residue_bytes
        ),
    }
}

/// Every answer that was seen has its two records, and the log is whole.
fn accountable(steps: &Steps) -> Check {
    let report = &steps.audit;
    let enough = report.requests.admitted >= steps.memory.answers
        && report.requests.completed >= steps.memory.answers;
    Check {
        promise: "accountable",
        held: enough && report.requests.abandoned == 0,
        shown_by: format!(
            "{} records verified; {} requests admitted, {} ended",
            output::grouped(report.records),
            output::grouped(report.requests.admitted),
            output::grouped(report.requests.completed)
        ),
    }
}
