//! An agent's standing is looked up on every request, whatever its token says: revoking, suspending
//! and deleting work at once, on what runs as well as on what comes.

use bulkhead_tests::{
    agent::{Agent, Client, prompt, random_hex, reason},
    options::Options,
    server::Server,
    wait::within,
};
use std::time::{Duration, Instant};
use tonic::Code;

/// Promised: new requests and running ones end within a second of the operator's word.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

async fn cached(server: &Server) -> (Agent, Client) {
    let agent = server.agent("acme", &format!("s-{}", random_hex(8))).await;
    let client = agent.client().await;
    for _ in 0..2 {
        client
            .embed("null", &["a text"])
            .await
            .expect("an active agent is served");
    }
    (agent, client)
}

async fn refused(client: &Client, code: Code, expected: &str) {
    let status = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), expected, "{status}");
    assert_eq!(status.code(), code, "{status}");
}

/// Sets a status and demands that a token that was good a moment ago is refused for it, and that no
/// new token is given.
async fn refused_once(status: &str, expected: &str) {
    let server = super::shared().await;
    let (agent, client) = cached(&server).await;
    server
        .admin()
        .await
        .set_status(&agent.id, status)
        .await
        .expect("the operator may");
    refused(&client, Code::PermissionDenied, expected).await;
    let (code, answer) = agent.exchange(&agent.assertion()).await;
    assert_eq!(
        (code, answer["error"].as_str()),
        (401, Some("invalid_client")),
        "{answer}"
    );
}

#[tokio::test]
async fn a_revoked_agent() {
    refused_once("revoked", "AGENT_REVOKED").await;
}

#[tokio::test]
async fn a_suspended_agent() {
    refused_once("suspended", "AGENT_SUSPENDED").await;
}

#[tokio::test]
async fn a_deleted_agent() {
    refused_once("deleted", "AGENT_DELETED").await;
}

#[tokio::test]
async fn a_suspended_agent_comes_back_with_a_new_token_and_not_with_the_old_one() {
    let server = super::shared().await;
    let (agent, client) = cached(&server).await;
    let mut admin = server.admin().await;
    admin
        .set_status(&agent.id, "suspended")
        .await
        .expect("suspended");
    admin
        .set_status(&agent.id, "active")
        .await
        .expect("resumed");
    refused(&client, Code::Unauthenticated, "TOKEN_SUPERSEDED").await;
    let fresh = agent.client().await;
    fresh
        .embed("null", &["a text"])
        .await
        .expect("served again");
}

#[tokio::test]
async fn revoked_is_final() {
    let server = super::shared().await;
    let (agent, _client) = cached(&server).await;
    let mut admin = server.admin().await;
    admin
        .set_status(&agent.id, "revoked")
        .await
        .expect("revoked");
    let status = admin
        .set_status(&agent.id, "active")
        .await
        .expect_err("final");
    assert_eq!(reason(&status), "AGENT_STATUS_FINAL", "{status}");
}

#[tokio::test]
async fn revoking_ends_a_running_stream_and_refuses_what_comes_within_a_second() {
    let server = Server::start(Options::null(5_000_000)).await;
    let agent = server.agent("acme", "streamer").await;
    let other = server.agent("acme", "colleague").await;
    let (client, colleague) = (agent.client().await, other.client().await);
    // Of 5 ms a token, alone: the stream would go on for 20 s.
    let mut stream = client
        .generate(prompt("null", "go on", 4000))
        .await
        .expect("it begins");
    let first = stream.message().await.expect("it runs").expect("a piece");
    assert!(!first.text.is_empty());

    let said = Instant::now();
    server
        .admin()
        .await
        .set_status(&agent.id, "revoked")
        .await
        .expect("revoked");
    let refusal = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&refusal), "AGENT_REVOKED", "{refusal}");
    let end = within(REVOKED_WITHIN, "the stream ends", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ends with an error, not as if it were complete"),
                Err(status) => return status,
            }
        }
    });
    let status = end.await;
    assert!(said.elapsed() < REVOKED_WITHIN, "{:?}", said.elapsed());
    assert_eq!(reason(&status), "AGENT_REVOKED", "{status}");
    colleague
        .embed("null", &["a text"])
        .await
        .expect("nobody else is touched");
}

#[tokio::test]
async fn scopes_are_kept() {
    let server = super::shared().await;
    let mut admin = server.admin().await;
    admin.ensure_tenant("acme").await;
    let name = format!("lister-{}", random_hex(8));
    let lister = admin.create_agent("acme", &name, &["models:read"]).await;
    let client = lister.client().await;
    let status = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "SCOPE_MISSING", "{status}");
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
}
