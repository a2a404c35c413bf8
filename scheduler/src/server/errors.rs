//! Every refusal that an agent can get: its gRPC code, its reason, and whether to try again. The one
//! file in which a status is chosen.
//!
//! Nothing here repeats a text that a caller sent, and nothing tells of another tenant.

use super::metrics;
use bulkhead_core::{Bound, CancelReason, End, Outcome, Refusal};
use std::time::Duration;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// The domain of our reasons.
pub const DOMAIN: &str = "bulkhead";

const NO_DEVICE: &str =
    "no device is in service that could run this; try again, and see the server's log";
const RESIDENCY: &str = "this server is in none of the regions that your tenant is bound to; ask one that is, or have an operator \
                         look at `bulkhead tenant list`";
const MODEL_UNAVAILABLE: &str = "this model cannot be loaded; the server's log says why";

/// Why a request got no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub code: Code,
    /// Upper-snake, from a fixed set.
    pub reason: &'static str,
    /// What happened and what to do next.
    pub message: String,
    pub retry_after: Option<Duration>,
    /// Set once the request has one, so that its records can be found.
    pub request_id: Option<String>,
}

impl Refused {
    pub fn new(code: Code, reason: &'static str, message: impl Into<String>) -> Self {
        Refused {
            code,
            reason,
            message: message.into(),
            retry_after: None,
            request_id: None,
        }
    }

    pub fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// The log cannot take the request's record.
    pub fn audit_down() -> Self {
        Refused::new(
            Code::Unavailable,
            "AUDIT_UNAVAILABLE",
            "the audit log takes no records now, so no request can be served",
        )
        .retry(Duration::from_millis(500))
    }

    /// The scheduler is stopping or has failed inside.
    pub fn stopping() -> Self {
        Refused::new(
            Code::Unavailable,
            "DRAINING",
            "the server is stopping; try again once it is back",
        )
        .retry(Duration::from_secs(1))
    }

    /// More than a request may have.
    pub fn message_too_large() -> Self {
        Refused::new(
            Code::ResourceExhausted,
            "MESSAGE_TOO_LARGE",
            "the message is larger than the server takes; send fewer or shorter texts",
        )
    }

    /// Not what our .proto files say.
    pub fn message_malformed() -> Self {
        Refused::new(
            Code::InvalidArgument,
            "MESSAGE_MALFORMED",
            "the message could not be decoded; is it made from our .proto files?",
        )
    }

    /// The core's own refusals.
    pub fn from_core(refusal: Refusal) -> Self {
        let (code, reason, message) = match refusal.bound {
            Bound::TenantQueue => (
                Code::ResourceExhausted,
                "TENANT_QUEUE_FULL",
                "your tenant has as many requests waiting as it may; wait for some to end",
            ),
            Bound::TenantOpen => (
                Code::ResourceExhausted,
                "TENANT_OPEN_LIMIT",
                "your tenant has as many requests open as it may; wait for some to end",
            ),
            Bound::TenantRate => (
                Code::ResourceExhausted,
                "TENANT_RATE_LIMIT",
                match refusal.retry_after_ns {
                    Some(_) => {
                        "your tenant has had what it may have a minute; wait until there is room again"
                    }
                    None => {
                        "this request alone may become more tokens than your tenant may have a minute; send less, or ask for a shorter answer"
                    }
                },
            ),
            Bound::AgentRate => (
                Code::ResourceExhausted,
                "AGENT_RATE_LIMIT",
                match refusal.retry_after_ns {
                    Some(_) => {
                        "this agent has had what it may have a minute; wait until there is room again"
                    }
                    None => {
                        "this request alone may become more tokens than an agent may have a minute; send less, or ask for a shorter answer"
                    }
                },
            ),
            Bound::GlobalQueue => (
                Code::ResourceExhausted,
                "QUEUE_FULL",
                "the server's queue is full and your tenant has used its own part of it; wait and try again",
            ),
            Bound::DeadlinePast => (
                Code::DeadlineExceeded,
                "DEADLINE_PAST",
                "the deadline had passed before the request was taken",
            ),
            Bound::DeadlineTooSoon => (
                Code::DeadlineExceeded,
                "DEADLINE_TOO_SOON",
                "reading the request alone takes longer than its deadline allows; give it more time, or send less",
            ),
            Bound::Backoff => (
                Code::Unavailable,
                "WORKER_UNAVAILABLE",
                "your tenant's workers for this model keep failing, and the next is not started yet; try again once that is due, and see the server's log",
            ),
            Bound::ModelRefused => (
                Code::FailedPrecondition,
                "MODEL_UNAVAILABLE",
                MODEL_UNAVAILABLE,
            ),
            Bound::NoDevice => (Code::Unavailable, "NO_DEVICE", NO_DEVICE),
            Bound::Residency => (Code::FailedPrecondition, "RESIDENCY", RESIDENCY),
            Bound::Draining => (
                Code::Unavailable,
                "DRAINING",
                "the server is stopping; try again once it is back",
            ),
            Bound::TooLarge => (
                Code::InvalidArgument,
                "REQUEST_TOO_LARGE",
                "the request alone is larger than the queue can hold; send fewer or shorter texts",
            ),
            Bound::Unknown => (
                Code::NotFound,
                "MODEL_NOT_FOUND",
                "there is no such model for you; ListModels (`bulkhead models list`) says which there are",
            ),
        };
        let mut refused = Refused::new(code, reason, message);
        refused.retry_after = refusal.retry_after_ns.map(Duration::from_nanos);
        refused
    }

