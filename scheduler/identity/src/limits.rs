//! What a tenant, and each of its agents, may have a minute: as an operator said, or as the server's settings say.
//!
//! Only what was said lies here: nothing is counted, and nobody is refused.

use crate::IdentityError;
use serde::{Deserialize, Serialize};

/// Most requests of a limit.
const REQUESTS_MAX: u64 = u32::MAX as u64;
/// Most tokens of a limit.
const TOKENS_MAX: u64 = i64::MAX as u64;

/// So many a minute, 0 for no limit; `None`: as the server's settings say, whatever they say at the time.
pub type Limit = Option<u64>;

/// A value for each limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits<T = Limit> {
    /// Requests of the tenant.
    pub requests: T,
    /// Tokens of the tenant, in and out together.
    pub tokens: T,
    /// Requests of each of its agents.
    pub agent_requests: T,
    /// Tokens of each of its agents.
    pub agent_tokens: T,
}

impl<T> Limits<T> {
    /// What becomes of each.
    pub fn map<V>(self, mut make: impl FnMut(T) -> V) -> Limits<V> {
        self.with(Limits::<()>::default(), |one, ()| make(one))
    }

    /// Each of these with its counterpart.
    pub fn with<U, V>(self, other: Limits<U>, mut make: impl FnMut(T, U) -> V) -> Limits<V> {
        Limits {
            requests: make(self.requests, other.requests),
            tokens: make(self.tokens, other.tokens),
            agent_requests: make(self.agent_requests, other.agent_requests),
            agent_tokens: make(self.agent_tokens, other.agent_tokens),
        }
    }
}

impl Limits {
    pub(crate) fn check(&self) -> Result<(), IdentityError> {
        let each = [
            (self.requests, "requests", REQUESTS_MAX),
            (self.tokens, "tokens", TOKENS_MAX),
            (self.agent_requests, "requests", REQUESTS_MAX),
            (self.agent_tokens, "tokens", TOKENS_MAX),
        ];
        for (limit, what, max) in each {
            if let Some(given) = limit.filter(|given| *given > max) {
                return Err(IdentityError::BadLimit { given, what, max });
            }
        }
        Ok(())
    }
}
