//! A model whose process always dies while it loads, asked for without pause, beside a tenant that is
//! served: the one is started a few times and refused in between, the other notices nothing.
//!
//! The death is real: in the place of the worker's program is a script that kills itself where it is
//! given the model's file, and is the worker's program otherwise. Without a backoff in the core and in
//! the launcher each request starts several processes, and the bound on starts does not hold.

use bulkhead_tests::{
    agent::{Client, collect, prompt, reason},
    models::one_file,
    options::Options,
    programs::worker_with,
    server::Server,
};
use std::fs;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

/// Requests for the broken model, one after the other, each sent as soon as the last has failed.
const ASKS: usize = 300;
/// Processes that these may cost: each wait is twice the last, so it would take an hour to get here.
const STARTS_MAX: usize = 40;

async fn refused(client: &Client) -> Status {
    let answer = match client.generate(prompt("broken", "hello", 1)).await {
        Ok(stream) => collect(stream).await.map(|_| ()),
        Err(status) => Err(status),
    };
    answer.expect_err("nothing serves it")
}

async fn a_model_that_dies_while_it_loads_is_the_trouble_of_who_asks(shared: bool) {
    let dir = tempfile::tempdir().expect("a folder");
    let starts = dir.path().join("starts");
    let dies = format!("echo died >>{}; kill -9 $$", starts.display());
    let program = worker_with(dir.path(), "broken", &dies);
    one_file(&dir.path().join("models"), "broken", b"no weights", "");
    let options = Options::models(&dir.path().join("models"))
        .with("models.null", true)
        .with("worker.share_weights", shared)
        .with_worker(&program);
    let server = Server::start(options).await;
    let crashing = server.agent("acme", "a").await.client().await;
    let healthy = server.agent("globex", "g").await.client().await;
    let asks = tokio::spawn(async move {
        for _ in 0..ASKS {
            let status = refused(&crashing).await;
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert_eq!(reason(&status), "WORKER_UNAVAILABLE", "{status}");
            let retry = status.get_details_retry_info();
            let after = retry.and_then(|info| info.retry_delay);
            assert!(after.is_some_and(|after| !after.is_zero()), "{status}");
        }
    });
    let mut served = 0;
    while !asks.is_finished() || served == 0 {
        let answer = healthy.embed("null", &["a text"]).await;
        answer.expect("the other tenant is served");
        served += 1;
    }
    asks.await.expect("each is refused as it should be");
    let deaths = || fs::read_to_string(&starts).map_or(0, |text| text.lines().count());
    let one = deaths();
    assert!((3..=STARTS_MAX).contains(&one), "{one} processes died");

    // The template's backoff is the model's, whoever asks.
    let other = server.agent("initech", "i").await.client().await;
    for _ in 0..ASKS / 10 {
        refused(&other).await;
    }
    let both = deaths();
    println!("shared: {shared}, deaths {one}, with another tenant's {both}, {served} answers");
    assert!(both <= one + if shared { 2 } else { STARTS_MAX });
    let label = "model=\"broken\"";
    let backoffs = server.metric("bulkhead_worker_backoffs_total", label).await;
    assert!(backoffs >= 3.0, "{backoffs}");
    let mut admin = server.admin().await;
    let workers = admin.status().await.workers;
    assert!(workers.iter().any(|worker| worker.tenant == "globex"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_that_dies_while_it_loads_is_the_trouble_of_who_asks() {
    a_model_that_dies_while_it_loads_is_the_trouble_of_who_asks(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_dies_while_it_loads_is_the_trouble_of_who_asks() {
    a_model_that_dies_while_it_loads_is_the_trouble_of_who_asks(false).await;
}
