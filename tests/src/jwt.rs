//! JSON Web Tokens made by hand, so that every part of one can be wrong on purpose.

use aws_lc_rs::{hmac, signature::Ed25519KeyPair};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

/// base64url without padding.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The bytes of a base64url text.
pub fn decode(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).expect("base64url")
}

/// Signed with Ed25519, whatever the header says.
pub fn sign(header: &Value, claims: &Value, key: &Ed25519KeyPair) -> String {
    with_signature(header, claims, |input| key.sign(input).as_ref().to_vec())
}

/// Authenticated with HMAC-SHA-256 under `secret`.
pub fn sign_hs256(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    with_signature(header, claims, |input| {
        hmac::sign(&key, input).as_ref().to_vec()
    })
}

/// With any signature.
pub fn with_signature(
    header: &Value,
    claims: &Value,
    sign: impl FnOnce(&[u8]) -> Vec<u8>,
) -> String {
    let part = |value: &Value| encode(value.to_string().as_bytes());
    let input = format!("{}.{}", part(header), part(claims));
    let signature = encode(&sign(input.as_bytes()));
    format!("{input}.{signature}")
}

/// The header and the claims of a token.
pub fn parts(token: &str) -> (Value, Value) {
    let mut parts = token.split('.');
    let mut part = || {
        let text = parts.next().expect("a token has three parts");
        serde_json::from_slice(&decode(text)).expect("JSON")
    };
    (part(), part())
}
