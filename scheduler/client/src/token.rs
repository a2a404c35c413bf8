//! Access tokens: fetched with a client assertion, kept, and renewed at four fifths of their life.
//!
//! Renewal happens on the way of the request that needs it; nothing runs in the background. Many
//! requests that find the token stale fetch one token, not many.

use crate::{
    assertion,
    credentials::Credentials,
    error::{ClientError, chain, unreachable_because},
    tls::{Alpn, Server},
};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::sync::Mutex;
use zeroize::Zeroizing;

/// How long fetching one token may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(10);
/// No token is kept for longer than a day, whatever the server says.
const TOKEN_LIFE_S_MAX: u64 = 86_400;
/// No token endpoint's answer is longer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Gives a token that is good for now.
pub struct TokenSource {
    credentials: Credentials,
    server: Server,
    scope: Option<String>,
    held: Mutex<Option<Held>>,
}

/// A token, and how long it was given for.
#[derive(Clone)]
pub struct AccessToken {
    pub secret: Zeroizing<String>,
    /// Life left when it was handed out, seconds.
    pub expires_in_s: u64,
}

struct Held {
    token: Zeroizing<String>,
    renew_at: Instant,
    ends_at: Instant,
}

impl Held {
    fn at(&self, now: Instant) -> AccessToken {
        AccessToken {
            secret: self.token.clone(),
            expires_in_s: self.ends_at.saturating_duration_since(now).as_secs(),
        }
    }
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct Denied {
    error: String,
    #[serde(default)]
    error_description: String,
}

impl TokenSource {
    /// `scope` narrows the token; `None` asks for all that the agent has.
    pub fn new(credentials: Credentials, scope: Option<String>) -> Result<Self, ClientError> {
        Ok(TokenSource {
            server: Server::new(&credentials.issuer, &credentials.ca_pem)?,
            credentials,
            scope,
            held: Mutex::new(None),
        })
    }

    /// Who gives the tokens, and takes them.
    pub fn server(&self) -> &Server {
        &self.server
    }

    /// The token held, or a new one where four fifths of its life are over.
    pub async fn get(&self) -> Result<AccessToken, ClientError> {
        let mut held = self.held.lock().await;
        let asked = Instant::now();
        if let Some(held) = held.as_ref().filter(|held| asked < held.renew_at) {
            return Ok(held.at(asked));
        }
        let granted = self.fetch().await?;
        let life_s = granted.expires_in.min(TOKEN_LIFE_S_MAX);
        let fresh = Held {
            token: Zeroizing::new(granted.access_token),
            renew_at: asked + renew_after(life_s),
            ends_at: asked + Duration::from_secs(life_s),
        };
        let token = fresh.at(asked);
        *held = Some(fresh);
        Ok(token)
    }

    async fn fetch(&self) -> Result<Granted, ClientError> {
        let form = Zeroizing::new(self.form()?);
        let exchange = self.post(form.as_bytes().to_vec().into());
        let (status, body) = tokio::time::timeout(FETCH_TIMEOUT, exchange)
            .await
            .map_err(|_| self.unreachable("no answer from its token endpoint"))??;
        if status.is_success() {
            return serde_json::from_slice(&body)
                .map_err(|e| self.unreachable(&format!("its token endpoint's answer: {e}")));
        }
        match serde_json::from_slice::<Denied>(&body) {
            Ok(denied) => Err(ClientError::Token {
                error: denied.error,
                description: denied.error_description,
            }),
            Err(_) => Err(self.unreachable(&format!("its token endpoint answered {status}"))),
        }
    }

    fn form(&self) -> Result<String, ClientError> {
        let now_unix_s = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let jti = assertion::fresh_jti()?;
        let assertion = assertion::sign(&self.credentials, &jti, now_unix_s)?;
        let mut form = format!(
            "grant_type=client_credentials\
             &client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer\
             &client_assertion={assertion}"
        );
        if let Some(scope) = &self.scope {
            form.push_str("&scope=");
            form.push_str(&form_encoded(scope));
        }
        Ok(form)
    }

    async fn post(&self, form: Bytes) -> Result<(http::StatusCode, Bytes), ClientError> {
        let fail = |e: &dyn std::error::Error| self.unreachable(&chain(e));
        let stream = self
            .server
            .connect(Alpn::Http1)
            .await
            .map_err(|e| self.unreachable(&unreachable_because(&e)))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|e| fail(&e))?;
        let request = http::Request::post("/oauth/token")
            .header("host", self.server.authority())
            .header("content-type", "application/x-www-form-urlencoded")
            .header("accept", "application/json")
            .body(Full::new(form))
            .map_err(|e| fail(&e))?;
        // The connection ends with the exchange: when `sender` goes, so does the task.
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|e| fail(&e))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|e| self.unreachable(&e.to_string()))?;
        Ok((status, body.to_bytes()))
    }

    fn unreachable(&self, message: &str) -> ClientError {
        ClientError::Unreachable {
            address: self.server.authority(),
            message: message.to_owned(),
        }
    }
}

/// Four fifths of a token's life.
fn renew_after(expires_in_s: u64) -> Duration {
    Duration::from_millis(expires_in_s.saturating_mul(800))
}

/// `application/x-www-form-urlencoded`: all but the unreserved characters as `%XX`.
fn form_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_at_four_fifths_of_its_life() {
        assert_eq!(renew_after(900), Duration::from_secs(720));
        assert_eq!(renew_after(0), Duration::ZERO);
    }

    #[test]
    fn scopes_are_encoded_for_a_form() {
        assert_eq!(form_encoded("embed models:read"), "embed%20models%3Aread");
    }
}
