//! A forger who holds the issuer's own key: its tokens are wrong in nothing but what a test says.

use aws_lc_rs::signature::Ed25519KeyPair;
use bulkhead_tests::{
    agent::{Agent, random_hex, reason},
    jwt,
    server::Server,
};
use serde_json::{Value, json};
use std::{fs, sync::Arc};
use tonic::{Code, Status};

/// Makes tokens for one agent.
pub struct Forger {
    // Keeps the server running.
    _server: Arc<Server>,
    pub agent: Agent,
    pub key: Ed25519KeyPair,
    /// Of a good token.
    pub header: Value,
    pub claims: Value,
}

impl Forger {
    pub async fn new() -> Forger {
        let server = super::shared().await;
        let agent = server
            .agent("acme", &format!("forger-{}", random_hex(8)))
            .await;
        let key = fs::read(server.data().join("state/issuer-1.pk8")).expect("the issuer's key");
        let (header, claims) = jwt::parts(&agent.token().await);
        Forger {
            _server: server,
            agent,
            key: Ed25519KeyPair::from_pkcs8_maybe_unchecked(&key).expect("an Ed25519 key"),
            header,
            claims,
        }
    }

    /// The good token with another header or other claims, signed by the issuer's key.
    pub fn token(&self, header: Value, claims: Value) -> String {
        let header = merged(&self.header, header);
        let claims = merged(&self.claims, claims);
        jwt::sign(&header, &claims, &self.key)
    }

    /// Calls with a token.
    pub async fn call(&self, token: &str) -> Result<(), Status> {
        let client = self.agent.client_with(token);
        client.embed("null", &["a text"]).await.map(|_| ())
    }

    /// Demands that a token is refused for this reason and no other.
    pub async fn refused(&self, token: &str, expected: &str) {
        let status = self.call(token).await.expect_err("the token is refused");
        assert_eq!(reason(&status), expected, "{status}");
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    }
}

/// `base` with `changes` put in; null takes a field out.
fn merged(base: &Value, changes: Value) -> Value {
    let mut merged = base.clone();
    let fields = merged.as_object_mut().expect("an object");
    for (name, value) in changes.as_object().expect("an object") {
        match value {
            Value::Null => fields.remove(name),
            value => fields.insert(name.clone(), value.clone()),
        };
    }
    merged
}

/// No change.
pub fn same() -> Value {
    json!({})
}
