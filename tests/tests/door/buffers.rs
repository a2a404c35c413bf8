//! What the front door holds for a tenant: answers that nobody reads, and requests that never come to their end. Who has as
//! much of it as it may is refused, and nobody else.

use bulkhead_proto::v1::EmbedRequest;
use bulkhead_tests::{
    agent::{Agent, reason},
    options::Options,
    raw::{self, Line},
    server::Server,
    wait::{eventually, within},
};
use prost::Message as _;
use std::time::Duration;
use tonic::Code;

/// The longest message, and what a tenant may have held.
const MESSAGE_BYTES: usize = 16 << 10;
const BYTES_MAX: usize = 2 * MESSAGE_BYTES;
/// A vector of the null model.
const VECTOR_BYTES: usize = 32;
const SOON: Duration = Duration::from_secs(10);

async fn serve(unread_ms: i64) -> Server {
    let options = Options::null(0)
        .with("limits.message_bytes_max", MESSAGE_BYTES as i64)
        .with("limits.tenant_buffer_bytes_max", BYTES_MAX as i64)
        .with("limits.unread_ms", unread_ms);
    let server = Server::start(options).await;
    // How long its vectors are is known once a worker has loaded the model.
    served(&server.agent("first", "one").await, 1).await;
    server
}

fn texts(count: usize) -> Vec<u8> {
    let request = EmbedRequest {
        model: "null".into(),
        texts: vec!["a".into(); count],
        ..EmbedRequest::default()
    };
    request.encode_to_vec()
}

async fn served(agent: &Agent, count: usize) {
    let status = raw::call(agent, "Embed", &[], &texts(count)).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
}

/// Fails where answers that nobody reads are held without a bound, count for nobody or for ever, or keep siblings out.
#[tokio::test]
async fn who_reads_no_answers_gets_no_more() {
    let server = serve(600_000).await;
    let greedy = server.agent("acme", "greedy").await;
    let most = BYTES_MAX * 7 / 8 / VECTOR_BYTES;
    let mut line = Line::open(&greedy).await.expect("a connection");
    let answer = line.unread(&greedy, "Embed", &texts(most)).await;
    let status = raw::call(&greedy, "Embed", &[], &texts(most)).await;
    assert_eq!(reason(&status), "TENANT_BUFFER_FULL", "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let part = BYTES_MAX / 2 / VECTOR_BYTES;
    served(&server.agent("acme", "modest").await, part - 100).await;
    served(&server.agent("globex", "reader").await, most).await;

    let status = raw::ended(answer).await.expect("the whole answer");
    assert_eq!(status.code(), Code::Ok, "{status}");
    let again = async || {
        let status = raw::call(&greedy, "Embed", &[], &texts(most)).await;
        (status.code() == Code::Ok).then_some(())
    };
    eventually(SOON, "room again", again).await;
}

/// Fails where half requests are held without a bound, or keep siblings out.
#[tokio::test]
async fn who_sends_half_requests_sends_no_more() {
    let server = serve(600_000).await;
    let greedy = server.agent("acme", "greedy").await;
    let half = || raw::half(&greedy, "Embed", MESSAGE_BYTES / 2 - 8);
    let five = async {
        tokio::select! {
            status = half() => status,
            status = half() => status,
            status = half() => status,
            status = half() => status,
            status = half() => status,
        }
    };
    let modest = server.agent("acme", "modest").await;
    let status = within(SOON, "a refusal", five).await.expect("a status");
    assert_eq!(reason(&status), "TENANT_BUFFER_FULL", "{status}");
    served(&modest, 10).await;
}

/// Fails where an answer that nobody reads stays for ever, or takes with it what shares its connection.
#[tokio::test]
async fn an_answer_that_is_left_ends_and_no_other() {
    let server = serve(300).await;
    let (careless, careful) = (
        server.agent("acme", "careless").await,
        server.agent("globex", "careful").await,
    );
    let count = BYTES_MAX * 7 / 8 / VECTOR_BYTES;
    let mut line = Line::open(&careless).await.expect("a connection");
    let left = line.unread(&careless, "Embed", &texts(count)).await;
    let cut = async || {
        (server
            .metric("bulkhead_refused_total", "ANSWER_UNREAD")
            .await
            > 0.0)
            .then_some(())
    };
    eventually(SOON, "the answer is cut", cut).await;
    assert!(raw::ended(left).await.is_err(), "it ended well");
    let status = raw::ended(line.unread(&careful, "Embed", &texts(10)).await).await;
    let status = status.expect("the connection holds");
    assert_eq!(status.code(), Code::Ok, "{status}");
}
