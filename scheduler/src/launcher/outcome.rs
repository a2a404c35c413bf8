//! What templates come to: what became of workers that were asked for, and why a template ends.
//!
//! Words alone: nothing here is decided, started or ended.

use bulkhead_proto::internal::ModelFault;
use nix::unistd::Pid;
use std::os::fd::OwnedFd;

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

    pub fn failed(reason: impl Into<String>) -> Why {
        Why {
            reason: reason.into(),
            end: End::Failed,
            fault: None,
        }
    }
}
