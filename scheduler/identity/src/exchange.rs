//! The token endpoint's logic: an assertion comes in, an access token goes out.
//!
//! The assertion's id is used up, on the disk, before the token is made. So whatever crashes in
//! between costs the client one more assertion, and never gives two tokens for one.

use crate::assertion::{self, Assertion};
use crate::identity::Identity;
use crate::issuer::{AccessClaims, TOKEN_LIFE_S};
use crate::store::Spend;
use crate::{
    ASSERTION_TYPE, Agent, AgentStatus, GRANT_TYPE, OAuthCode, OAuthError, Scopes, TokenRequest,
    TokenResponse,
};
use std::sync::Arc;

impl Identity {
    /// Gives a client an access token for its assertion (`client_credentials` with
    /// `private_key_jwt`). Each assertion is good for one token.
    pub async fn exchange(
        &self,
        request: &TokenRequest,
        now_unix_s: u64,
    ) -> Result<TokenResponse, OAuthError> {
        let assertion = self.authenticate_client(request, now_unix_s)?;
        let agent = &assertion.agent;
        let known = |error: OAuthError| OAuthError {
            agent: Some(agent.clone()),
            ..error
        };
        check_status(agent).map_err(known)?;
        let scopes = granted(request.scope.as_deref(), agent).map_err(known)?;
        self.spend(&assertion, now_unix_s).await.map_err(known)?;
        // Looked up again: the disk takes its time, and a revocation may have come meanwhile. One
        // that comes later still is caught by the generation, which the token carries.
        let agent = self.agent(&agent.id).unwrap_or_else(|| agent.clone());
        check_status(&agent).map_err(known)?;
        self.issue(&agent, scopes, now_unix_s).map_err(known)
    }

    fn authenticate_client(
        &self,
        request: &TokenRequest,
        now_unix_s: u64,
    ) -> Result<Assertion, OAuthError> {
        match request.grant_type.as_deref() {
            Some(GRANT_TYPE) => {}
            Some(_) => {
                let what = "the grant_type must be client_credentials";
                let code = OAuthCode::UnsupportedGrantType;
                return Err(OAuthError::new(code, "GRANT_TYPE", what));
            }
            None => return Err(invalid("GRANT_TYPE", "grant_type is missing")),
        }
        if request.client_assertion_type.as_deref() != Some(ASSERTION_TYPE) {
            let what = "authenticate with private_key_jwt: client_assertion_type must be \
                        urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            return Err(invalid("ASSERTION_KIND", what));
        }
        let Some(assertion) = request.client_assertion.as_deref() else {
            return Err(invalid("ASSERTION_MISSING", "client_assertion is missing"));
        };
        let client_id = request.client_id.as_deref();
        let directory = self.directory();
        let decoy = self.decoy();
        assertion::verify(
            assertion,
            client_id,
            self.issuer(),
            directory,
            decoy,
            now_unix_s,
        )
    }

    async fn spend(&self, assertion: &Assertion, now_unix_s: u64) -> Result<(), OAuthError> {
        let (agent, until) = (assertion.agent.number, assertion.until_unix_s);
        let spent = self
            .store()
            .spend_jti(agent, &assertion.jti, until, now_unix_s)
            .await;
        match spent {
            Ok(Spend::Fresh) => Ok(()),
            Ok(Spend::Replayed) => {
                let what = "the assertion was used before; make a new one with a new jti";
                Err(OAuthError::new(
                    OAuthCode::InvalidClient,
                    "ASSERTION_REPLAYED",
                    what,
                ))
            }
            Ok(Spend::Full) => {
                let what = "too many assertions in five minutes; keep tokens until they expire";
                let code = OAuthCode::TemporarilyUnavailable;
                let error = OAuthError::new(code, "ASSERTIONS_TOO_MANY", what);
                Err(OAuthError {
                    status: 429,
                    ..error
                })
            }
            Err(error) => Err(OAuthError::internal(error.into())),
        }
    }

    fn issue(
        &self,
        agent: &Arc<Agent>,
        scopes: Scopes,
        now_unix_s: u64,
    ) -> Result<TokenResponse, OAuthError> {
        let (issuer, audience) = (self.issuer(), self.audience());
        let claims = AccessClaims::new(issuer, audience, agent, scopes, now_unix_s);
        let access_token = self.keys().sign(&claims).map_err(OAuthError::internal)?;
        Ok(TokenResponse {
            access_token,
            expires_in: TOKEN_LIFE_S,
            scope: scopes.to_string(),
            agent: agent.clone(),
            token_id: claims.jti.as_str().into(),
        })
    }
}

fn check_status(agent: &Agent) -> Result<(), OAuthError> {
    let (reason, what) = match agent.status {
        AgentStatus::Active => return Ok(()),
        AgentStatus::Suspended => ("AGENT_SUSPENDED", "the agent is suspended"),
        AgentStatus::Revoked => (
            "AGENT_REVOKED",
            "the agent was revoked; an operator has to create a new one",
        ),
        AgentStatus::Deleted => ("AGENT_DELETED", "the agent was deleted"),
    };
    Err(OAuthError::new(OAuthCode::InvalidClient, reason, what))
}

fn granted(asked: Option<&str>, agent: &Agent) -> Result<Scopes, OAuthError> {
    let Some(asked) = asked else {
        return Ok(agent.scopes);
    };
    match Scopes::parse(asked) {
        Ok(scopes) if !scopes.is_empty() && scopes.is_subset_of(agent.scopes) => Ok(scopes),
        _ => {
            let what = "the scope asked for is empty, unknown, or not one of the agent's";
            Err(OAuthError::new(
                OAuthCode::InvalidScope,
                "SCOPE_NOT_GRANTED",
                what,
            ))
        }
    }
}

fn invalid(reason: &'static str, description: &'static str) -> OAuthError {
    OAuthError::new(OAuthCode::InvalidRequest, reason, description)
}
