//! What the front door holds for a tenant: answers that nobody reads, and requests that never come to their end. A tenant
//! that has as much of it as it may is refused, and no other.

use bulkhead_proto::v1::EmbedRequest;
use bulkhead_tests::{
    agent::{Agent, reason},
    options::Options,
    raw,
    server::Server,
    wait::{eventually, within},
};
use prost::Message as _;
use std::time::Duration;
use tonic::Code;

/// The least that a tenant may have, and the longest message.
const BYTES_MAX: usize = 16 << 10;
/// Texts of which the answer alone is more.
const TEXTS: usize = 2_000;

async fn serve() -> (Server, Agent, Agent) {
    let options = Options::null(0)
        .with("limits.message_bytes_max", BYTES_MAX as i64)
        .with("limits.tenant_buffer_bytes_max", BYTES_MAX as i64);
    let server = Server::start(options).await;
    let (acme, globex) = (
        server.agent("acme", "reader").await,
        server.agent("globex", "reader").await,
    );
    (server, acme, globex)
}

/// Fails where answers that nobody reads are held without a bound, or count for nobody, or for ever.
#[tokio::test]
async fn who_reads_no_answers_gets_no_more() {
    let (_server, acme, globex) = serve().await;
    let many = EmbedRequest {
        model: "null".into(),
        texts: vec!["a".into(); TEXTS],
        ..EmbedRequest::default()
    };
    let answer = raw::unread(&acme, "Embed", &many.encode_to_vec()).await;
    let client = acme.client().await;
    let status = client.embed("null", &["a text"]).await;
    let status = status.expect_err("refused");
    assert_eq!(reason(&status), "TENANT_BUFFER_FULL", "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let other = globex.client().await;
    other.embed("null", &["a text"]).await.expect("its own");

    let status = raw::ended(answer).await.expect("the whole answer");
    assert_eq!(status.code(), Code::Ok, "{status}");
    let served = async || client.embed("null", &["a text"]).await.ok();
    eventually(Duration::from_secs(10), "room again", served).await;
}

/// Fails where half requests are held without a bound, or count for nobody.
#[tokio::test]
async fn who_sends_half_requests_sends_no_more() {
    let (_server, acme, globex) = serve().await;
    let half = || raw::half(&acme, "Embed", BYTES_MAX / 2 - 8);
    let three = async {
        tokio::select! {
            status = half() => status,
            status = half() => status,
            status = half() => status,
        }
    };
    let status = within(Duration::from_secs(10), "a refusal", three).await;
    let status = status.expect("a status");
    assert_eq!(reason(&status), "TENANT_BUFFER_FULL", "{status}");
    let other = globex.client().await;
    other.embed("null", &["a text"]).await.expect("its own");
}
