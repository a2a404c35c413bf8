//! Ed25519 keys: agents' and the issuer's, in the forms that others read and write.
//!
//! Private halves are kept as PKCS#8 version 1 (RFC 8410, as OpenSSL writes it, so that every client
//! library reads it) in memory that is zeroed when dropped. A key's id is its RFC 7638 thumbprint:
//! it follows from the key, so two keys never share one, and nobody has to choose it.

use crate::IdentityError;
use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use std::sync::Arc;
use zeroize::Zeroizing;

const PUBLIC_BYTES: usize = 32;

/// The public half of an Ed25519 key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PublicKey([u8; PUBLIC_BYTES]);

impl PublicKey {
    /// The `x` of its JWK (RFC 8037).
    pub(crate) fn x(&self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// Reads what `x` wrote.
    pub(crate) fn from_x(x: &str) -> Option<PublicKey> {
        let bytes = URL_SAFE_NO_PAD.decode(x).ok()?;
        Some(PublicKey(bytes.try_into().ok()?))
    }

    /// Its RFC 7638 thumbprint.
    pub(crate) fn kid(&self) -> Arc<str> {
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, self.x());
        URL_SAFE_NO_PAD
            .encode(digest(&SHA256, canonical.as_bytes()))
            .into()
    }

    /// It as an entry of a JWKS.
    pub(crate) fn jwk(&self) -> serde_json::Value {
        serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA",
            "kid": &*self.kid(), "x": self.x(),
        })
    }

    /// It in the form that the JWT library verifies with.
    pub(crate) fn decoding(&self) -> DecodingKey {
        DecodingKey::from_ed_der(&self.0)
    }
}

/// A whole key pair.
pub(crate) struct PrivateKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: PublicKey,
}

impl PrivateKey {
    /// A new one, from the system's randomness.
    pub(crate) fn generate() -> Result<PrivateKey, IdentityError> {
        let failed = |_| IdentityError::Crypto("no key pair could be made");
        let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(failed)?;
        let key = PrivateKey::from_pkcs8(document.as_ref());
        key.ok_or(IdentityError::Crypto("a new key pair could not be read"))
    }

    /// Reads PKCS#8; `None` where it holds no Ed25519 key.
    pub(crate) fn from_pkcs8(pkcs8: &[u8]) -> Option<PrivateKey> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).ok()?;
        let public = PublicKey(pair.public_key().as_ref().try_into().ok()?);
        Some(PrivateKey {
            pkcs8: Zeroizing::new(pkcs8.to_vec()),
            public,
        })
    }

    /// Its public half.
    pub(crate) fn public(&self) -> PublicKey {
        self.public
    }

    /// It as PKCS#8.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// It as PKCS#8 in PEM (RFC 7468). 48 bytes are exactly one line.
    pub(crate) fn pem(&self) -> Zeroizing<String> {
        let body = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        let mut pem = Zeroizing::new(String::with_capacity(body.len() + 64));
        pem.push_str("-----BEGIN PRIVATE KEY-----\n");
        pem.push_str(&body);
        pem.push_str("\n-----END PRIVATE KEY-----\n");
        pem
    }

    /// It in the form that the JWT library signs with.
    pub(crate) fn encoding(&self) -> EncodingKey {
        EncodingKey::from_ed_der(&self.pkcs8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thumbprint_is_the_one_of_rfc_8037() {
        let public = PublicKey::from_x("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").unwrap();
        assert_eq!(
            &*public.kid(),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn both_halves_survive_their_text() {
        let key = PrivateKey::generate().unwrap();
        assert_eq!(PublicKey::from_x(&key.public().x()), Some(key.public()));
        let again = PrivateKey::from_pkcs8(key.pkcs8()).unwrap();
        assert_eq!(again.public(), key.public());
        assert!(EncodingKey::from_ed_pem(key.pem().as_bytes()).is_ok());
        assert_eq!(key.pem().lines().nth(1).unwrap().len(), 64);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(PublicKey::from_x("short").is_none());
        assert!(PrivateKey::from_pkcs8(b"not a key").is_none());
    }
}
