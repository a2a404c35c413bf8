//! SIGTERM: no new requests, running ones finish, the log is sealed.

use bulkhead_tests::{
    agent::{collect, prompt, reason},
    options::Options,
    records,
    server::Server,
    wait::eventually,
};
use std::time::Duration;

#[tokio::test]
async fn a_running_stream_finishes_and_the_log_is_sealed() {
    let mut server = Server::start(Options::null(5_000_000)).await;
    let agent = server.agent("acme", "streamer").await;
    let (client, second) = (agent.client().await, agent.client().await);
    second.embed("null", &["a text"]).await.expect("served");
    // 400 tokens of 5 ms: two seconds.
    let mut stream = client
        .generate(prompt("null", "go on", 400))
        .await
        .expect("it begins");
    stream.message().await.expect("it runs").expect("a piece");
    server.terminate();

    // On a connection that was open before, and on a new one.
    let refusal = eventually(
        Duration::from_secs(1),
        "new requests are refused",
        async || second.embed("null", &["a text"]).await.err(),
    );
    let refusal = refusal.await;
    assert!(
        ["DRAINING", ""].contains(&reason(&refusal).as_str()),
        "refused as draining, or not even connected: {refusal}"
    );
    let whole = collect(stream).await.expect("what runs is let finish");
    assert_eq!(whole.done.usage.expect("usage").output_tokens, 400);
    assert_eq!(server.ended().await, Some(0));

    let said = server
        .command(&["audit", "verify", "--json"])
        .expect("it verifies");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&report["closed"], &report["open_requests"]),
        (&true.into(), &0.into())
    );
    let request = whole.done.receipt.expect("a receipt").request_id;
    let entry = records::by_request(&records::all(&server))[&request];
    assert_eq!(
        (entry.admitted, entry.completed, entry.abandoned),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_ended_and_told() {
    let mut server = Server::start(Options::null(5_000_000).with("server.drain_ms", 300)).await;
    let client = server.agent("acme", "streamer").await.client().await;
    let mut stream = client
        .generate(prompt("null", "go on", 4000))
        .await
        .expect("it begins");
    stream.message().await.expect("it runs").expect("a piece");
    server.terminate();
    let status = collect(stream).await.map(|_| ()).expect_err("it is cut");
    assert_eq!(reason(&status), "DRAINING", "{status}");
    assert_eq!(server.ended().await, Some(0));
    server.command(&["audit", "verify"]).expect("it verifies");
}

#[tokio::test]
async fn a_server_goes_on_where_it_ended() {
    let mut server = Server::start(Options::null(0)).await;
    let agent = server.agent("acme", "reader").await;
    let client = agent.client().await;
    let before = client.embed("null", &["a text"]).await.expect("served");
    assert_eq!(server.stop().await, Some(0));
    server.restart().await;
    // The same token: the issuer and its key are still the same.
    let after = client
        .embed("null", &["a text"])
        .await
        .expect("served again");
    let position = |answer: bulkhead_proto::v1::EmbedResponse| {
        answer.receipt.expect("a receipt").completed_position
    };
    assert!(
        position(before) < position(after),
        "the tenant's tree only grows"
    );
    assert_eq!(server.stop().await, Some(0));
    server
        .command(&["audit", "verify"])
        .expect("one log, two lives");
}