    /// What an accepted request's end means to its caller; `None` where it ended well.
    pub fn from_end(end: End, detail: &str) -> Option<Self> {
        let said = |otherwise: &str| {
            if detail.is_empty() {
                otherwise.to_string()
            } else {
                detail.to_string()
            }
        };
        Some(match end {
            End::Worker(Outcome::Ok) => return None,
            End::Worker(Outcome::Invalid) => Refused::new(Code::InvalidArgument, "REQUEST_INVALID", said("the model cannot run this request")),
            End::Worker(Outcome::OverQuota) => Refused::new(Code::ResourceExhausted, "MEMORY_QUOTA", said("the request does not fit into your tenant's memory quota")),
            End::Worker(Outcome::Cancelled) | End::Cancelled(CancelReason::Client) => Refused::new(Code::Cancelled, "CANCELLED", "the request was cancelled"),
            End::Worker(Outcome::Internal) => Refused::new(Code::Internal, "WORKER_FAILED", said("the worker could not finish the request; trying again may help")),
            End::Cancelled(CancelReason::Revoked) => Refused::new(Code::PermissionDenied, "AGENT_REVOKED", "the agent may no longer act"),
            End::Cancelled(CancelReason::Shutdown) => Refused::stopping(),
            End::Cancelled(CancelReason::Audit) => Refused::audit_down(),
            End::Deadline => Refused::new(Code::DeadlineExceeded, "DEADLINE_EXCEEDED", "the deadline passed before the request was done"),
            End::WorkerLost => Refused::new(Code::Unavailable, "WORKER_LOST", "your tenant's worker ended while it ran this request; a fresh one is started, try again")
                .retry(Duration::from_millis(200)),
            End::DeviceLost => Refused::new(Code::Unavailable, "DEVICE_LOST", "the device under this request went bad and the request could not go on elsewhere; try again")
                .retry(Duration::from_millis(200)),
            End::NoDevice => Refused::new(Code::Unavailable, "NO_DEVICE", NO_DEVICE).retry(Duration::from_secs(10)),
            End::Residency => Refused::new(Code::FailedPrecondition, "RESIDENCY", RESIDENCY),
            End::NoWorker { retry_after_ns: Some(ns) } => Refused::new(Code::Unavailable, "WORKER_UNAVAILABLE", "no worker could be started for this model; the server's log says why, and `bulkhead doctor` what this machine lacks")
                .retry(Duration::from_nanos(ns)),
            End::NoWorker { retry_after_ns: None } => Refused::new(Code::FailedPrecondition, "MODEL_UNAVAILABLE", said(MODEL_UNAVAILABLE)),
        })
    }

    /// The status to send. Counts the refusal.
    pub fn into_status(self) -> Status {
        metrics::refused(self.reason);
        self.status()
    }

    fn status(self) -> Status {
        let mut details = ErrorDetails::new();
        details.set_error_info(self.reason, DOMAIN, std::collections::HashMap::new());
        if let Some(after) = self.retry_after {
            details.set_retry_info(Some(after));
        }
        let mut status = Status::with_error_details(self.code, self.message, details);
        if let Some(id) = self.request_id.as_deref().and_then(|id| id.parse().ok()) {
            status.metadata_mut().insert("bulkhead-request-id", id);
        }
        status
    }
}

/// Gives the transport's own errors (undecodable or oversize messages, unknown methods) a reason like
/// all others. They never reach a handler, so they are translated on the way out.
pub fn explain(code: Code, message: &str) -> Refused {
    if message.contains("message length too large") || code == Code::OutOfRange {
        return Refused::message_too_large();
    }
    if message.to_lowercase().contains("utf-8") {
        return Refused::new(
            Code::InvalidArgument,
            "TEXT_NOT_UTF8",
            "a text is not valid UTF-8",
        );
    }
    match code {
        Code::Unimplemented => Refused::new(
            code,
            "METHOD_UNKNOWN",
            "there is no such method; see the .proto files",
        ),
        Code::Internal | Code::InvalidArgument => Refused::message_malformed(),
        other => Refused::new(other, "TRANSPORT", "the request could not be read"),
    }
}
