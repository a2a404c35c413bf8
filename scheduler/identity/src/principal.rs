//! The proof that a caller was authenticated.

use crate::{Agent, Scope, Scopes};
use std::sync::Arc;

/// An authenticated caller. Only `Identity::authenticate` makes one, so whoever holds one needs to
/// check nothing; its tenant is the only tenant that a request ever has.
#[derive(Clone, Debug)]
pub struct Principal {
    agent: Arc<Agent>,
    scopes: Scopes,
    token_id: Arc<str>,
    expires_unix_s: u64,
}

impl Principal {
    pub(crate) fn new(
        agent: Arc<Agent>,
        scopes: Scopes,
        token_id: Arc<str>,
        expires_unix_s: u64,
    ) -> Principal {
        Principal {
            agent,
            scopes,
            token_id,
            expires_unix_s,
        }
    }

    /// The name of its tenant.
    pub fn tenant(&self) -> &Arc<str> {
        &self.agent.tenant
    }

    /// The number of its tenant.
    pub fn tenant_number(&self) -> u32 {
        self.agent.tenant_number
    }

    /// The agent's client id, `agt_…`.
    pub fn agent_id(&self) -> &Arc<str> {
        &self.agent.id
    }

    /// The agent's number.
    pub fn agent_number(&self) -> u32 {
        self.agent.number
    }

    /// The agent's name within its tenant.
    pub fn agent_name(&self) -> &Arc<str> {
        &self.agent.name
    }

    /// What its token can be used for: never more than the agent's own scopes.
    pub fn scopes(&self) -> Scopes {
        self.scopes
    }

    /// Whether its token can be used for this.
    pub fn has_scope(&self, scope: Scope) -> bool {
        self.scopes.contains(scope)
    }

    /// The `jti` of its token, for the audit log.
    pub fn token_id(&self) -> &Arc<str> {
        &self.token_id
    }

    /// When its token expires, seconds since 1970.
    pub fn expires_unix_s(&self) -> u64 {
        self.expires_unix_s
    }

    /// The status generation of the agent that this was made under.
    pub(crate) fn generation(&self) -> u64 {
        self.agent.generation
    }
}
