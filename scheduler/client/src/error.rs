//! What can go wrong between the command line and a server, each with what to do next.
//!
//! A server's refusal keeps all that the server said: the gRPC code, the reason of its
//! `ErrorInfo`, the message, and when to try again.

use std::{fmt, io, path::PathBuf, time::Duration};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the admin socket.
    #[error(
        "no server is running on {socket}; start it with `bulkhead serve`, or name its folder with `--data`"
    )]
    NotRunning { socket: PathBuf },
    /// The admin socket is there, but not for us.
    #[error("cannot use {socket}: {source}; run the command as the user who runs the server")]
    Socket {
        socket: PathBuf,
        source: std::io::Error,
    },
    /// The credentials file cannot be used. The caller's to mend.
    #[error("{path}: {message}; `bulkhead agent create --out FILE` writes a good one")]
    Credentials { path: PathBuf, message: String },
    /// What the credentials hold cannot be used.
    #[error("the credentials' {field} cannot be used: {message}")]
    Field {
        field: &'static str,
        message: String,
    },
    /// No connection, or it broke. Worth a retry.
    #[error("cannot reach {address}: {message}")]
    Unreachable { address: String, message: String },
    /// The token endpoint said no (RFC 6749, section 5.2).
    #[error("no token: {error}: {description}")]
    Token { error: String, description: String },
    /// The server refused the call.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The call took longer than it may.
    #[error("no answer within {seconds} s; `bulkhead top` shows what the server is doing")]
    TimedOut { seconds: u64 },
}

impl ClientError {
    /// The reason that the server gave, "" where it gave none.
    pub fn reason(&self) -> &str {
        match self {
            ClientError::Refused(refusal) => &refusal.reason,
            ClientError::Token { error, .. } => error,
            _ => "",
        }
    }

    /// How long the server said to wait before another try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            ClientError::Refused(refusal) => refusal.retry_after,
            _ => None,
        }
    }
}

impl From<Status> for ClientError {
    fn from(status: Status) -> Self {
        ClientError::Refused(Refusal::from(status))
    }
}

/// A refusal as the server worded it.
#[derive(Debug)]
pub struct Refusal {
    pub code: Code,
    /// Upper snake case, from `google.rpc.ErrorInfo`; empty where there was none.
    pub reason: String,
    pub message: String,
    /// From `google.rpc.RetryInfo`: trying again sooner is in vain.
    pub retry_after: Option<Duration>,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        Refusal {
            code: status.code(),
            reason: details
                .error_info()
                .map(|info| info.reason.clone())
                .unwrap_or_default(),
            message: status.message().to_owned(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
        }
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", code_name(self.code))?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        if let Some(after) = self.retry_after {
            write!(f, "; try again in {:.1} s", after.as_secs_f64())?;
        }
        Ok(())
    }
}

/// The code's name as the gRPC documents spell it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// An error with all that caused it: transport errors say "transport error" and keep the rest inside.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}

/// Why a server cannot be reached, with what to do about it where that is known.
pub fn unreachable_because(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = Some(error);
    while let Some(inner) = cause {
        if let Some(known) = inner.downcast_ref::<io::Error>().and_then(known) {
            return known.to_owned();
        }
        cause = inner.source();
    }
    chain(error)
}

fn known(error: &io::Error) -> Option<&'static str> {
    use rustls::{CertificateError, Error::InvalidCertificate};
    if error.kind() == io::ErrorKind::ConnectionRefused {
        return Some("nobody listens there; is `bulkhead serve` running?");
    }
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Some(
                "the server there has another CA than these credentials: they belong to another \
                 server, or its CA was made anew since; create the agent anew there",
            )
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_and_another_ca_are_told_with_what_to_do() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(unreachable_because(&refused).contains("bulkhead serve"));
        let issuer = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        let other = io::Error::new(io::ErrorKind::InvalidData, issuer);
        assert!(unreachable_because(&other).contains("another CA"));
        assert_eq!(unreachable_because(&io::Error::other("odd")), "odd");
    }
    use tonic_types::ErrorDetails;

    #[test]
    fn a_refusal_shows_code_reason_message_and_when_to_retry() {
        let mut details = ErrorDetails::with_error_info("QUEUE_FULL", "bulkhead", []);
        details.set_retry_info(Some(Duration::from_millis(1500)));
        let status = Status::with_error_details(
            Code::ResourceExhausted,
            "the tenant's queue is full",
            details,
        );
        let error = ClientError::from(status);
        assert_eq!(error.reason(), "QUEUE_FULL");
        assert_eq!(
            error.to_string(),
            "RESOURCE_EXHAUSTED (QUEUE_FULL): the tenant's queue is full; try again in 1.5 s"
        );
    }

    #[test]
    fn a_status_without_details_is_shown_plainly() {
        let error = ClientError::from(Status::unavailable("closing"));
        assert_eq!(error.to_string(), "UNAVAILABLE: closing");
        assert_eq!(error.reason(), "");
    }
}
