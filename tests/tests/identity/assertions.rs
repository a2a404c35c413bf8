//! Assertions at the token endpoint (RFC 7523): good for one token each, over restarts too.

use aws_lc_rs::signature::Ed25519KeyPair;
use bulkhead_tests::{
    agent::{Agent, now_unix_s, random_hex},
    http, jwt,
    options::Options,
    server::Server,
};
use serde_json::{Value, json};

async fn agent() -> (std::sync::Arc<Server>, Agent) {
    let server = super::shared().await;
    let agent = server.agent("acme", &format!("a-{}", random_hex(8))).await;
    (server, agent)
}

/// Demands a refusal of the client whose description holds `word`.
fn refused((status, answer): (u16, Value), word: &str) {
    assert_eq!(
        (status, answer["error"].as_str()),
        (401, Some("invalid_client")),
        "{answer}"
    );
    let description = answer["error_description"].as_str().unwrap_or("");
    assert!(description.contains(word), "{answer} says {word:?}");
}

#[tokio::test]
async fn a_replayed_assertion() {
    let (_server, agent) = agent().await;
    let assertion = agent.assertion();
    let (status, answer) = agent.exchange(&assertion).await;
    assert_eq!(
        (status, answer["token_type"].as_str()),
        (200, Some("Bearer")),
        "{answer}"
    );
    refused(agent.exchange(&assertion).await, "used before");
}

#[tokio::test]
async fn a_replayed_assertion_after_a_restart() {
    let mut server = Server::start(Options::null(0)).await;
    let agent = server.agent("acme", "reader").await;
    let assertion = agent.assertion();
    assert_eq!(agent.exchange(&assertion).await.0, 200);
    assert_eq!(server.stop().await, Some(0));
    server.restart().await;
    refused(agent.exchange(&assertion).await, "used before");
    assert_eq!(
        agent.exchange(&agent.assertion()).await.0,
        200,
        "a new one is taken"
    );
}

#[tokio::test]
async fn an_assertion_for_somebody_else() {
    let (_server, agent) = agent().await;
    let mut claims = agent.assertion_claims();
    claims["aud"] = "https://127.0.0.1:1".into();
    refused(agent.exchange(&agent.sign(&claims)).await, "aud");
}

#[tokio::test]
async fn an_expired_assertion() {
    let (_server, agent) = agent().await;
    let mut claims = agent.assertion_claims();
    claims["exp"] = (now_unix_s() - 6).into();
    refused(agent.exchange(&agent.sign(&claims)).await, "expired");
}

#[tokio::test]
async fn an_assertion_that_lives_too_long() {
    let (_server, agent) = agent().await;
    let mut claims = agent.assertion_claims();
    claims["exp"] = (now_unix_s() + 3600).into();
    refused(agent.exchange(&agent.sign(&claims)).await, "5 minutes");
}

#[tokio::test]
async fn an_assertion_without_jti() {
    let (_server, agent) = agent().await;
    let mut claims = agent.assertion_claims();
    claims.as_object_mut().expect("an object").remove("jti");
    refused(agent.exchange(&agent.sign(&claims)).await, "jti");
}

/// A stranger learns nothing: an unknown client and a wrong signature get one and the same answer.
#[tokio::test]
async fn a_strangers_assertion() {
    let (_server, agent) = agent().await;
    let stranger = Ed25519KeyPair::generate().expect("a key");
    let header = json!({ "alg": "EdDSA", "typ": "JWT", "kid": agent.key_id });
    let forged = jwt::sign(&header, &agent.assertion_claims(), &stranger);
    let known = agent.exchange(&forged).await;

    let mut claims = agent.assertion_claims();
    claims["sub"] = "agt_nobody".into();
    claims["iss"] = "agt_nobody".into();
    let unknown = agent
        .exchange(&jwt::sign(&header, &claims, &stranger))
        .await;
    assert_eq!(known, unknown);
    refused(known, "unknown client");
}

#[tokio::test]
async fn what_the_issuer_publishes() {
    let (_server, agent) = agent().await;
    let get = async |path| {
        let (status, body) = http::get_tls(&agent.issuer, &agent.ca_pem, path)
            .await
            .expect("an answer");
        assert_eq!(status, 200, "{path}");
        serde_json::from_str::<Value>(&body).expect("JSON")
    };
    let metadata = get("/.well-known/oauth-authorization-server").await;
    assert_eq!(metadata["issuer"], agent.issuer.as_str());
    let token = format!("{}/oauth/token", agent.issuer);
    assert_eq!(metadata["token_endpoint"], token.as_str());

    let keys = get("/.well-known/jwks.json").await;
    let (header, _) = jwt::parts(&agent.token().await);
    let key = keys["keys"]
        .as_array()
        .and_then(|keys| keys.iter().find(|k| k["kid"] == header["kid"]));
    let key = key.expect("the signing key is published");
    assert_eq!(
        (&key["kty"], &key["crv"]),
        (&json!("OKP"), &json!("Ed25519"))
    );
    assert!(key.get("d").is_none(), "and its private half is not");
}
