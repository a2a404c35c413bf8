//! What the token endpoint takes and answers, in the words of RFC 6749 and RFC 7523.

use serde_json::json;
use std::sync::Arc;

/// The only grant type.
pub const GRANT_TYPE: &str = "client_credentials";
/// The only kind of client authentication: `private_key_jwt`.
pub const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The form that a client sends. A field that was not sent is `None`; one sent twice is for the
/// server to refuse (RFC 6749, 3.2) before it comes here.
#[derive(Clone, Debug, Default)]
pub struct TokenRequest {
    pub grant_type: Option<String>,
    pub client_assertion_type: Option<String>,
    pub client_assertion: Option<String>,
    /// Optional (RFC 7521, 4.2); where given, it has to be the assertion's subject.
    pub client_id: Option<String>,
    /// Absent means all of the agent's scopes.
    pub scope: Option<String>,
}

/// A token, granted.
#[derive(Clone, Debug)]
pub struct TokenResponse {
    pub access_token: String,
    /// Seconds.
    pub expires_in: u64,
    /// The scopes granted, with spaces between them.
    pub scope: String,
    /// Whom it was granted to, for the audit log; not part of the answer.
    pub agent: Arc<crate::Agent>,
    /// Its `jti`, for the audit log; not part of the answer.
    pub token_id: Arc<str>,
}

impl TokenResponse {
    /// The answer's body. To be sent with `Cache-Control: no-store`.
    pub fn body(&self) -> serde_json::Value {
        json!({
            "access_token": self.access_token, "token_type": "Bearer",
            "expires_in": self.expires_in, "scope": self.scope,
        })
    }
}

/// The error codes of the token endpoint (RFC 6749, 5.2), and one for our own failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OAuthCode {
    InvalidRequest,
    InvalidClient,
    InvalidScope,
    UnsupportedGrantType,
    /// Not of RFC 6749's token endpoint, which has no word for it: try again later.
    TemporarilyUnavailable,
}

impl OAuthCode {
    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            OAuthCode::InvalidRequest => "invalid_request",
            OAuthCode::InvalidClient => "invalid_client",
            OAuthCode::InvalidScope => "invalid_scope",
            OAuthCode::UnsupportedGrantType => "unsupported_grant_type",
            OAuthCode::TemporarilyUnavailable => "temporarily_unavailable",
        }
    }
}

/// A refusal of the token endpoint.
///
/// `code`, `description` and `status` go to the caller. `reason`, `agent` and `cause` are for the
/// audit log and the metrics: telling them to the caller would say which clients exist.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}: {description}", code.name())]
pub struct OAuthError {
    pub code: OAuthCode,
    /// For a person; says what to do next.
    pub description: &'static str,
    /// HTTP status.
    pub status: u16,
    /// Upper-snake.
    pub reason: &'static str,
    /// The agent, where its signature held: only then is it known who asked.
    pub agent: Option<Arc<crate::Agent>>,
    /// What went wrong on our side, for the operator's log.
    pub cause: Option<Arc<crate::IdentityError>>,
}

impl OAuthError {
    pub(crate) fn new(
        code: OAuthCode,
        reason: &'static str,
        description: &'static str,
    ) -> OAuthError {
        let status = match code {
            OAuthCode::InvalidClient => 401,
            OAuthCode::TemporarilyUnavailable => 503,
            _ => 400,
        };
        OAuthError {
            code,
            description,
            status,
            reason,
            agent: None,
            cause: None,
        }
    }

    /// A failure of ours, not the client's fault.
    pub(crate) fn internal(cause: crate::IdentityError) -> OAuthError {
        let description = "the token endpoint cannot work now; try again";
        let mut error = OAuthError::new(
            OAuthCode::TemporarilyUnavailable,
            cause.reason(),
            description,
        );
        error.cause = Some(Arc::new(cause));
        error
    }

    /// The answer's body. To be sent with `Cache-Control: no-store`.
    pub fn body(&self) -> serde_json::Value {
        json!({ "error": self.code.name(), "error_description": self.description })
    }
}
