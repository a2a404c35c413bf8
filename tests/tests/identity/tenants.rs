//! The tenant comes from the token and from nowhere else, and another tenant's model is not there.

use bulkhead_proto::v1::{CreateTenantRequest, ListModelsRequest};
use bulkhead_tests::{
    agent::{Client, collect, prompt, random_hex, reason},
    models::one_file,
    options::Options,
    records,
    server::Server,
};
use std::collections::BTreeSet;
use tonic::{Code, Status};

#[tokio::test]
async fn a_header_that_names_another_tenant_changes_nothing() {
    let server = super::shared().await;
    let agent = server.agent("acme", &format!("h-{}", random_hex(8))).await;
    server
        .agent("globex", &format!("h-{}", random_hex(8)))
        .await;
    let client = agent.client().await;
    let names = [
        "tenant",
        "x-tenant",
        "x-tenant-id",
        "x-bulkhead-tenant",
        "bulkhead-tenant",
    ];
    let named = names
        .iter()
        .fold(client, |client, name| client.with_header(name, "globex"));
    let answer = named
        .embed("null", &["a text"])
        .await
        .expect("it is served as what it is");
    let request = answer.receipt.expect("a receipt").request_id;

    let records = records::all(&server);
    let of_it = records.iter().filter(|r| r.request_id == request);
    let tenants: BTreeSet<&str> = of_it.map(|r| r.tenant.as_str()).collect();
    assert_eq!(tenants, BTreeSet::from(["acme"]));
}

async fn listed(client: &Client) -> Vec<String> {
    let request = client.request(ListModelsRequest {});
    let answer = client
        .inference
        .clone()
        .list_models(request)
        .await
        .expect("a list");
    answer
        .into_inner()
        .models
        .into_iter()
        .map(|m| m.name)
        .collect()
}

/// A refusal may come at once, or end a stream that had begun.
async fn asked(client: &Client, model: &str) -> Status {
    let answer = match client.generate(prompt(model, "hello", 1)).await {
        Ok(stream) => collect(stream).await.map(|_| ()),
        Err(status) => Err(status),
    };
    answer.expect_err("refused")
}

#[tokio::test]
async fn another_tenants_model_is_like_one_that_does_not_exist() {
    let models = tempfile::tempdir().expect("a folder");
    one_file(models.path(), "secret", b"no weights", "owner = \"globex\"");
    let server = Server::start(Options::models(models.path()).with("models.null", true)).await;
    let acme = server.agent("acme", "reader").await.client().await;
    let globex = server.agent("globex", "reader").await.client().await;

    let (theirs, nobodys) = (asked(&acme, "secret").await, asked(&acme, "nonesuch").await);
    assert_eq!(reason(&theirs), "MODEL_NOT_FOUND", "{theirs}");
    assert_eq!(reason(&nobodys), "MODEL_NOT_FOUND", "{nobodys}");
    assert_eq!(
        (
            theirs.code(),
            theirs.message().replace("secret", "nonesuch")
        ),
        (nobodys.code(), nobodys.message().to_owned()),
        "but for the name that was asked for, the two cannot be told apart"
    );
    assert_eq!(theirs.code(), Code::NotFound);
    assert_eq!(listed(&acme).await, ["null"]);

    let mut own = listed(&globex).await;
    own.sort();
    assert_eq!(own, ["null", "secret"]);
    let unloadable = asked(&globex, "secret").await;
    assert_ne!(
        reason(&unloadable),
        "MODEL_NOT_FOUND",
        "its owner gets as far as loading it"
    );
}

#[tokio::test]
async fn a_tenant_that_could_never_be_served_is_not_made() {
    let server = super::shared().await;
    let mut admin = server.admin().await;
    let name = format!("t-{}", random_hex(4));
    let good = CreateTenantRequest {
        name,
        weight: 1,
        models: vec!["null".into()],
        quota_bytes: 1 << 20,
        ..CreateTenantRequest::default()
    };
    let misspelt = CreateTenantRequest {
        models: vec!["null".into(), "nonsense".into()],
        ..good.clone()
    };
    let narrow = CreateTenantRequest {
        quota_bytes: (1 << 20) - 1,
        ..good.clone()
    };
    for (bad, why) in [(misspelt, "MODELS_INVALID"), (narrow, "QUOTA_INVALID")] {
        let status = admin.create_tenant(bad).await.expect_err("refused");
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, why)
        );
    }
    admin.create_tenant(good).await.expect("made");
}

#[tokio::test]
async fn a_tenant_is_held_to_its_list_of_models() {
    let tenant = format!("t-{}", random_hex(4));
    let models = tempfile::tempdir().expect("a folder");
    one_file(
        models.path(),
        "mine",
        b"no weights",
        &format!("owner = \"{tenant}\""),
    );
    let server = Server::start(Options::models(models.path()).with("models.null", true)).await;
    let mut admin = server.admin().await;
    let request = CreateTenantRequest {
        name: tenant.clone(),
        weight: 1,
        models: vec!["mine".into()],
        ..CreateTenantRequest::default()
    };
    admin.create_tenant(request).await.expect("made");
    let client = admin
        .create_agent(&tenant, "reader", &[])
        .await
        .client()
        .await;
    let status = client
        .embed("null", &["a text"])
        .await
        .expect_err("refused");
    assert_eq!(reason(&status), "MODEL_NOT_ALLOWED", "{status}");
}
