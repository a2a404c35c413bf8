//! A log that is there and does not answer: nothing of a response leaves before its record is durable,
//! neither the first byte nor the last.
//!
//! Killing processes hardly ever hits that moment; stopping the audit process holds it open.

use bulkhead_tests::{
    agent::{collect, prompt, reason},
    options::Options,
    process::{freeze, thaw},
    records,
    server::Server,
    wait::eventually,
};
use std::{pin::pin, time::Duration};
use tokio::{task::JoinSet, time::timeout};

/// Far longer than these requests take, and well within the server's patience with its log (5 s).
const WITHHELD: Duration = Duration::from_millis(1500);

#[tokio::test]
async fn nothing_leaves_before_its_record_is_durable() {
    let server = Server::start(Options::null(1_000_000)).await;
    let client = server.agent("acme", "reader").await.client().await;
    client.embed("null", &["warm"]).await.expect("served");

    let audit = server.audit();
    freeze(audit);
    {
        let mut embedding = pin!(client.embed("null", &["a text"]));
        let mut stream = pin!(client.generate(prompt("null", "go on", 3)));
        let early = tokio::select! {
            _ = &mut embedding => Some("an embedding"),
            _ = &mut stream => Some("the head of a stream"),
            () = pass(WITHHELD) => None,
        };
        assert_eq!(early, None, "left before its admitted record was durable");
        thaw(audit);
        let embedding = embedding.await.expect("answered once it is on record");
        let whole = collect(stream.await.expect("a stream"))
            .await
            .expect("its end");
        let on_record = records::by_request(&records::all(&server));
        for receipt in [embedding.receipt, whole.done.receipt] {
            let entry = on_record[&receipt.expect("a receipt").request_id];
            assert_eq!((entry.admitted, entry.completed), (1, 1), "{entry:?}");
        }
    }
}

#[tokio::test]
async fn the_last_byte_of_a_stream_waits_for_its_completed_record() {
    let server = Server::start(Options::null(5_000_000)).await;
    let client = server.agent("acme", "reader").await.client().await;
    // 60 tokens of 5 ms: it ends while the log stands still.
    let mut stream = client
        .generate(prompt("null", "go on", 60))
        .await
        .expect("it begins");
    stream.message().await.expect("it runs").expect("a piece");
    let audit = server.audit();
    freeze(audit);
    let mut rest = pin!(collect(stream));
    let early = timeout(WITHHELD, &mut rest).await;
    assert!(
        early.is_err(),
        "it ended before its completed record was durable"
    );
    thaw(audit);
    let whole = rest.await.expect("it ends once that is on record");
    assert_eq!(whole.done.usage.expect("usage").output_tokens, 60);
}

/// What waits for a log that stands still is bounded: beyond it nothing is accepted, and nothing runs.
#[tokio::test]
async fn a_log_that_stands_still_takes_only_so_much() {
    let backlog = 10;
    let options = Options::null(0).with("audit.pending_max", backlog as i64);
    let server = Server::start(options).await;
    let client = server.agent("acme", "reader").await.client().await;
    client.embed("null", &["warm"]).await.expect("served");

    let audit = server.audit();
    freeze(audit);
    let mut waiting = JoinSet::new();
    for _ in 0..backlog {
        let client = client.clone();
        waiting.spawn(async move { client.embed("null", &["a text"]).await.is_ok() });
    }
    let full = eventually(Duration::from_secs(10), "the backlog is full", async || {
        let pending = server.metric("bulkhead_audit_pending", "").await;
        (pending >= backlog as f64).then_some(())
    });
    full.await;
    let refused = client
        .embed("null", &["one more"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&refused), "AUDIT_UNAVAILABLE", "{refused}");
    let (status, _) = server.get("/readyz").await.expect("an answer");
    assert_eq!(status, 503, "and operators see it");
    thaw(audit);
    // Two records each: half as many requests fill the backlog, and the rest may find it full.
    let answered = waiting.join_all().await.into_iter().filter(|ok| *ok);
    assert!(
        answered.count() >= backlog / 2,
        "those that were accepted are answered"
    );
    server.ready().await;
    client
        .embed("null", &["and on"])
        .await
        .expect("served again");
}

/// Ends after `limit`, like a call that is given up then.
async fn pass(limit: Duration) {
    let never = std::future::pending::<()>();
    let _elapsed = timeout(limit, never).await;
}
