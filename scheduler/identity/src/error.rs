//! Why something was refused or failed: [`AuthError`] for requests with a token, [`IdentityError`]
//! for what operators ask for. (The token endpoint has its own, `OAuthError`, since RFC 6749 writes
//! down what it may say.)
//!
//! Each has a `reason`, the upper-snake word that goes to the caller as it is. No message holds a
//! token, a key or a claim's value that the caller did not choose.

use crate::AgentStatus;

/// Why a request was not authenticated. Always the caller's fault, and trying again with the same
/// token will not help, except for `NotYetValid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum AuthError {
    #[error("no token was given; send `authorization: Bearer <access token>`")]
    Missing,
    #[error("the authorization header is not `Bearer <access token>`")]
    NotBearer,
    #[error("the token is longer than 8 KiB")]
    TooLong,
    #[error("the token is not a well-formed JWT")]
    Malformed,
    #[error("the token is not signed with the algorithm of its key (EdDSA)")]
    Algorithm,
    #[error("the token has a `crit` header, and no critical extension is supported")]
    Critical,
    #[error("the token is not an access token (its `typ` must be `at+jwt`)")]
    Type,
    #[error("the token's key is not one of this issuer's")]
    UnknownKey,
    #[error("the token's signature is wrong")]
    Signature,
    #[error("the token has no `{0}` claim, or one of the wrong kind")]
    MissingClaim(&'static str),
    #[error("the token was made by another issuer")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token's `sub` and `client_id` are not the same agent")]
    Subject,
    #[error("the token has expired; fetch a new one from the token endpoint")]
    Expired,
    #[error("the token is not valid yet; check this machine's clock")]
    NotYetValid,
    #[error("the token's agent does not exist")]
    AgentUnknown,
    #[error("the agent is suspended; an operator can make it active again")]
    AgentSuspended,
    #[error("the agent was revoked; an operator has to create a new one")]
    AgentRevoked,
    #[error("the agent was deleted; an operator has to create a new one")]
    AgentDeleted,
    #[error("the agent's status changed after the token was made; fetch a new one")]
    TokenSuperseded,
}

impl AuthError {
    /// The word for `google.rpc.ErrorInfo`, metrics and the audit log.
    pub fn reason(self) -> &'static str {
        match self {
            AuthError::Missing => "TOKEN_MISSING",
            AuthError::NotBearer => "TOKEN_NOT_BEARER",
            AuthError::TooLong => "TOKEN_TOO_LONG",
            AuthError::Malformed => "TOKEN_MALFORMED",
            AuthError::Algorithm => "TOKEN_ALGORITHM",
            AuthError::Critical => "TOKEN_CRITICAL_HEADER",
            AuthError::Type => "TOKEN_TYPE",
            AuthError::UnknownKey => "TOKEN_KEY_UNKNOWN",
            AuthError::Signature => "TOKEN_SIGNATURE",
            AuthError::MissingClaim(_) => "TOKEN_CLAIM_MISSING",
            AuthError::Issuer => "TOKEN_ISSUER",
            AuthError::Audience => "TOKEN_AUDIENCE",
            AuthError::Subject => "TOKEN_SUBJECT",
            AuthError::Expired => "TOKEN_EXPIRED",
            AuthError::NotYetValid => "TOKEN_NOT_YET_VALID",
            AuthError::AgentUnknown => "AGENT_UNKNOWN",
            AuthError::AgentSuspended => "AGENT_SUSPENDED",
            AuthError::AgentRevoked => "AGENT_REVOKED",
            AuthError::AgentDeleted => "AGENT_DELETED",
            AuthError::TokenSuperseded => "TOKEN_SUPERSEDED",
        }
    }

    /// What an agent in this status is refused with; `None` for one that may act.
    pub(crate) fn of_status(status: AgentStatus) -> Option<AuthError> {
        match status {
            AgentStatus::Active => None,
            AgentStatus::Suspended => Some(AuthError::AgentSuspended),
            AgentStatus::Revoked => Some(AuthError::AgentRevoked),
            AgentStatus::Deleted => Some(AuthError::AgentDeleted),
        }
    }
}

