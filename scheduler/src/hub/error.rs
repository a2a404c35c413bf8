//! Why a model did not come from the hub: whose fault it is, and what to do next.
//!
//! Names from the hub are quoted with their control characters escaped, and links without what follows
//! the `?`, since that can be a signature. The token is in no message.

use std::{io, path::PathBuf};

/// Where a download is taken up again.
const AGAIN: &str = "run the same command again to go on from where it stopped";

#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// Wrongly typed.
    #[error(
        "{0:?} names no model of the hub; write hf:OWNER/NAME, hf:OWNER/NAME@REVISION or \
         hf:OWNER/NAME:FILE, where FILE is a GGUF file or its quantisation, such as Q4_K_M"
    )]
    Address(String),
    /// An environment variable is of no use. The operator's to mend.
    #[error("{name}: {what}")]
    Setting { name: &'static str, what: String },
    /// This machine trusts nobody.
    #[error(
        "no certificate authority that this machine trusts was found{0}; install ca-certificates, or \
         name a file of them in SSL_CERT_FILE"
    )]
    Roots(String),
    /// No connection. Retry once there is one.
    #[error(
        "cannot reach {host}: {what}; check the network and HF_ENDPOINT, or fetch the model elsewhere \
         and add its folder"
    )]
    Unreachable { host: String, what: String },
    /// Connected, and then nothing. Retry.
    #[error("{host} sent nothing for {seconds} s; {AGAIN}")]
    Silent { host: String, seconds: u64 },
    /// The connection ended before the file did. Retry.
    #[error("{host} ended the connection early ({what}); {AGAIN}")]
    Cut { host: String, what: String },
    /// Somebody has to accept a licence.
    #[error(
        "{repository} is gated: accept its licence at {page}, then set HF_TOKEN to a token of that account"
    )]
    Gated { repository: String, page: String },
    /// There is a token, and it does not open this.
    #[error(
        "the token in HF_TOKEN does not open {repository}: accept its licence at {page} with the token's \
         account, and check that the token may read it"
    )]
    NoAccess { repository: String, page: String },
    /// The hub does not tell these two apart.
    #[error(
        "{host} has no model {repository}, or it is private; check the name, and for a private one set \
         HF_TOKEN to a token that may read it"
    )]
    NoRepository { repository: String, host: String },
    #[error("{repository} has no revision {revision:?}; leave it out for main")]
    NoRevision {
        repository: String,
        revision: String,
    },
    /// Any other refusal.
    #[error("{host} answered {status}; {}", advice(.status))]
    Status {
        host: String,
        status: http::StatusCode,
        /// It came from where the hub had sent us on, by a link that may have ended.
        elsewhere: bool,
    },
    /// The hub's fault, or a mirror's.
    #[error(
        "{host} sent an answer that cannot be used: {what}; check HF_ENDPOINT, or try again later"
    )]
    Odd { host: String, what: String },
    /// What the repository holds is no model, or more than one.
    #[error("{0}")]
    Choice(String),
    /// The hub names a file in a way that no file of a model may be named.
    #[error("the hub names a file {0:?}, which cannot be a model's file; nothing was added")]
    Name(String),
    /// Nothing is taken that cannot be checked.
    #[error(
        "the hub states no {what} of {file:?}, so that it cannot be checked; nothing was added"
    )]
    Unstated { file: String, what: &'static str },
    /// There is no room for it. The operator's to mend.
    #[error(
        "{} are needed in {dir} and {} are free; free some space, or set models.dir to a larger disk",
        gib(*.needed), gib(*.free)
    )]
    Space {
        dir: PathBuf,
        /// Bytes.
        needed: u64,
        /// Bytes.
        free: u64,
    },
    /// Not what was announced: the hub's fault, or that of somebody between.
    #[error(
        "{file:?} is not what the hub says it is: {what}; nothing was added and the file was deleted: \
         try again, and trust no mirror where this stays"
    )]
    Differs { file: String, what: String },
    /// Somebody else is at it.
    #[error("another process fetches this model into {0}; wait for it to end")]
    Busy(PathBuf),
    /// A file could not be written or read back. The operator's to mend.
    #[error("cannot write {path}: {source}{}", space(.source))]
    Write { path: PathBuf, source: io::Error },
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1u32 << 30))
}

fn advice(status: &http::StatusCode) -> &'static str {
    match status.as_u16() {
        429 => "too many requests: wait some minutes, or set HF_TOKEN, which allows for more",
        416 | 500.. => "try again later",
        _ => "check the name, and HF_ENDPOINT",
    }
}

fn space(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => {
            "; free some space, or set models.dir to a larger disk, and run the same command again"
        }
        _ => "",
    }
}

impl HubError {
    /// Whether the same question may be answered in a moment.
    pub fn passes(&self) -> bool {
        match self {
            HubError::Unreachable { .. } | HubError::Silent { .. } | HubError::Cut { .. } => true,
            HubError::Status {
                status, elsewhere, ..
            } => {
                *elsewhere || status.is_server_error() || [408, 416, 429].contains(&status.as_u16())
            }
            _ => false,
        }
    }
}
