//! A log that has no room: requests are refused with their reason, what was accepted is kept, and
//! service resumes by itself when there is room again.

use bulkhead_proto::v1::{Context, EmbedRequest};
use bulkhead_tests::{
    agent::{Client, reason},
    models::turn,
    options::Options,
    records,
    server::Server,
    wait::eventually,
};
use std::{fs, time::Duration};
use tonic::Code;

/// The log grows by segments of 16 MiB: with the ballast beside it, one fits and a second does not.
const LOG_BYTES_MAX: i64 = 40 << 20;
const BALLAST_BYTES: usize = 20 << 20;
/// Requests of 8 KiB of claims that fill one segment, twice over.
const REQUESTS_MAX: usize = 6000;
const AT_ONCE: usize = 16;

async fn ask(client: &Client) -> Result<String, tonic::Status> {
    let request = client.request(EmbedRequest {
        model: "null".into(),
        texts: vec!["a text".into()],
        context: Some(Context {
            purpose: "p".repeat(8000),
            ..Default::default()
        }),
        ..EmbedRequest::default()
    });
    let answer = client.inference.clone().embed(request).await?;
    Ok(answer.into_inner().receipt.expect("a receipt").request_id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_log_refuses_and_resumes_by_itself() {
    let _turn = turn("load");
    let server = Server::start(Options::null(0).with("audit.bytes_max", LOG_BYTES_MAX)).await;
    let client = server.agent("acme", "writer").await.client().await;
    let ballast = server.data().join("audit/ballast");
    fs::write(&ballast, vec![0u8; BALLAST_BYTES]).expect("ballast");

    let (mut answered, mut sent, mut refusal) = (Vec::new(), 0, None);
    while refusal.is_none() && sent < REQUESTS_MAX {
        let calls: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                let client = client.clone();
                tokio::spawn(async move { ask(&client).await })
            })
            .collect();
        sent += calls.len();
        for call in calls {
            match call.await.expect("no panic") {
                Ok(id) => answered.push(id),
                Err(status) => refusal = Some(status),
            }
        }
    }
    let refusal = refusal.expect("the log is full");
    assert_eq!(reason(&refusal), "AUDIT_UNAVAILABLE", "{refusal}");
    assert_eq!(refusal.code(), Code::Unavailable);
    assert!(
        answered.len() > 500,
        "it had been taken until then: {}",
        answered.len()
    );
    assert_eq!(server.get("/readyz").await.expect("an answer").0, 503);

    fs::remove_file(&ballast).expect("room again");
    let resumed = eventually(Duration::from_secs(30), "service resumes", async || {
        sent += 1;
        ask(&client).await.ok()
    });
    answered.push(resumed.await);
    server.ready().await;

    let mut server = server;
    assert_eq!(server.stop().await, Some(0));
    server.command(&["audit", "verify"]).expect("it verifies");
    records::assert_adds_up(&records::all(&server), &answered, sent);
}
