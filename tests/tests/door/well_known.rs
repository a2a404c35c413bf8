//! Health, metrics, and the operator's view.

use bulkhead_tests::{agent::channel, options::Options, server::Server};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

#[tokio::test]
async fn health_answers_without_a_token() {
    let server = Server::start(Options::null(0)).await;
    let ca = std::fs::read_to_string(&server.endpoints().ca).expect("the authority");
    let mut health = HealthClient::new(channel(&server.endpoints().agents, &ca));
    let request = HealthCheckRequest {
        service: String::new(),
    };
    let answer = health.check(request).await.expect("an answer").into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
}

#[tokio::test]
async fn operators_see_what_happened() {
    let server = Server::start(Options::null(0)).await;
    let client = server.agent("acme", "reader").await.client().await;
    for _ in 0..3 {
        client.embed("null", &["a text"]).await.expect("served");
    }
    client
        .embed("nonesuch", &["a text"])
        .await
        .expect_err("refused");
    let (_, page) = server.get("/metrics").await.expect("metrics");
    for name in [
        "bulkhead_requests",
        "bulkhead_refus",
        "bulkhead_lane",
        "bulkhead_scrub",
        "bulkhead_audit",
    ] {
        assert!(page.contains(name), "no metric {name} in\n{page}");
    }
    assert!(page.contains("acme"), "tenants are told apart");

    let status = server.admin().await.status().await;
    let acme = status
        .tenants
        .iter()
        .find(|t| t.name == "acme")
        .expect("acme is there");
    assert_eq!((acme.completed, acme.running, acme.queued), (3, 0, 0));
    assert!(acme.lane_ns > 0, "lane time is counted");
    assert!(status.audit_up);
    let worker = status
        .workers
        .iter()
        .find(|w| w.tenant == "acme")
        .expect("its worker");
    assert!(worker.seal.len() >= 5, "{:?}", worker.seal);
}

#[tokio::test]
async fn switched_off_protections_are_announced() {
    let server = Server::start(Options::null(0).without("zeroing")).await;
    let (_, page) = server.get("/readyz").await.expect("an answer");
    assert!(page.contains("zeroing"), "{page}");
    assert!(server.log().contains("zero"), "{}", server.log());
}
