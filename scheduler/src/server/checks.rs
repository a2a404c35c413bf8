//! What the fields of a request may hold. Sizes of messages were bounded before this; here are the
//! bounds of meaning, each answered with what to do instead.
//!
//! Nothing here looks at who asks, and no answer repeats what was sent.

mod generation;

use super::errors::Refused;
use crate::config::Limits;
use bulkhead_proto::v1::{Context, EmbedRequest};
pub use generation::generate;
use std::time::Duration;
use tonic::Code;

const CLAIMS_BYTES_MAX: usize = 8 << 10;
const SENSITIVITIES: [&str; 5] = ["", "public", "internal", "confidential", "restricted"];

/// A request to embed.
pub fn embed(limits: &Limits, body: &EmbedRequest) -> Result<(), Refused> {
    let max = limits.texts_per_request_max;
    if body.texts.is_empty() {
        return Err(invalid("there are no texts to embed"));
    }
    if body.texts.len() > max {
        return Err(invalid(format!(
            "{} texts are over the limit of {max} a request; send them in parts",
            body.texts.len()
        )));
    }
    claims(body.context.as_ref())
}

fn claims(context: Option<&Context>) -> Result<(), Refused> {
    let Some(claims) = context else { return Ok(()) };
    let bytes = claims.purpose.len()
        + claims.reason.len()
        + claims.sources.iter().map(String::len).sum::<usize>();
    if bytes > CLAIMS_BYTES_MAX || claims.sources.len() > 256 {
        return Err(invalid(format!(
            "the context is over its limit of {CLAIMS_BYTES_MAX} bytes"
        )));
    }
    if !SENSITIVITIES.contains(&claims.sensitivity.as_str()) {
        return Err(invalid(
            "sensitivity is \"public\", \"internal\", \"confidential\" or \"restricted\"",
        ));
    }
    if !(0.0..=1.0).contains(&claims.confidence) {
        return Err(invalid("confidence is 0 to 1"));
    }
    Ok(())
}

/// Parses a grpc-timeout: at most 8 digits and a unit.
pub fn timeout(text: &str) -> Option<Duration> {
    let digits = text.get(..text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match text.as_bytes().last()? {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// A refusal of what was asked, by its form.
pub fn invalid(message: impl Into<String>) -> Refused {
    Refused::new(Code::InvalidArgument, "REQUEST_INVALID", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(timeout("0n"), Some(Duration::ZERO));
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(
            timeout("99999999H"),
            Some(Duration::from_secs(99_999_999 * 3600))
        );
        for bad in ["", "m", "1", "-1m", "123456789m", "1.5S", "1x", "é"] {
            assert_eq!(timeout(bad), None, "{bad}");
        }
    }
}
