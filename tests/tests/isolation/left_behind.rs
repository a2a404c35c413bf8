//! What is left of our processes when one of them is killed: nothing that serves nobody.

use bulkhead_tests::{
    agent::Client,
    options::Options,
    process::{Process, alive, kill},
    server::{RECOVERY_MAX, Server},
    wait::eventually,
};

/// The kernel's names of the process that holds a model, and of a worker.
const TEMPLATE: &str = "bulkhead-model";
const WORKER: &str = "bulkhead-worker";

/// A server that two tenants have had an answer from, and an agent of the first.
async fn served() -> (Server, Client) {
    let server = Server::start(Options::null(1_000)).await;
    let acme = server.agent("acme", "a").await.client().await;
    let globex = server.agent("globex", "g").await.client().await;
    for client in [&acme, &globex] {
        let answer = client.embed("null", &["a text"]).await;
        answer.expect("it is served");
    }
    (server, acme)
}

async fn gone(processes: &[Process]) {
    eventually(RECOVERY_MAX, "they are all gone", async || {
        let left = processes.iter().find(|process| alive(process.pid));
        left.is_none().then_some(())
    })
    .await;
}

/// The kernel ends what the launcher started: scheduler, template and workers at once, and the audit
/// process once it has sealed its log.
#[tokio::test]
async fn nothing_outlives_the_launcher() {
    let (mut server, _client) = served().await;
    let all = server.all_processes();
    let count = |name: &str| all.iter().filter(|process| process.name == name).count();
    assert_eq!((count(TEMPLATE), count(WORKER)), (1, 2), "{all:?}");
    kill(server.pid());
    gone(&all).await;
    assert_eq!(server.ended().await, None, "killed");
    let said = server.command(&["audit", "verify", "--json"]);
    said.expect("the log is whole");

    // Nor is anything in the way of the next one.
    server.restart().await;
    let client = server.agent("acme", "b").await.client().await;
    let answer = client.embed("null", &["a text"]).await;
    answer.expect("it is served");
}

/// The next scheduler begins with nothing of the last: no template, no worker, no socket of one.
#[tokio::test]
async fn no_worker_and_no_template_outlives_its_scheduler() {
    let (server, client) = served().await;
    let before = server.all_processes();
    kill(server.scheduler());
    gone(&before).await;
    server.ready().await;
    let answer = eventually(RECOVERY_MAX, "it is served again", async || {
        client.embed("null", &["a text"]).await.ok()
    });
    answer.await;
    let after = server.all_processes();
    let count = |name: &str| after.iter().filter(|process| process.name == name).count();
    let counts = (count(TEMPLATE), count(WORKER), after.len());
    assert_eq!(counts, (1, 1, 4), "and nobody else: {after:?}");
}
