//! `kill -9` of a worker, of the audit process and of the scheduler, each under load from two tenants.

use super::{
    accounts_for,
    load::{Load, Report},
};
use bulkhead_tests::{
    agent::{collect, prompt, reason},
    models::turn,
    options::Options,
    process::kill,
    server::Server,
    wait::eventually,
};
use std::{fs::File, time::Duration};

/// Work per token: enough that requests are under way when something dies.
const NS_PER_TOKEN: u64 = 200_000;
const CONNECTIONS: usize = 6;
/// Answers before the fault and after it.
const ENOUGH: usize = 60;

struct Loaded {
    server: Server,
    acme: Load,
    globex: Load,
    _turn: File,
}

async fn loaded() -> Loaded {
    let turn = turn("load");
    let server = Server::start(Options::null(NS_PER_TOKEN)).await;
    let (a, g) = (
        server.agent("acme", "a").await,
        server.agent("globex", "g").await,
    );
    let acme = Load::start(&a, CONNECTIONS).await;
    let globex = Load::start(&g, CONNECTIONS).await;
    acme.progress(ENOUGH).await;
    globex.progress(ENOUGH).await;
    Loaded {
        server,
        acme,
        globex,
        _turn: turn,
    }
}

/// Demands that every failure has one of these reasons.
fn only(report: &Report, reasons: &[&str]) {
    let strange = report
        .failed
        .keys()
        .find(|r| !reasons.contains(&r.as_str()));
    assert_eq!(strange, None, "{:?}", report.failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_harms_its_own_tenant_alone() {
    let Loaded {
        server,
        acme,
        globex,
        _turn,
    } = loaded().await;
    // Whether the worker holds a request at the moment of its death is chance: kill until one did.
    let told = eventually(
        Duration::from_secs(60),
        "requests were under way, and were told",
        async || {
            let (before, dead) = (acme.failures(), server.worker("acme").await);
            kill(dead);
            acme.progress(ENOUGH).await;
            (acme.failures() > before).then_some(dead)
        },
    );
    let dead = told.await;
    globex.progress(ENOUGH).await;
    assert_ne!(server.worker("acme").await, dead, "a fresh worker serves");

    let (acme, globex) = (acme.finish().await, globex.finish().await);
    assert_eq!(
        globex.failed.len(),
        0,
        "the other tenant notices nothing: {:?}",
        globex.failed
    );
    // Where chance took many kills, the tenant's next worker was put off for longer than requests wait.
    only(&acme, &["WORKER_LOST", "WORKER_UNAVAILABLE"]);
    accounts_for(server, &[&acme, &globex]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_audit_process_refuses_and_comes_back() {
    let Loaded {
        server,
        acme,
        globex,
        _turn,
    } = loaded().await;
    // Those under way wait for its successor. One that comes while it is down is refused, unless it comes
    // before the death is known.
    let client = server.agent("acme", "late").await.client().await;
    let mut late = Report::default();
    let refused = eventually(Duration::from_secs(30), "one is refused", async || {
        kill(server.processes("bulkhead-audit").first()?.pid);
        late.sent += 1;
        match client.embed("null", &["some text"]).await {
            Ok(answer) => late.ok.push(answer.receipt?.request_id),
            Err(status) => *late.failed.entry(reason(&status)).or_default() += 1,
        }
        (!late.failed.is_empty()).then_some(())
    });
    refused.await;
    acme.progress(ENOUGH).await;
    globex.progress(ENOUGH).await;
    server.ready().await;

    let (acme, globex) = (acme.finish().await, globex.finish().await);
    for report in [&acme, &globex, &late] {
        only(report, &["AUDIT_UNAVAILABLE"]);
    }
    accounts_for(server, &[&acme, &globex, &late]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_scheduler_leaves_nothing_open() {
    let Loaded {
        server,
        acme,
        globex,
        _turn,
    } = loaded().await;
    // A long one, on record as admitted: its first piece is there.
    let streamer = server.agent("acme", "streamer").await.client().await;
    let stream = streamer.generate(prompt("null", "go on", 4000)).await;
    let mut stream = stream.expect("it begins");
    stream.message().await.expect("it runs").expect("a piece");
    let dead = server.scheduler();
    kill(dead);
    collect(stream)
        .await
        .map(|_| ())
        .expect_err("its server is gone");
    acme.progress(ENOUGH).await;
    globex.progress(ENOUGH).await;
    assert_ne!(server.scheduler(), dead, "a fresh scheduler serves");

    let (acme, globex) = (acme.finish().await, globex.finish().await);
    for report in [&acme, &globex] {
        // The connection broke, or nobody listened yet.
        only(
            report,
            &[
                "Unavailable",
                "Unknown",
                "Cancelled",
                "Internal",
                "AUDIT_UNAVAILABLE",
            ],
        );
        assert!(
            !report.failed.is_empty(),
            "a broken connection is not hidden"
        );
    }
    let streamed = Report {
        sent: 1,
        ..Report::default()
    };
    let requests = accounts_for(server, &[&acme, &globex, &streamed]).await;
    let abandoned: usize = requests.values().map(|entry| entry.abandoned).sum();
    assert!(abandoned > 0, "what the dead scheduler left open is closed");
}
