//! The client assertion (RFC 7523): a signed statement, good once and for a minute, by which an
//! agent proves that it holds its private key without ever sending it.
//!
//! The clock and the number used once are arguments, so that what is signed can be tested.

use crate::{credentials::Credentials, error::ClientError};
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls_pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Serialize;
use zeroize::Zeroizing;

/// How long an assertion may be used, seconds.
const LIFE_S: u64 = 60;

#[derive(Serialize)]
struct Header<'a> {
    alg: &'static str,
    typ: &'static str,
    kid: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
}

/// Signs one assertion. `jti` must never have been used before; `now_unix_s` is the time now.
pub fn sign(credentials: &Credentials, jti: &str, now_unix_s: u64) -> Result<String, ClientError> {
    let key = key(&credentials.private_key_pem)?;
    let header = Header {
        alg: "EdDSA",
        typ: "JWT",
        kid: &credentials.key_id,
    };
    let claims = Claims {
        iss: &credentials.agent,
        sub: &credentials.agent,
        aud: credentials.assertion_audience(),
        jti,
        iat: now_unix_s,
        exp: now_unix_s.saturating_add(LIFE_S),
    };
    let mut token = format!("{}.{}", part(&header)?, part(&claims)?);
    let signature = URL_SAFE_NO_PAD.encode(key.sign(token.as_bytes()));
    token.push('.');
    token.push_str(&signature);
    Ok(token)
}

/// 128 random bits: unguessable, and never the same twice.
pub fn fresh_jti() -> Result<String, ClientError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| ClientError::Field {
        field: "assertion",
        message: "this machine gives no random numbers".into(),
    })?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn key(pem: &str) -> Result<Ed25519KeyPair, ClientError> {
    let fail = |message: String| ClientError::Field {
        field: "private_key_pem",
        message,
    };
    let der = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes())
        .map(Zeroizing::new)
        .map_err(|e| fail(format!("no PKCS#8 key in PEM: {e}")))?;
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|e| fail(format!("no Ed25519 key: {e}")))
}

fn part(value: &impl Serialize) -> Result<String, ClientError> {
    let json = serde_json::to_vec(value).map_err(|e| ClientError::Field {
        field: "assertion",
        message: e.to_string(),
    })?;
    Ok(URL_SAFE_NO_PAD.encode(json))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::tests::sample;
    use bulkhead_identity::{
        ASSERTION_TYPE, GRANT_TYPE, Identity, NewTenant, Scopes, TokenRequest,
    };

    const NOW: u64 = 1_700_000_000;

    fn decode(part: &str) -> serde_json::Value {
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
    }

    #[test]
    fn an_assertion_says_who_for_whom_and_until_when() {
        let token = sign(&sample(), "once", 1_000).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        assert_eq!(
            decode(parts[0]),
            serde_json::json!({"alg": "EdDSA", "typ": "JWT", "kid": "k1"})
        );
        assert_eq!(
            decode(parts[1]),
            serde_json::json!({
                "iss": "agt_1", "sub": "agt_1", "aud": "https://127.0.0.1:8443",
                "jti": "once", "iat": 1000, "exp": 1060
            })
        );
    }

    #[tokio::test]
    async fn the_servers_own_check_accepts_it_once() {
        let dir = tempfile::tempdir().unwrap();
        let issuer = "https://127.0.0.1:8443";
        let database = dir.path().join("identity.db");
        let identity = Identity::open(&database, issuer, "bulkhead", NOW)
            .await
            .unwrap();
        let tenant = NewTenant {
            name: "acme".into(),
            ..NewTenant::default()
        };
        identity.create_tenant(tenant, NOW).await.unwrap();
        let new = identity
            .create_agent("acme", "reader", Scopes::ALL, NOW)
            .await
            .unwrap();
        let credentials = Credentials {
            agent: new.agent.id.to_string(),
            key_id: new.key_id.clone(),
            private_key_pem: Zeroizing::new(new.private_key_pem.to_string()),
            ..sample()
        };
        let assertion = sign(&credentials, "once", NOW).unwrap();
        let request = || TokenRequest {
            grant_type: Some(GRANT_TYPE.into()),
            client_assertion_type: Some(ASSERTION_TYPE.into()),
            client_assertion: Some(assertion.clone()),
            client_id: None,
            scope: None,
        };
        assert!(identity.exchange(&request(), NOW).await.is_ok());
        assert!(
            identity.exchange(&request(), NOW).await.is_err(),
            "a replay"
        );
    }

    #[test]
    fn a_key_that_is_none_is_refused_by_name() {
        let mut credentials = sample();
        *credentials.private_key_pem = "hello".into();
        let error = sign(&credentials, "once", 1).unwrap_err().to_string();
        assert!(error.contains("private_key_pem"), "{error}");
    }

    #[test]
    fn no_number_is_given_twice() {
        assert_ne!(fresh_jti().unwrap(), fresh_jti().unwrap());
    }
}
