//! What templates come to: what became of workers that were asked for, and why a template ends.
//!
//! Words alone: nothing here is decided, started or ended.

use bulkhead_proto::internal::{ModelFault, Refused};
use nix::unistd::Pid;
use std::os::fd::OwnedFd;

/// What is told of a file that only the process that loads it found to be another one.
pub const CHANGED: &str = "is not the file that was installed: what was read while loading it has \
                           another SHA-256; `bulkhead models verify` says whether it still has";

/// What became of a worker that was asked for.
#[derive(Debug)]
pub enum Outcome {
    /// It is there.
    Born {
        worker: u64,
        pid: Pid,
        /// The scheduler's end of its connection.
        connection: OwnedFd,
        /// The model's digest, hex.
        digest: String,
    },
    /// It will not be.
    Failed {
        worker: u64,
        reason: String,
        /// True where trying again will not help.
        permanent: bool,
        /// The file that is not the one that was promised, where that is why.
        fault: Option<ModelFault>,
    },
    /// There is one for whoever comes next.
    Ahead { pid: Pid },
    /// There is one that was killed before it was there: it is to end.
    Unwanted { pid: Pid },
    /// Nobody holds this model any more.
    Dropped {
        model: String,
        /// Empty where it had been loaded.
        reason: String,
        permanent: bool,
    },
}

/// Bytes of what a process that holds a model says that are passed on: it may say a whole packet, and what is told the
/// scheduler of it has to fit into one.
const SAID_BYTES_MAX: usize = 512;

/// As much of it as is passed on.
pub fn cut(mut said: String) -> String {
    said.truncate(said.floor_char_boundary(SAID_BYTES_MAX));
    said
}

/// Why a template is to end.
#[derive(Clone, Debug)]
pub struct Why {
    pub reason: String,
    pub end: End,
    pub fault: Option<Box<ModelFault>>,
}

/// What a template's end says of the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nothing: it was not needed any more.
    Unneeded,
    /// It failed, and the next may not.
    Failed,
    /// It refused its model, and so would every other.
    Refused,
}

impl Why {
    /// It was not needed any more.
    pub fn unneeded(reason: impl Into<String>) -> Why {
        Why {
            reason: reason.into(),
            end: End::Unneeded,
            fault: None,
        }
    }

    /// From the words of a process that holds this model.
    pub fn refused(model: &str, refused: Refused) -> Why {
        let fault = (!refused.file.is_empty()).then(|| {
            Box::new(ModelFault {
                model: model.to_owned(),
                file: cut(refused.file),
                what: CHANGED.into(),
                found_sha256: cut(refused.found_sha256),
            })
        });
        let end = match refused.permanent {
            true => End::Refused,
            false => End::Failed,
        };
        Why {
            reason: cut(refused.reason),
            end,
            fault,
        }
    }

    pub fn failed(reason: impl Into<String>) -> Why {
        Why {
            reason: reason.into(),
            end: End::Failed,
            fault: None,
        }
    }
}
