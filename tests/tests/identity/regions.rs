//! Residency: a tenant that is bound to regions is served in them and nowhere else, from the moment an operator says so.

use bulkhead_tests::{
    agent::{Client, collect, prompt, reason},
    options::Options,
    process::{freeze, thaw},
    records,
    server::Server,
    wait::eventually,
};
use std::time::Duration;
use tonic::Code;

fn options() -> Options {
    // Ten milliseconds a token: an answer of fifty lasts long enough to change something meanwhile.
    Options::null(10_000_000).with("server.region", "eu-west")
}

/// Under the number that its caller is told.
async fn refused_for_residency(client: &Client) -> String {
    let status = client.embed("null", &["a text"]).await;
    let status = status.expect_err("not here");
    assert_eq!(reason(&status), "RESIDENCY", "{status}");
    assert_eq!(status.code(), Code::FailedPrecondition);
    let request = status.metadata().get("bulkhead-request-id");
    let request = request.expect("a number").to_str();
    request.expect("of letters").to_owned()
}

/// Fails where residency is a preference: there is no other server, and there is room.
#[tokio::test]
async fn who_is_bound_to_regions_is_served_in_no_other() {
    let mut server = Server::start(options()).await;
    let create = |name: &str, regions: &str| {
        let args = ["tenant", "create", name, "--regions", regions];
        server.command(&args).expect("made")
    };
    let said = create("acme", "us-east,us-west");
    let elsewhere = "regions: us-east, us-west (this server is elsewhere, and refuses it)";
    assert!(said.contains(elsewhere), "{said}");
    let said = create("globex", "us-east,eu-west");
    assert!(said.contains("regions: eu-west, us-east,"), "{said}");
    let acme = server.agent("acme", "reader").await.client().await;
    let globex = server.agent("globex", "reader").await.client().await;

    let refused = refused_for_residency(&acme).await;
    let stream = acme.generate(prompt("null", "hello", 1)).await;
    let status = match stream {
        Ok(stream) => collect(stream).await.map(|_| ()),
        Err(status) => Err(status),
    };
    assert_eq!(reason(&status.expect_err("not here")), "RESIDENCY");
    globex.embed("null", &["a text"]).await.expect("here");
    let workers = server.admin().await.status().await.workers;
    let tenants: Vec<&str> = workers.iter().map(|one| one.tenant.as_str()).collect();
    assert_eq!(tenants, ["globex"], "nothing was started for the other");

    server.stop().await;
    server.restart().await;
    refused_for_residency(&acme).await;
    let update =
        |regions: &str| server.command(&["tenant", "update", "acme", "--regions", regions]);
    let said = update("any").expect("changed");
    assert!(said.contains("regions: any,"), "{said}");
    acme.embed("null", &["a text"]).await.expect("anywhere");

    for bad in ["eu west", "any,eu-west", "eu,,us"] {
        let said = update(bad).expect_err("no such region");
        assert!(said.contains("is no name of a region"), "{bad}: {said}");
    }
    let all = records::all(&server);
    let record = all.iter().find(|record| record.request_id == refused);
    let record = records::body(record.expect("its refusal is on record"));
    assert_eq!(record["reason"], "RESIDENCY", "{record}");
    let bodies: Vec<_> = all.iter().map(records::body).collect();
    let update = bodies.iter().find(|body| body["act"] == "tenant.update");
    let update = update.expect("it is on record");
    let before = serde_json::json!(["us-east", "us-west"]);
    assert_eq!(update["details"]["before"]["regions"], before, "{update}");
    let after = serde_json::json!([]);
    assert_eq!(update["details"]["after"]["regions"], after, "{update}");
}

/// What runs was accepted while it was allowed. Nothing is begun after it, and its worker does not stay.
#[tokio::test]
async fn who_is_bound_elsewhere_while_it_runs_ends_what_it_has_and_begins_nothing() {
    let server = Server::start(options()).await;
    let client = server.agent("acme", "reader").await.client().await;
    let mut answer = (client.generate(prompt("null", "go on", 50)).await).expect("it is allowed");
    answer
        .message()
        .await
        .expect("it goes on")
        .expect("a piece");
    let moved = server.command(&["tenant", "update", "acme", "--regions", "us-east"]);
    moved.expect("changed");
    refused_for_residency(&client).await;
    collect(answer).await.expect("it goes on to its end");
    eventually(Duration::from_secs(10), "its worker ends", async || {
        let workers = server.admin().await.status().await.workers;
        workers.is_empty().then_some(())
    })
    .await;
    eventually(Duration::from_secs(10), "that is on record", async || {
        let bodies = records::all(&server)
            .iter()
            .map(records::body)
            .collect::<Vec<_>>();
        let ended = bodies.iter().find(|body| body["act"] == "worker.ended")?;
        (ended["details"]["why"] == "residency").then_some(())
    })
    .await;
}

/// Fails where a log that takes no records keeps a tenant where it may not be.
#[tokio::test]
async fn a_tenant_is_sent_away_though_the_log_stands_still() {
    let server = Server::start(options()).await;
    let client = server.agent("acme", "reader").await.client().await;
    client.embed("null", &["a text"]).await.expect("here");
    let audit = server.audit();
    freeze(audit);
    let away = ["tenant", "update", "acme", "--regions", "us-east"];
    let said = server.command(&away);
    let said = said.expect_err("it is not on record yet");
    assert!(said.contains("AUDIT_UNAVAILABLE"), "{said}");
    eventually(Duration::from_secs(10), "its worker ends", async || {
        let workers = server.admin().await.status().await.workers;
        workers.is_empty().then_some(())
    })
    .await;
    thaw(audit);
    server.ready().await;
    refused_for_residency(&client).await;
    let on_record = eventually(Duration::from_secs(10), "it is on record", async || {
        let bodies = records::all(&server)
            .iter()
            .map(records::body)
            .collect::<Vec<_>>();
        bodies
            .into_iter()
            .find(|body| body["act"] == "tenant.update")
    });
    let after = serde_json::json!(["us-east"]);
    assert_eq!(on_record.await["details"]["after"]["regions"], after);
}
