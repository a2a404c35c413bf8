//! What is too large, malformed, late or unknown.

use bulkhead_proto::v1::{EmbedRequest, Limit, Limits, UpdateTenantRequest};
use bulkhead_tests::{
    agent::{Agent, reason},
    http,
    options::Options,
    raw, records,
    server::Server,
    wait::within,
};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;

async fn serve() -> (Server, Agent) {
    let server = Server::start(Options::null(0)).await;
    let agent = server.agent("acme", "reader").await;
    (server, agent)
}

#[tokio::test]
async fn an_oversize_message() {
    let (_server, agent) = serve().await;
    let client = agent.client().await;
    let text = "x".repeat(5 << 20);
    let status = client.embed("null", &[&text]).await.expect_err("refused");
    assert_eq!(reason(&status), "MESSAGE_TOO_LARGE", "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    client
        .embed("null", &["small"])
        .await
        .expect("the connection is as good as before");
}

/// Just under the limit of 4 MiB: the limit is one of messages and not of something smaller.
#[tokio::test]
async fn a_large_message_within_the_limit_is_taken() {
    let (_server, agent) = serve().await;
    let text = "x".repeat((4 << 20) - 1024);
    let answer = agent.client().await.embed("null", &[&text]).await;
    if let Err(status) = answer {
        assert_ne!(reason(&status), "MESSAGE_TOO_LARGE", "{status}");
        assert_ne!(reason(&status), "MESSAGE_MALFORMED", "{status}");
    }
}

#[tokio::test]
async fn a_text_that_is_not_utf8() {
    let (_server, agent) = serve().await;
    let message = [raw::field(1, b"null"), raw::field(2, b"caf\xe9")].concat();
    let status = raw::call(&agent, "Embed", &[], &message).await;
    assert_eq!(reason(&status), "TEXT_NOT_UTF8", "{status}");
    assert_eq!(status.code(), Code::InvalidArgument);
    // The same by hand with good UTF-8 is served: the call itself was in order.
    let message = [raw::field(1, b"null"), raw::field(2, "café".as_bytes())].concat();
    assert_eq!(
        raw::call(&agent, "Embed", &[], &message).await.code(),
        Code::Ok
    );
}

#[tokio::test]
async fn a_message_that_is_none() {
    let (_server, agent) = serve().await;
    let status = raw::call(&agent, "Embed", &[], &[0xff; 20]).await;
    assert_eq!(reason(&status), "MESSAGE_MALFORMED", "{status}");
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_deadline_already_past() {
    let (_server, agent) = serve().await;
    let message = [raw::field(1, b"null"), raw::field(2, b"a text")].concat();
    for timeout in ["0n", "1n", "0S"] {
        let status = raw::call(&agent, "Embed", &[("grpc-timeout", timeout)], &message).await;
        assert_eq!(reason(&status), "DEADLINE_PAST", "{timeout}: {status}");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
    let status = raw::call(&agent, "Embed", &[("grpc-timeout", "60S")], &message).await;
    assert_eq!(status.code(), Code::Ok, "{status}");
}

#[tokio::test]
async fn a_deadline_that_passes_while_the_request_runs() {
    let server = Server::start(Options::null(5_000_000)).await;
    let agent = server.agent("acme", "reader").await;
    // 100 tokens of 5 ms; the fields are model, prompt and max_tokens.
    let mut message = [raw::field(1, b"null"), raw::field(3, b"go on")].concat();
    message.extend_from_slice(&[4 << 3, 100]);
    let status = raw::call(&agent, "Generate", &[("grpc-timeout", "200m")], &message).await;
    assert_eq!(reason(&status), "DEADLINE_EXCEEDED", "{status}");
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_malformed_deadline() {
    let (_server, agent) = serve().await;
    let message = [raw::field(1, b"null"), raw::field(2, b"a text")].concat();
    let status = raw::call(&agent, "Embed", &[("grpc-timeout", "soon")], &message).await;
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
}

#[tokio::test]
async fn an_unknown_method() {
    let (_server, agent) = serve().await;
    let status = raw::call(&agent, "Divine", &[], &[]).await;
    assert_eq!(reason(&status), "METHOD_UNKNOWN", "{status}");
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test]
async fn requests_that_ask_for_nothing_or_for_too_much() {
    let (_server, agent) = serve().await;
    let client = agent.client().await;
    let status = client.embed("null", &[]).await.expect_err("refused");
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
    let many = EmbedRequest {
        model: "null".into(),
        texts: vec![String::new(); 2049],
        ..EmbedRequest::default()
    };
    let status = client.inference.clone().embed(client.request(many)).await;
    let status = status.expect_err("refused");
    assert_eq!(reason(&status), "REQUEST_INVALID", "{status}");
    let status = client
        .embed("nonesuch", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "MODEL_NOT_FOUND", "{status}");
}

#[tokio::test]
async fn headers_over_the_limit() {
    let (_server, agent) = serve().await;
    let client = agent.client().await;
    let padded = client
        .clone()
        .with_header("x-padding", &"x".repeat(64 << 10));
    padded
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    agent
        .client()
        .await
        .embed("null", &["a text"])
        .await
        .expect("others are served");
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let server = Server::start(Options::null(0).with("limits.idle_ms", 300)).await;
    let ca = std::fs::read_to_string(&server.endpoints().ca).expect("the authority");
    let connection = http::connect_tls(&server.endpoints().agents, &ca, "http/1.1").await;
    let mut connection = connection.expect("a connection");
    let mut rest = Vec::new();
    let end = connection.read_to_end(&mut rest);
    let end = within(Duration::from_secs(4), "the server closes it", end).await;
    // Closed in order or cut: it is gone either way, and nothing was said.
    assert!(end.is_err() || rest.is_empty(), "{rest:?}");
}

/// What goes beyond an agent's minute is refused, with when to try again; its sibling is served.
#[tokio::test]
async fn what_an_agent_may_have_a_minute() {
    let options = Options::null(0).with("scheduling.agent_requests_per_minute", 2);
    let server = Server::start(options).await;
    let (busy, sibling) = (
        server.agent("acme", "busy").await.client().await,
        server.agent("acme", "sibling").await.client().await,
    );
    for _ in 0..2 {
        busy.embed("null", &["a text"]).await.expect("its minute");
    }
    let status = busy.embed("null", &["one more"]).await;
    let status = status.expect_err("beyond it");
    assert_eq!(reason(&status), "AGENT_RATE_LIMIT", "{status}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry = status.get_error_details().retry_info().cloned();
    let delay = retry.and_then(|retry| retry.retry_delay);
    let due = delay.expect("when to try again");
    assert!(!due.is_zero() && due <= Duration::from_secs(30), "{due:?}");
    sibling.embed("null", &["a text"]).await.expect("its own");
}

/// A limit of one tenant's own counts from its next request on, for nobody else, and after a restart.
#[tokio::test]
async fn what_one_tenant_may_have_a_minute() {
    let mut server = Server::start(Options::null(0)).await;
    let acme = server.agent("acme", "reader").await.client().await;
    let globex = server.agent("globex", "reader").await.client().await;
    let requests = |per_minute| UpdateTenantRequest {
        name: "acme".into(),
        weight: Some(3),
        limits: Some(Limits {
            requests: Some(Limit { per_minute }),
            ..Limits::default()
        }),
        regions: None,
    };
    let mut admin = server.admin().await;
    acme.embed("null", &["a text"]).await.expect("no limit yet");
    let changed = admin.update_tenant(requests(Some(2))).await;
    assert_eq!(changed.expect("changed").weight, 3);
    for _ in 0..2 {
        acme.embed("null", &["a text"]).await.expect("its minute");
    }
    let status = acme.embed("null", &["one more"]).await;
    let status = status.expect_err("beyond it");
    assert_eq!(reason(&status), "TENANT_RATE_LIMIT", "{status}");
    globex.embed("null", &["a text"]).await.expect("its own");
    let weights = admin.status().await.tenants;
    let weight = |name| weights.iter().find(|t| t.name == name).map(|t| t.weight);
    assert_eq!((weight("acme"), weight("globex")), (Some(3), Some(1)));

    server.stop().await;
    server.restart().await;
    let mut admin = server.admin().await;
    for _ in 0..2 {
        acme.embed("null", &["a text"]).await.expect("a new minute");
    }
    let status = acme.embed("null", &["one more"]).await;
    let status = status.expect_err("beyond it");
    assert_eq!(reason(&status), "TENANT_RATE_LIMIT", "{status}");
    let said = server.command(&[
        "tenant",
        "update",
        "acme",
        "--requests-per-minute",
        "default",
    ]);
    let said = said.expect("as the settings say");
    assert!(
        said.contains("weight 3, regions: any, limits a minute: others as bulkhead.toml says"),
        "{said}"
    );
    acme.embed("null", &["a text"]).await.expect("no limit");

    let nothing = UpdateTenantRequest {
        name: "acme".into(),
        ..UpdateTenantRequest::default()
    };
    let status = admin.update_tenant(nothing).await.expect_err("nothing");
    assert_eq!(reason(&status), "UPDATE_EMPTY", "{status}");
    let bodies: Vec<_> = records::all(&server).iter().map(records::body).collect();
    let updates = bodies.iter().filter(|body| body["act"] == "tenant.update");
    assert_eq!(updates.count(), 2, "{bodies:?}");
}
