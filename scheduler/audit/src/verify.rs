//! The offline verifier: says whether a log is what was signed, with the public key alone.
//!
//! It walks every byte of the journal, rebuilds every tree and compares it with every checkpoint: those
//! inside the journal, those signed beside it, and those that somebody kept from earlier. Editing,
//! deleting, inserting and reordering show against the log's own checkpoints; cutting off the end
//! together with those shows against a checkpoint that was kept elsewhere.
//!
//! It needs no secret, changes nothing, and works on a log that is being written: records younger than
//! the last checkpoint (a second) are then counted as not yet covered.

mod notes;
#[cfg(test)]
mod tests;

use crate::checkpoint::{log_origin, tree_name};
use crate::entry;
use crate::journal::{JournalError, Place, Walk};
use crate::note::{NoteError, VerifierKey, hex};
use crate::replay::{Counts, Replay, Violation};
use notes::Notes;
use std::path::{Path, PathBuf};

/// Why a log does not verify. Unless it is `Read` or `NoLog`, the log is not what was signed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// There is no journal.
    #[error("{0} holds no audit log: give the folder that the audit process writes")]
    NoLog(PathBuf),
    /// A file could not be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The journal cannot be read, or its bytes are damaged.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal's own contents contradict each other or their checkpoints.
    #[error("the log was altered at {place}: {violation}")]
    Altered {
        /// Where.
        place: Place,
        /// How.
        violation: Violation,
    },
    /// The key is of another log.
    #[error("this is log {found}, the key is that of {expected}")]
    OtherLog {
        /// The key's log.
        expected: String,
        /// The log's own name.
        found: String,
    },
    /// A signed checkpoint is missing.
    #[error("{0} is missing: without it nothing says how long the log has to be")]
    NoCheckpoint(PathBuf),
    /// A checkpoint is not what this key signed.
    #[error("checkpoint {name}: {error}")]
    Checkpoint {
        /// The file, or which of the earlier ones.
        name: String,
        /// What is wrong with it.
        error: NoteError,
    },
    /// The log has less than a checkpoint says.
    #[error(
        "the log was cut or rolled back: checkpoint {name} covers {size} leaves, {found} are there{tail}"
    )]
    Truncated {
        /// Which checkpoint.
        name: String,
        /// Leaves that it covers.
        size: u64,
        /// Leaves that are there.
        found: u64,
        /// Where unreadable bytes begin, if there are any.
        tail: String,
    },
    /// The log has other records than those that a checkpoint covers.
    #[error(
        "the first {size} leaves are not those that checkpoint {name} covers: the log was rewritten"
    )]
    Inconsistent {
        /// Which checkpoint.
        name: String,
        /// Leaves that it covers.
        size: u64,
    },
    /// A log that was closed in good order has something after its end.
    #[error("the log was closed in good order, yet {what}")]
    NotClosed {
        /// What does not fit.
        what: String,
    },
    /// A request has two ends, an end without a beginning, or two beginnings. Intact but not honest.
    #[error(
        "{count} records of requests do not add up, the first at tenant {tenant:?} leaf {leaf}"
    )]
    Unmatched {
        /// How many.
        count: u64,
        /// Tenant of the first.
        tenant: String,
        /// Leaf of the first.
        leaf: u64,
    },
}

/// One tenant's part of a verified log.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TenantReport {
    /// The tenant; `_system` for the system's own records.
    pub tenant: String,
    /// Records in its tree.
    pub records: u64,
    /// The root over them, hexadecimal.
    pub root: String,
}

/// What was verified.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The log's name.
    pub log: String,
    /// Records of all tenants.
    pub records: u64,
    /// Of which no checkpoint inside the journal covers these yet: the last second of a live log.
    pub uncovered_records: u64,
    /// Leaves of the tree over all checkpoints.
    pub checkpoints: u64,
    /// Earlier checkpoints that were given and hold.
    pub earlier_checkpoints: u64,
    /// Whether the log was closed in good order; else it is live, or its process died.
    pub closed: bool,
    /// Bytes of a group that is being written or was torn by a crash; never acknowledged to anybody.
    pub unfinished_bytes: u64,
    /// Requests that are admitted and have not ended.
    pub open_requests: u64,
    /// Requests by their beginnings and ends.
    pub requests: Counts,
    /// Segments of the journal.
    pub segments: u64,
    /// Each tenant, by name.
    pub tenants: Vec<TenantReport>,
}

/// Verifies a log with its public key, and with signed checkpoints that were kept from earlier.
pub fn verify(
    log_dir: &Path,
    key: &VerifierKey,
    earlier: &[String],
) -> Result<Report, VerifyError> {
    match look(log_dir, key, Notes::load(log_dir, key, earlier)?, earlier) {
        // It may have been closed between the look at its checkpoints and that at its records. Once it is, both stay.
        Err(VerifyError::NotClosed { .. }) => {
            look(log_dir, key, Notes::load(log_dir, key, earlier)?, earlier)
        }
        other => other,
    }
}

