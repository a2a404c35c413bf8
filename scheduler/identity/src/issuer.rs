//! The built-in issuer: signs access tokens (RFC 9068), and knows which keys are good for verifying.
//!
//! One key signs. After a rotation the one before is still good for verifying until the last token
//! that it signed has run out. Every key has an epoch, higher than all before it, so that whoever
//! remembers a verified token can tell whether its key is still the same and still good.

use crate::key::{PrivateKey, PublicKey};
use crate::store::IssuerKeyRow;
use crate::{Agent, IdentityError, LEEWAY_S, Scopes};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header};
use serde::Serialize;
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::{NoContext, Timestamp, Uuid};

/// How long an access token is good for, seconds.
pub const TOKEN_LIFE_S: u64 = 15 * 60;

/// The `typ` of access tokens (RFC 9068, 2.1): no other JWT of ours or anybody's carries it.
pub(crate) const TOKEN_TYPE: &str = "at+jwt";

/// Where the server answers what, as absolute URLs.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub token: String,
    pub jwks: String,
}

/// A key that tokens can be verified with.
#[derive(Clone)]
pub(crate) struct VerifyingKey {
    pub(crate) kid: Arc<str>,
    pub(crate) epoch: u64,
    pub(crate) decoding: DecodingKey,
    public: PublicKey,
    /// The last second at which it is good; `None` for the key that signs.
    until_unix_s: Option<u64>,
}

impl VerifyingKey {
    fn new(row: &IssuerKeyRow) -> VerifyingKey {
        let until = |retired: u64| retired.saturating_add(TOKEN_LIFE_S + LEEWAY_S);
        VerifyingKey {
            kid: row.public.kid(),
            epoch: row.epoch,
            decoding: row.public.decoding(),
            public: row.public,
            until_unix_s: row.retired_unix_s.map(until),
        }
    }
}

/// The issuer's keys at one time. Replaced as a whole when they change.
pub(crate) struct KeySet {
    signing: EncodingKey,
    header: Header,
    verifying: Vec<VerifyingKey>,
}

impl KeySet {
    /// Of these rows, and the private half of the one that signs.
    pub(crate) fn new(signing: &PrivateKey, rows: &[IssuerKeyRow]) -> KeySet {
        let mut header = Header::new(Algorithm::EdDSA);
        header.typ = Some(TOKEN_TYPE.to_owned());
        header.kid = Some(signing.public().kid().to_string());
        let verifying = rows.iter().map(VerifyingKey::new).collect();
        KeySet {
            signing: signing.encoding(),
            header,
            verifying,
        }
    }

    /// The key of this id, if it is good at this time.
    pub(crate) fn verifying(&self, kid: &str, now_unix_s: u64) -> Option<&VerifyingKey> {
        let good = |key: &&VerifyingKey| key.until_unix_s.is_none_or(|until| now_unix_s <= until);
        self.verifying
            .iter()
            .find(|key| &*key.kid == kid)
            .filter(good)
    }

    /// The public keys that are good at this time (RFC 7517).
    pub(crate) fn jwks(&self, now_unix_s: u64) -> Value {
        let good = |key: &&VerifyingKey| self.verifying(&key.kid, now_unix_s).is_some();
        let keys: Vec<Value> = self
            .verifying
            .iter()
            .filter(good)
            .map(|key| key.public.jwk())
            .collect();
        json!({ "keys": keys })
    }

    /// Signs an access token.
    pub(crate) fn sign(&self, claims: &AccessClaims<'_>) -> Result<String, IdentityError> {
        let failed = |_| IdentityError::Crypto("no token could be signed");
        jsonwebtoken::encode(&self.header, claims, &self.signing).map_err(failed)
    }
}

/// What an access token says (RFC 9068, 2.2). `tenant` and `agent_generation` are our own.
#[derive(Serialize)]
pub(crate) struct AccessClaims<'a> {
    iss: &'a str,
    aud: &'a str,
    sub: &'a str,
    client_id: &'a str,
    tenant: &'a str,
    scope: String,
    pub(crate) jti: String,
    iat: u64,
    nbf: u64,
    exp: u64,
    agent_generation: u64,
}

impl<'a> AccessClaims<'a> {
    /// Of a token for `agent`, good from now on.
    pub(crate) fn new(
        issuer: &'a str,
        audience: &'a str,
        agent: &'a Agent,
        scopes: Scopes,
        now_unix_s: u64,
    ) -> AccessClaims<'a> {
        AccessClaims {
            iss: issuer,
            aud: audience,
            sub: &agent.id,
            client_id: &agent.id,
            tenant: &agent.tenant,
            scope: scopes.to_string(),
            jti: unique_id(now_unix_s),
            iat: now_unix_s,
            nbf: now_unix_s,
            exp: now_unix_s.saturating_add(TOKEN_LIFE_S),
            agent_generation: agent.generation,
        }
    }
}

/// An id that nobody else has: a UUID of version 7, 32 hexadecimal digits.
pub(crate) fn unique_id(now_unix_s: u64) -> String {
    Uuid::new_v7(Timestamp::from_unix(NoContext, now_unix_s, 0))
        .simple()
        .to_string()
}

/// The authorization server's metadata (RFC 8414).
pub(crate) fn metadata(issuer: &str, endpoints: &Endpoints) -> Value {
    let scopes = Scopes::ALL.names();
    json!({
        "issuer": issuer,
        "token_endpoint": endpoints.token,
        "jwks_uri": endpoints.jwks,
        "scopes_supported": scopes,
        "response_types_supported": [],
        "grant_types_supported": [crate::GRANT_TYPE],
        "token_endpoint_auth_methods_supported": ["private_key_jwt"],
        "token_endpoint_auth_signing_alg_values_supported": ["EdDSA"],
    })
}
