//! The rules that a client's assertion has to keep (RFC 7523, and its successor's sole audience).
//!
//! Nothing that is checked before the signature may depend on whether the client exists, and an
//! unknown client costs the same check of a signature as a known one: to a caller without the key the
//! two are one and the same refusal.

use crate::directory::{AgentEntry, Directory};
use crate::jwt::{Audience, JwtError, UnixSeconds, Unverified};
use crate::key::PublicKey;
use crate::{Agent, LEEWAY_S, OAuthCode, OAuthError};
use serde::Deserialize;
use std::sync::Arc;

/// How far ahead an assertion's `exp` may be, seconds.
pub const ASSERTION_LIFE_MAX_S: u64 = 5 * 60;
/// Most characters of an assertion's `jti`.
pub const JTI_CHARS_MAX: usize = 128;

/// An assertion that holds, and was not used up yet.
#[derive(Debug)]
pub(crate) struct Assertion {
    pub(crate) agent: Arc<Agent>,
    pub(crate) jti: String,
    /// The last second at which it would be accepted.
    pub(crate) until_unix_s: u64,
}

#[derive(Deserialize)]
struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audience>,
    exp: Option<UnixSeconds>,
    nbf: Option<UnixSeconds>,
    iat: Option<UnixSeconds>,
    jti: Option<String>,
}

/// Verifies an assertion. `decoy` is a key that nobody has the private half of.
pub(crate) fn verify(
    assertion: &str,
    client_id: Option<&str>,
    issuer: &str,
    directory: &Directory,
    decoy: &PublicKey,
    now_unix_s: u64,
) -> Result<Assertion, OAuthError> {
    let unverified = Unverified::read(assertion).map_err(malformed)?;
    if !matches!(
        unverified.typ.as_deref(),
        None | Some("JWT" | "client-authentication+jwt")
    ) {
        let what = "the assertion's typ must be JWT or client-authentication+jwt";
        return Err(refused("ASSERTION_TYPE", what));
    }
    let peeked: Claims = unverified.peek().map_err(malformed)?;
    let entry = peeked.sub.as_deref().and_then(|id| directory.entry(id));
    let key = key_of(entry.as_ref(), unverified.kid.as_deref());
    let claims = unverified.verify::<Claims>(&key.unwrap_or(*decoy).decoding());

    // One answer, whatever of the two it was: no agent or key of that name, or not its signature.
    let (Some(entry), Some(_), Ok(claims)) = (&entry, key, claims) else {
        let reason = if key.is_some() {
            "ASSERTION_SIGNATURE"
        } else {
            "CLIENT_UNKNOWN"
        };
        let what = "unknown client, or the assertion is not signed with its key";
        return Err(refused(reason, what));
    };
    let checked = check(claims, client_id, issuer, &entry.agent, now_unix_s);
    checked.map_err(|error| OAuthError {
        agent: Some(entry.agent.clone()),
        ..error
    })
}

fn key_of(entry: Option<&AgentEntry>, kid: Option<&str>) -> Option<PublicKey> {
    let mut keys = entry?.keys.iter();
    let key = match kid {
        Some(kid) => keys.find(|key| &*key.kid == kid),
        None => keys.next(),
    };
    key.map(|key| key.public)
}

fn check(
    claims: Claims,
    client_id: Option<&str>,
    issuer: &str,
    agent: &Arc<Agent>,
    now_unix_s: u64,
) -> Result<Assertion, OAuthError> {
    if claims.iss.as_deref() != Some(&agent.id) || client_id.is_some_and(|id| id != &*agent.id) {
        let what = "iss, sub and, where it is sent, client_id must all be the client's id";
        return Err(refused("ASSERTION_SUBJECT", what));
    }
    if !claims.aud.is_some_and(|aud| aud.is_only(issuer)) {
        let what = "the assertion's aud must be this issuer, and nothing besides";
        return Err(refused("ASSERTION_AUDIENCE", what));
    }
    let until_unix_s = check_times(claims.exp, [claims.nbf, claims.iat], now_unix_s)?;
    let jti = claims
        .jti
        .filter(|jti| (1..=JTI_CHARS_MAX).contains(&jti.chars().count()));
    let Some(jti) = jti else {
        let what = "the assertion needs a jti of 1 to 128 characters, a new one each time";
        return Err(refused("ASSERTION_JTI", what));
    };
    Ok(Assertion {
        agent: agent.clone(),
        jti,
        until_unix_s,
    })
}

/// The last second at which an assertion of these times is accepted.
fn check_times(
    exp: Option<UnixSeconds>,
    starts: [Option<UnixSeconds>; 2],
    now_unix_s: u64,
) -> Result<u64, OAuthError> {
    let Some(UnixSeconds(exp)) = exp else {
        return Err(refused("ASSERTION_EXPIRY", "the assertion needs an exp"));
    };
    let until = exp.saturating_add(LEEWAY_S);
    if now_unix_s > until {
        let what = "the assertion has expired; make a new one, and check this machine's clock";
        return Err(refused("ASSERTION_EXPIRED", what));
    }
    if exp > now_unix_s.saturating_add(ASSERTION_LIFE_MAX_S + LEEWAY_S) {
        let what = "the assertion's exp must be at most 5 minutes ahead";
        return Err(refused("ASSERTION_EXPIRY", what));
    }
    let latest = now_unix_s.saturating_add(LEEWAY_S);
    if starts.into_iter().flatten().any(|start| start.0 > latest) {
        let what = "the assertion's iat or nbf is in the future; check this machine's clock";
        return Err(refused("ASSERTION_NOT_YET_VALID", what));
    }
    Ok(until)
}

fn malformed(error: JwtError) -> OAuthError {
    match error {
        JwtError::TooLong => refused("ASSERTION_TOO_LONG", "the assertion is longer than 8 KiB"),
        JwtError::Algorithm => refused("ASSERTION_ALGORITHM", "the assertion's alg must be EdDSA"),
        JwtError::Critical => {
            let what = "the assertion has a crit header, and no extension is supported";
            refused("ASSERTION_CRITICAL", what)
        }
        JwtError::Malformed | JwtError::Signature => refused(
            "ASSERTION_MALFORMED",
            "the assertion is not a well-formed JWT",
        ),
    }
}

fn refused(reason: &'static str, description: &'static str) -> OAuthError {
    OAuthError::new(OAuthCode::InvalidClient, reason, description)
}
