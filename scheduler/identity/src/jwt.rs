//! The one place that calls the JWT library to verify anything.
//!
//! `jsonwebtoken` is right about signatures and generous about the rest: it allows a minute of leeway,
//! asks for `exp` alone, lets an absent issuer or audience pass, accepts a list of issuers with ours
//! among them, never looks at `typ`, reads `crit` without enforcing it, and asks the system for the
//! time. So it is used for what it is good at, the signature under a pinned algorithm and a strict
//! decoding, and every rule about claims is written out by those who call this (`verifier`,
//! `assertion`), with `now` as an argument.
//!
//! Nothing here knows what a claim means.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};

/// Longest token or assertion that is looked at, bytes.
pub const TOKEN_BYTES_MAX: usize = 8 << 10;

/// The only algorithm: the one of every key that this system makes (Ed25519).
const ALGORITHM: &str = "EdDSA";

/// What is wrong with a JWT as such.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum JwtError {
    TooLong,
    Malformed,
    Algorithm,
    Critical,
    Signature,
}

/// A JWT whose header is acceptable, and whose signature nobody has looked at yet.
pub(crate) struct Unverified<'a> {
    token: &'a str,
    payload: &'a str,
    pub(crate) typ: Option<String>,
    pub(crate) kid: Option<String>,
}

/// Read by ourselves, because the library's type cannot tell `"alg": "none"` from a broken header,
/// nor `"crit": null` from no `crit`.
#[derive(Deserialize)]
struct Header {
    alg: String,
    typ: Option<String>,
    kid: Option<String>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

fn present<'de, D: Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

impl<'a> Unverified<'a> {
    /// Takes a JWT apart and checks its header: algorithm pinned, nothing critical.
    pub(crate) fn read(token: &'a str) -> Result<Unverified<'a>, JwtError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(JwtError::TooLong);
        }
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Malformed);
        };
        let header: Header = decode(header)?;
        if header.alg != ALGORITHM {
            return Err(JwtError::Algorithm);
        }
        if header.crit {
            return Err(JwtError::Critical);
        }
        Ok(Unverified {
            token,
            payload,
            typ: header.typ,
            kid: header.kid,
        })
    }

    /// What it claims, believed by nobody: good for finding the key to verify it with.
    pub(crate) fn peek<C: DeserializeOwned>(&self) -> Result<C, JwtError> {
        decode(self.payload)
    }

    /// What it claims, once the signature holds under `key`.
    pub(crate) fn verify<C: DeserializeOwned>(&self, key: &DecodingKey) -> Result<C, JwtError> {
        let mut signature_only = Validation::new(Algorithm::EdDSA);
        signature_only.required_spec_claims.clear();
        signature_only.validate_exp = false;
        signature_only.validate_aud = false;
        match jsonwebtoken::decode::<C>(self.token, key, &signature_only) {
            Ok(data) => Ok(data.claims),
            Err(error) => Err(match error.kind() {
                ErrorKind::InvalidSignature => JwtError::Signature,
                ErrorKind::InvalidAlgorithm => JwtError::Algorithm,
                _ => JwtError::Malformed,
            }),
        }
    }
}

fn decode<T: DeserializeOwned>(part: &str) -> Result<T, JwtError> {
    let bytes = URL_SAFE_NO_PAD
        .decode(part)
        .map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)
}

/// A claim that may be absent. One of the wrong kind counts as absent, and so is refused wherever the
/// claim is required, with the claim's name.
#[derive(Clone, Debug)]
pub(crate) struct Claim<T>(pub(crate) Option<T>);

impl<T> Default for Claim<T> {
    fn default() -> Self {
        Claim(None)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Claim<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        Ok(Claim(serde_json::from_value(value).ok()))
    }
}

/// `aud`: one text, or a list of them (RFC 7519, 4.1.3).
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Audience {
    /// Whether it is this audience and no other besides.
    pub(crate) fn is_only(&self, audience: &str) -> bool {
        match self {
            Audience::One(one) => one == audience,
            Audience::Many(many) => matches!(many.as_slice(), [one] if one == audience),
        }
    }
}

/// A NumericDate (RFC 7519, 2): seconds since 1970. Fractions, which some clients send, are cut off.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnixSeconds(pub(crate) u64);

impl<'de> Deserialize<'de> for UnixSeconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Whole numbers above this lose digits in an f64, and no date of use is near it.
        const GREATEST: f64 = 9_007_199_254_740_992.0;
        let number = serde_json::Number::deserialize(deserializer)?;
        if let Some(whole) = number.as_u64() {
            return Ok(UnixSeconds(whole));
        }
        match number.as_f64() {
            Some(value) if (0.0..GREATEST).contains(&value) => Ok(UnixSeconds(value as u64)),
            _ => Err(serde::de::Error::custom("not a NumericDate")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(header: &str) -> String {
        format!(
            "{}.{}.AA",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode("{}")
        )
    }

    fn refusal(header: &str) -> Option<JwtError> {
        Unverified::read(&token(header)).err()
    }

    #[test]
    fn the_header_decides_before_any_key_is_looked_for() {
        assert_eq!(refusal(r#"{"alg":"EdDSA"}"#), None);
        for alg in [
            "none", "None", "HS256", "RS256", "ES256", "eddsa", "Ed25519", "",
        ] {
            assert_eq!(
                refusal(&format!(r#"{{"alg":"{alg}"}}"#)),
                Some(JwtError::Algorithm)
            );
        }
        for crit in ["null", "[]", "0", r#"["exp"]"#] {
            let header = format!(r#"{{"alg":"EdDSA","crit":{crit}}}"#);
            assert_eq!(refusal(&header), Some(JwtError::Critical));
        }
    }

    #[test]
    fn garbage_is_malformed() {
        for header in [
            "",
            "[]",
            "{}",
            r#"{"alg":1}"#,
            r#"{"alg":"EdDSA","alg":"EdDSA"}"#,
        ] {
            assert_eq!(refusal(header), Some(JwtError::Malformed), "{header}");
        }
        for token in ["", ".", "..", "a.b", "a.b.c.d", "é.é.é", "=.=.="] {
            assert_eq!(
                Unverified::read(token).err(),
                Some(JwtError::Malformed),
                "{token}"
            );
        }
        let long = "a".repeat(TOKEN_BYTES_MAX + 1);
        assert_eq!(Unverified::read(&long).err(), Some(JwtError::TooLong));
    }

    #[test]
    fn dates() {
        let read = |text| serde_json::from_str::<UnixSeconds>(text).ok().map(|s| s.0);
        assert_eq!(read("1700000000"), Some(1_700_000_000));
        assert_eq!(read("1700000000.9"), Some(1_700_000_000));
        for bad in ["-1", "-0.5", "1e300", r#""1700000000""#, "null"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_audience_is_exact() {
        let read = |text| {
            serde_json::from_str::<Audience>(text)
                .unwrap()
                .is_only("us")
        };
        assert!(read(r#""us""#) && read(r#"["us"]"#));
        assert!(!read(r#"["us","them"]"#) && !read("[]") && !read(r#""us ""#));
    }
}