/// Why an operator's act, or opening the store, did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error(
        "{name:?} is no name for {article} {what}: it takes 1 to 63 characters, a-z, 0-9 and '-', \
         starting with a letter",
        article = if what.starts_with('a') { "an" } else { "a" }
    )]
    BadName {
        /// "tenant" or "agent".
        what: &'static str,
        /// The start of what was given.
        name: String,
    },
    #[error("{0:?} is no model name: it takes 1 to 128 characters, A-Z, a-z, 0-9 and \"-_.:/\"")]
    BadModel(String),
    #[error("{0} is no weight: it is 1 to 1000000")]
    BadWeight(u32),
    #[error("a quota of {0} bytes is over the limit of 2^63 - 1")]
    BadQuota(u64),
    #[error(
        "a limit of {given} {what} a minute is over the greatest, {max}; 0 stands for no limit"
    )]
    BadLimit {
        /// What was given.
        given: u64,
        /// "requests" or "tokens".
        what: &'static str,
        /// The greatest.
        max: u64,
    },
    #[error("a list of {0} models is over the limit of 256")]
    TooManyModels(usize),
    #[error(
        "{0:?} is no name of a region: it takes 1 to 63 characters, A-Z, a-z, 0-9 and \"-_.\", and is not \"any\""
    )]
    BadRegion(String),
    #[error("a list of {0} regions is over the limit of 64")]
    TooManyRegions(usize),
    #[error("an agent needs at least one scope: \"embed\", \"generate\" or \"models:read\"")]
    NoScopes,
    #[error("there is a tenant {0:?} already; `bulkhead tenant update` changes it")]
    TenantExists(String),
    #[error(
        "there is no tenant {0:?}; `bulkhead tenant list` shows them all, and `bulkhead tenant create` makes one"
    )]
    TenantUnknown(String),
    #[error("the tenant {tenant:?} has, or had, an agent {name:?} already; choose another name")]
    AgentExists {
        /// The tenant's name.
        tenant: String,
        /// The agent's name.
        name: String,
    },
    #[error("there is no agent {0:?}; `bulkhead agent list` shows them all")]
    AgentUnknown(String),
    #[error("the agent {id} is {status}, which is final; create a new agent")]
    Final {
        /// The agent.
        id: String,
        /// Its status.
        status: AgentStatus,
    },
    #[error("there are {max} {what} already, which is the limit")]
    TooMany {
        /// "tenants" or "agents of this tenant".
        what: &'static str,
        /// The limit.
        max: u32,
    },
    #[error("another change came in between; try again")]
    Conflict,
    #[error("the issuer {0:?} is not an https:// URL without query or fragment")]
    BadIssuer(String),
    #[error("the identity store failed: {0}")]
    Store(#[from] sqlx::Error),
    #[error("the identity store does not make sense: {0}; restore it from a backup")]
    Corrupt(String),
    #[error("the identity store was written by a newer version (schema {0}); use that version")]
    Newer(i64),
    #[error("the issuer's key {path}: {problem}")]
    KeyFile {
        /// The file.
        path: String,
        /// What is wrong with it, and what to do.
        problem: String,
    },
    #[error("the cryptographic library failed: {0}")]
    Crypto(&'static str),
}

impl IdentityError {
    /// The word for `google.rpc.ErrorInfo`.
    pub fn reason(&self) -> &'static str {
        match self {
            IdentityError::BadName { .. } => "NAME_INVALID",
            IdentityError::BadModel(_) | IdentityError::TooManyModels(_) => "MODELS_INVALID",
            IdentityError::BadRegion(_) | IdentityError::TooManyRegions(_) => "REGIONS_INVALID",
            IdentityError::BadWeight(_) => "WEIGHT_INVALID",
            IdentityError::BadLimit { .. } => "LIMIT_INVALID",
            IdentityError::BadQuota(_) => "QUOTA_INVALID",
            IdentityError::NoScopes => "SCOPES_INVALID",
            IdentityError::TenantExists(_) => "TENANT_EXISTS",
            IdentityError::TenantUnknown(_) => "TENANT_UNKNOWN",
            IdentityError::AgentExists { .. } => "AGENT_EXISTS",
            IdentityError::AgentUnknown(_) => "AGENT_UNKNOWN",
            IdentityError::Final { .. } => "AGENT_STATUS_FINAL",
            IdentityError::TooMany { .. } => "TOO_MANY",
            IdentityError::Conflict => "CONFLICT",
            IdentityError::BadIssuer(_) => "ISSUER_INVALID",
            IdentityError::Store(_) | IdentityError::Corrupt(_) | IdentityError::Newer(_) => {
                "IDENTITY_STORE"
            }
            IdentityError::KeyFile { .. } => "ISSUER_KEY",
            IdentityError::Crypto(_) => "CRYPTO",
        }
    }

    /// True where this installation is at fault, and not what was asked for.
    pub fn is_internal(&self) -> bool {
        use IdentityError::{Corrupt, Crypto, KeyFile, Newer, Store};
        matches!(
            self,
            Store(_) | Corrupt(_) | Newer(_) | KeyFile { .. } | Crypto(_)
        )
    }

    /// True where the same act may succeed a moment later.
    pub fn is_retryable(&self) -> bool {
        matches!(self, IdentityError::Store(_) | IdentityError::Conflict)
    }
}
