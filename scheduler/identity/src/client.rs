//! The other side: what an agent written in Rust needs to ask for a token.
//!
//! Here so that the command line, the load generator and the tests make assertions in one way.

use crate::issuer::unique_id;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

/// How long an assertion made here is good for, seconds. It is used at once.
pub const ASSERTION_LIFE_S: u64 = 60;

/// The private key is no Ed25519 key in PKCS#8 and PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no Ed25519 private key in PEM, as `bulkhead agent create` prints it")]
pub struct BadKey;

/// Makes an assertion by which the agent `client_id` proves itself to `issuer`, good for one token.
pub fn client_assertion(
    private_key_pem: &str,
    client_id: &str,
    issuer: &str,
    now_unix_s: u64,
) -> Result<String, BadKey> {
    let key = EncodingKey::from_ed_pem(private_key_pem.as_bytes()).map_err(|_| BadKey)?;
    let claims = json!({
        "iss": client_id, "sub": client_id, "aud": issuer,
        "iat": now_unix_s, "exp": now_unix_s.saturating_add(ASSERTION_LIFE_S),
        "jti": unique_id(now_unix_s),
    });
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).map_err(|_| BadKey)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused() {
        let rsa = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for pem in ["", "x", rsa] {
            assert_eq!(client_assertion(pem, "agt_1", "https://a", 0), Err(BadKey));
        }
    }
}
