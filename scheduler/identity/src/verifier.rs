//! The rules that an access token has to keep.
//!
//! In two halves. [`verify`] looks at what never changes about a token, signature, issuer, audience,
//! presence of every claim, and its result may be remembered. [`admit`] looks at what does change, time
//! and the agent's standing, and runs on every request, remembered or not: there is one path to a
//! [`Principal`], and this is its end.

use crate::directory::Directory;
use crate::issuer::{KeySet, TOKEN_TYPE};
use crate::jwt::{Audience, Claim, JwtError, UnixSeconds, Unverified};
use crate::{AuthError, Principal, Scopes};
use serde::Deserialize;
use std::sync::Arc;

/// How far two clocks may be apart, seconds: a token is accepted this long after its `exp`, and not a
/// second longer, and this long before its `nbf`.
pub const LEEWAY_S: u64 = 5;

/// An access token of ours, verified in everything that never changes.
#[derive(Clone, Debug)]
pub(crate) struct VerifiedToken {
    pub(crate) kid: Arc<str>,
    pub(crate) key_epoch: u64,
    pub(crate) agent: Arc<str>,
    tenant: String,
    generation: u64,
    scopes: Scopes,
    token_id: Arc<str>,
    not_before_unix_s: u64,
    expires_unix_s: u64,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Claim<String>,
    #[serde(default)]
    aud: Claim<Audience>,
    #[serde(default)]
    sub: Claim<String>,
    #[serde(default)]
    client_id: Claim<String>,
    #[serde(default)]
    tenant: Claim<String>,
    #[serde(default)]
    scope: Claim<String>,
    #[serde(default)]
    jti: Claim<String>,
    #[serde(default)]
    iat: Claim<UnixSeconds>,
    #[serde(default)]
    nbf: Claim<UnixSeconds>,
    #[serde(default)]
    exp: Claim<UnixSeconds>,
    #[serde(default)]
    agent_generation: Claim<u64>,
}

impl<T> Claim<T> {
    fn required(self, name: &'static str) -> Result<T, AuthError> {
        self.0.ok_or(AuthError::MissingClaim(name))
    }
}

impl From<JwtError> for AuthError {
    fn from(error: JwtError) -> AuthError {
        match error {
            JwtError::TooLong => AuthError::TooLong,
            JwtError::Malformed => AuthError::Malformed,
            JwtError::Algorithm => AuthError::Algorithm,
            JwtError::Critical => AuthError::Critical,
            JwtError::Signature => AuthError::Signature,
        }
    }
}

/// The token of an `authorization` header's value. The scheme is read in any case (RFC 9110, 11.1).
pub fn bearer_token(authorization: Option<&str>) -> Result<&str, AuthError> {
    let value = authorization
        .map(str::trim)
        .filter(|value| !value.is_empty());
    let (scheme, token) = value
        .ok_or(AuthError::Missing)?
        .split_once(' ')
        .unwrap_or_default();
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(AuthError::NotBearer);
    }
    match token.trim_start() {
        "" => Err(AuthError::Missing),
        token => Ok(token),
    }
}

/// Verifies everything about a token that never changes.
pub(crate) fn verify(
    token: &str,
    keys: &KeySet,
    issuer: &str,
    audience: &str,
    now_unix_s: u64,
) -> Result<VerifiedToken, AuthError> {
    let unverified = Unverified::read(token)?;
    if unverified.typ.as_deref() != Some(TOKEN_TYPE) {
        return Err(AuthError::Type);
    }
    let kid = unverified.kid.as_deref().unwrap_or_default();
    let key = keys
        .verifying(kid, now_unix_s)
        .ok_or(AuthError::UnknownKey)?;
    let claims: Claims = unverified.verify(&key.decoding)?;

    if claims.iss.required("iss")? != issuer {
        return Err(AuthError::Issuer);
    }
    if !claims.aud.required("aud")?.is_only(audience) {
        return Err(AuthError::Audience);
    }
    let agent = claims.sub.required("sub")?;
    if claims.client_id.required("client_id")? != agent {
        return Err(AuthError::Subject);
    }
    let scope = claims.scope.required("scope")?;
    let issued = claims.iat.required("iat")?.0;
    Ok(VerifiedToken {
        kid: key.kid.clone(),
        key_epoch: key.epoch,
        agent: agent.into(),
        tenant: claims.tenant.required("tenant")?,
        generation: claims.agent_generation.required("agent_generation")?,
        scopes: Scopes::parse(&scope).map_err(|_| AuthError::MissingClaim("scope"))?,
        token_id: claims.jti.required("jti")?.into(),
        // A token from the future is not good before it was made, whatever its nbf says.
        not_before_unix_s: claims.nbf.required("nbf")?.0.max(issued),
        expires_unix_s: claims.exp.required("exp")?.0,
    })
}

/// Checks everything about a verified token that changes: time, and its agent's standing.
pub(crate) fn admit(
    token: &VerifiedToken,
    directory: &Directory,
    now_unix_s: u64,
) -> Result<Principal, AuthError> {
    if now_unix_s > token.expires_unix_s.saturating_add(LEEWAY_S) {
        return Err(AuthError::Expired);
    }
    if now_unix_s.saturating_add(LEEWAY_S) < token.not_before_unix_s {
        return Err(AuthError::NotYetValid);
    }
    let agent = directory
        .agent(&token.agent)
        .filter(|agent| *agent.tenant == *token.tenant);
    let agent = agent.ok_or(AuthError::AgentUnknown)?;
    if let Some(refusal) = AuthError::of_status(agent.status) {
        return Err(refusal);
    }
    if agent.generation != token.generation {
        return Err(AuthError::TokenSuperseded);
    }
    let scopes = token.scopes.intersection(agent.scopes);
    Ok(Principal::new(
        agent,
        scopes,
        token.token_id.clone(),
        token.expires_unix_s,
    ))
}

/// Checks a principal's agent again: one that waited may have lost its standing meanwhile.
pub(crate) fn recheck(principal: &Principal, directory: &Directory) -> Result<(), AuthError> {
    let agent = directory
        .agent(principal.agent_id())
        .ok_or(AuthError::AgentUnknown)?;
    match AuthError::of_status(agent.status) {
        Some(refusal) => Err(refusal),
        None if agent.generation != principal.generation() => Err(AuthError::TokenSuperseded),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl VerifiedToken {
        /// One to fill a cache with.
        pub(crate) fn for_tests() -> VerifiedToken {
            VerifiedToken {
                kid: "kid".into(),
                key_epoch: 1,
                agent: "agt_1".into(),
                tenant: "acme".into(),
                generation: 1,
                scopes: Scopes::ALL,
                token_id: "jti".into(),
                not_before_unix_s: 0,
                expires_unix_s: 0,
            }
        }
    }

    #[test]
    fn the_authorization_header() {
        assert_eq!(bearer_token(Some("Bearer abc")), Ok("abc"));
        assert_eq!(bearer_token(Some("bearer  abc ")), Ok("abc"));
        for missing in [None, Some(""), Some(" ")] {
            assert_eq!(bearer_token(missing), Err(AuthError::Missing));
        }
        for other in ["Basic abc", "abc", "Bearerabc", "Bearer"] {
            assert_eq!(
                bearer_token(Some(other)),
                Err(AuthError::NotBearer),
                "{other}"
            );
        }
    }
}
