//! The journal: segments of fixed, preallocated size, filled with groups, one sync per group.
//!
//! Groups start on sector boundaries, so writing one never touches a sector that holds a durable one.
//! Each carries its number, the checksum of the group before it and its own, so damage, gaps and
//! reordering show without any key; forging is what the trees and signatures are for. At most one
//! group can be torn by a crash, always the last; anything else that does not fit is damage, and
//! damage is never repaired here.

mod format;
mod walk;
mod write;

pub use format::{SEGMENT_BYTES, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
pub(crate) use walk::{End, Walk};
pub(crate) use write::{Journal, Limits};

#[cfg(test)]
pub(crate) use format::{GroupHeader, SECTOR, SegmentHeader, padded};

use std::io;
use std::path::{Path, PathBuf};

/// Where something stands in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Place {
    /// Number of the segment, from 1; its file is named after it.
    pub segment: u64,
    /// Byte in the segment's file.
    pub offset: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "segment {} offset {}", self.segment, self.offset)
    }
}

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// No room for another segment. Passes when there is room again; nothing was lost.
    #[error("the audit log has no room for another segment: {0}. Free space, or raise its limit")]
    Full(String),
    /// A write or sync failed: what is on the disk has to be read again before the next one.
    #[error("writing {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file could not be read.
    #[error("reading {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is there is not what was written. No retry helps: restore the log, or keep it as evidence.
    #[error("the journal is damaged at {place}: {what}")]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there.
        what: String,
    },
}

/// The folder of segments in a log's folder.
pub(crate) fn journal_dir(log_dir: &Path) -> PathBuf {
    log_dir.join("journal")
}

/// The file of a segment.
pub(crate) fn segment_path(log_dir: &Path, number: u64) -> PathBuf {
    journal_dir(log_dir).join(format!("{number:010}.seg"))
}