/// Holds a log against its checkpoints, which were read before: a live one can only have more than they say by the time
/// it is walked.
fn look(
    log_dir: &Path,
    key: &VerifierKey,
    mut notes: Notes,
    earlier: &[String],
) -> Result<Report, VerifyError> {
    let mut walk = Walk::begin(log_dir)?.ok_or_else(|| VerifyError::NoLog(log_dir.to_owned()))?;
    let found = log_origin(&walk.end().log_id);
    if found != key.name() {
        return Err(VerifyError::OtherLog {
            expected: key.name().to_owned(),
            found,
        });
    }
    let mut replay = Replay::default();
    notes.compare(&replay, "")?;
    while let Some((place, entries, payload)) = walk.next()? {
        apply_group(place, entries, &payload, &mut replay, &mut notes)?;
    }
    let tail_bytes = walk.end().tail_bytes;
    let end = Place {
        segment: walk.end().segment,
        offset: walk.end().offset,
    };
    notes.finish(&replay, (tail_bytes > 0).then_some(end))?;
    let closed = replay.closed && is_closed(&replay, &notes, tail_bytes, end)?;
    if let Some((tenant, leaf)) = replay.first_unmatched {
        return Err(VerifyError::Unmatched {
            count: replay.counts.unmatched,
            tenant,
            leaf,
        });
    }
    Ok(report(key, &replay, &walk, closed, earlier.len()))
}

fn apply_group(
    place: Place,
    entries: u32,
    payload: &[u8],
    replay: &mut Replay,
    notes: &mut Notes,
) -> Result<(), VerifyError> {
    let altered = |violation| VerifyError::Altered { place, violation };
    let mut rest = payload;
    for _ in 0..entries {
        let (whole, after) = entry::split(rest).map_err(|e| altered(e.into()))?;
        let applied = replay.apply(whole).map_err(altered)?;
        match applied {
            Some(record) => notes.compare(replay, tree_name(&record.header.tenant))?,
            None => notes.compare(replay, "")?,
        }
        rest = after;
    }
    if rest.is_empty() {
        return Ok(());
    }
    Err(altered(Violation::Unreadable(
        "a group holds more than it states".into(),
    )))
}

/// Whether a log that says that it ended did: its end is signed, and covers all. False where everything but the end is
/// signed: its process was killed in between, or somebody else wrote that it ended.
fn is_closed(replay: &Replay, notes: &Notes, tail: u64, end: Place) -> Result<bool, VerifyError> {
    let not_closed = |what| Err(VerifyError::NotClosed { what });
    if tail > 0 {
        return not_closed(format!("{tail} bytes follow its end at {end}"));
    }
    for (tenant, tree) in &replay.tenants {
        let name = tree_name(tenant);
        let newest = notes.own_size(name);
        if newest != Some(tree.size()) {
            return not_closed(format!(
                "the signed checkpoint of {name} is not the last: it covers {newest:?}"
            ));
        }
    }
    // The end is the last leaf.
    let (newest, all) = (notes.own_size(""), replay.global.size());
    match newest {
        Some(covered) if covered == all => Ok(true),
        Some(covered) if covered + 1 == all => Ok(false),
        _ => not_closed(format!(
            "its signed checkpoint is not the last: it covers {newest:?} leaves"
        )),
    }
}

fn report(key: &VerifierKey, replay: &Replay, walk: &Walk, closed: bool, earlier: usize) -> Report {
    let tenants = replay.tenants.iter().map(|(tenant, tree)| TenantReport {
        tenant: tree_name(tenant).to_owned(),
        records: tree.size(),
        root: hex(&tree.root()),
    });
    Report {
        log: key.name().to_owned(),
        records: replay.records,
        uncovered_records: replay.records - replay.covered_records,
        checkpoints: replay.global.size(),
        earlier_checkpoints: earlier as u64,
        closed,
        unfinished_bytes: walk.end().tail_bytes,
        open_requests: replay.open.len() as u64,
        requests: replay.counts,
        segments: walk.end().segment,
        tenants: tenants.collect(),
    }
}

/// A count and its noun, in the plural where that is due.
fn counted(count: u64, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Counts {
            admitted,
            completed,
            abandoned,
            ..
        } = self.requests;
        writeln!(out, "{} verifies", self.log)?;
        writeln!(
            out,
            "  records      {} in {}",
            self.records,
            counted(self.segments, "segment")
        )?;
        writeln!(
            out,
            "  requests     {admitted} admitted, {completed} completed, {abandoned} abandoned, {} open",
            self.open_requests
        )?;
        let earlier = self.earlier_checkpoints;
        writeln!(
            out,
            "  checkpoints  {} in the log; {}",
            self.checkpoints,
            match earlier {
                0 => "no earlier one was given to hold it against".to_owned(),
                n => format!("{n} kept from earlier, which the log matches"),
            }
        )?;
        if self.closed {
            writeln!(
                out,
                "  state        closed in good order, every record covered"
            )?;
        } else {
            let (records, bytes) = (self.uncovered_records, self.unfinished_bytes);
            writeln!(
                out,
                "  state        live or interrupted: {} not covered yet, {} unfinished",
                counted(records, "record"),
                counted(bytes, "byte")
            )?;
        }
        for TenantReport {
            tenant,
            records,
            root,
        } in &self.tenants
        {
            let noun = if *records == 1 { "record " } else { "records" };
            writeln!(out, "  {tenant:<24} {records:>10} {noun}  root {root}")?;
        }
        Ok(())
    }
}
