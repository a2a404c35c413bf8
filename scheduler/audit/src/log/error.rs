//! What can go wrong with a log, whose fault it is, and whether it passes.

use crate::journal::{self, JournalError};
use crate::keys::KeyError;
use crate::note::NoteError;
use crate::replay::Violation;
use std::io;
use std::path::PathBuf;

/// Why the log cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Another process writes this log.
    #[error("{0} is in use by another bulkhead-audit: stop that one first")]
    Locked(PathBuf),
    /// The folders or sizes given make no sense. The operator's to change.
    #[error("{0}")]
    Options(String),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The journal cannot be read or written.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file of the log could not be written.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The journal contradicts itself: it was tampered with.
    #[error(
        "the log was altered at {place}: {violation}. Keep it as evidence and restore a good copy"
    )]
    Altered {
        /// Where.
        place: journal::Place,
        /// How.
        violation: Violation,
    },
    /// The journal lacks what was signed: it was cut or an old copy was put in its place.
    #[error("the log was cut or rolled back: {signed} checkpoints were signed, {found} are there")]
    RolledBack {
        /// Leaves that the signed checkpoint has.
        signed: u64,
        /// Leaves that the journal has.
        found: u64,
    },
    /// The stored checkpoint is not of this log's key.
    #[error("{path}: {error}. Are these the keys of this log?")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        error: NoteError,
    },
    /// The scheduler broke the protocol. Its fault; sending it again does not help.
    #[error("the scheduler broke the protocol: {0}")]
    Protocol(String),
}

impl LogError {
    /// Whether it passes by itself, or when the disk has room again.
    pub fn temporary(&self) -> bool {
        match self {
            LogError::Journal(e) => !matches!(e, JournalError::Damaged { .. }),
            LogError::Keys(KeyError::Io { .. }) | LogError::File { .. } => true,
            _ => false,
        }
    }

    /// Whether the journal has to be read again before it is written.
    pub fn needs_recovery(&self) -> bool {
        matches!(
            self,
            LogError::Journal(JournalError::Write { .. } | JournalError::Read { .. })
        )
    }
}
