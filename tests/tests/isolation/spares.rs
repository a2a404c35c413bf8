//! Workers that are started and sealed ahead: nobody's until a tenant's first request, and then that tenant's alone.

use bulkhead_tests::{
    options::Options,
    process::{self, status_field},
    server::Server,
    wait::eventually,
};
use std::time::Duration;

const WORKER: &str = "bulkhead-worker";

/// A worker that serves none of these tenants, once there is one.
async fn spare(server: &Server, tenants: &[&str]) -> i32 {
    let mut taken = Vec::new();
    for tenant in tenants {
        taken.push(server.worker(tenant).await);
    }
    eventually(Duration::from_secs(20), "a worker ahead", async || {
        let all = server.all_processes().into_iter();
        let mut workers = all.filter(|process| process.name == WORKER);
        let spare = workers.find(|process| !taken.contains(&process.pid));
        spare.map(|process| process.pid)
    })
    .await
}

#[tokio::test]
async fn a_tenants_first_request_finds_a_worker_that_is_there_and_sealed() {
    let server = Server::start(Options::null(0).with("worker.spares", 1)).await;
    let clients = [
        server.agent("acme", "a").await,
        server.agent("globex", "g").await,
    ];
    let [acme, globex] = &clients;
    let serve = async |agent: &bulkhead_tests::agent::Agent| {
        let answer = agent.client().await.embed("null", &["a text"]).await;
        answer.expect("it is served");
    };
    serve(acme).await;
    let ahead = spare(&server, &["acme"]).await;
    serve(globex).await;
    assert_eq!(server.worker("globex").await, ahead);
    assert_eq!(status_field(ahead, "Seccomp"), "2", "2 is a filter");
    let limits = std::fs::read_to_string(format!("/proc/{ahead}/limits")).expect("it has limits");
    let data = limits
        .lines()
        .find(|line| line.starts_with("Max data size"));
    assert!(
        !data.expect("one of memory").contains("unlimited"),
        "{limits}"
    );

    // And the next one is ahead again; it goes with the rest.
    let next = spare(&server, &["acme", "globex"]).await;
    let mut server = server;
    assert_eq!(server.stop().await, Some(0));
    assert!(!process::alive(next));
}
