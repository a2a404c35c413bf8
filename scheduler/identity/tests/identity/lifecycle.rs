//! Agents and tenants come, change and go; what was decided is in force at once and stays so.

use crate::house::{AUDIENCE, House, ISSUER, NOW, assertion, tenant};
use bulkhead_identity::{
    AgentStatus, AuthError, Identity, IdentityError, Limits, NewTenant, Residency, Scopes,
    TenantChange, TenantUpdate, WEIGHT_MAX,
};
use std::os::unix::fs::PermissionsExt;

#[tokio::test]
async fn a_change_of_status_refuses_tokens_that_were_good_a_moment_ago() {
    let house = House::new().await;
    for (status, refusal) in [
        (AgentStatus::Suspended, AuthError::AgentSuspended),
        (AgentStatus::Revoked, AuthError::AgentRevoked),
        (AgentStatus::Deleted, AuthError::AgentDeleted),
    ] {
        let agent = house.agent("acme", status.name()).await;
        let cached = house.token(&agent, NOW).await;
        let unseen = house.token(&agent, NOW).await;
        let principal = house.identity.authenticate(&cached, NOW).unwrap();
        assert_eq!(house.identity.recheck(&principal), Ok(()));

        let change = house
            .identity
            .set_status(&agent.agent.id, status)
            .await
            .unwrap();
        assert!(change.changed() && change.stops_requests());
        assert_eq!(
            (change.before, change.agent.status),
            (AgentStatus::Active, status)
        );
        assert_eq!(house.identity.recheck(&principal), Err(refusal));
        for token in [&cached, &unseen] {
            assert_eq!(
                house.identity.authenticate(token, NOW).unwrap_err(),
                refusal
            );
        }
    }
}

#[tokio::test]
async fn a_resumed_agent_needs_a_new_token() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let (cached, unseen) = (
        house.token(&agent, NOW).await,
        house.token(&agent, NOW).await,
    );
    let principal = house.identity.authenticate(&cached, NOW).unwrap();
    for status in [AgentStatus::Suspended, AgentStatus::Active] {
        house
            .identity
            .set_status(&agent.agent.id, status)
            .await
            .unwrap();
    }
    for token in [&cached, &unseen] {
        let refused = house.identity.authenticate(token, NOW).unwrap_err();
        assert_eq!(refused, AuthError::TokenSuperseded);
    }
    assert_eq!(
        house.identity.recheck(&principal),
        Err(AuthError::TokenSuperseded)
    );
    let token = house.token(&agent, NOW).await;
    assert!(house.identity.authenticate(&token, NOW).is_ok());
}

#[tokio::test]
async fn status_and_tokens_survive_a_restart() {
    let house = House::new().await;
    let (good, bad) = (
        house.agent("acme", "good").await,
        house.agent("acme", "bad").await,
    );
    let (good_token, bad_token) = (house.token(&good, NOW).await, house.token(&bad, NOW).await);
    house
        .identity
        .set_status(&bad.agent.id, AgentStatus::Revoked)
        .await
        .unwrap();
    let keys = house.identity.jwks(NOW);
    let house = house.reopened().await;
    assert_eq!(house.identity.jwks(NOW), keys);
    let principal = house.identity.authenticate(&good_token, NOW).unwrap();
    assert_eq!(principal.agent_number(), good.agent.number);
    let refused = house.identity.authenticate(&bad_token, NOW).unwrap_err();
    assert_eq!(refused, AuthError::AgentRevoked);
    assert_eq!(house.identity.agent(&good.agent.id).unwrap(), good.agent);
    assert!(house.exchange(&assertion(&good, NOW), NOW).await.is_ok());
}

#[tokio::test]
async fn revoked_and_deleted_are_final() {
    let house = House::new().await;
    for status in [AgentStatus::Revoked, AgentStatus::Deleted] {
        let agent = house.agent("acme", status.name()).await;
        let id = &agent.agent.id;
        house.identity.set_status(id, status).await.unwrap();
        let again = house.identity.set_status(id, status).await.unwrap();
        assert!(!again.changed() && again.stops_requests());
        let back = house.identity.set_status(id, AgentStatus::Active).await;
        assert!(matches!(back, Err(IdentityError::Final { .. })));
    }
    let nobody = house
        .identity
        .set_status("agt_none", AgentStatus::Active)
        .await;
    assert!(matches!(nobody, Err(IdentityError::AgentUnknown(_))));
}

#[tokio::test]
async fn names_are_taken_once_and_numbers_never_come_back() {
    let house = House::new().await;
    let again = house.identity.create_tenant(tenant("acme"), NOW).await;
    assert!(matches!(again, Err(IdentityError::TenantExists(_))));
    let first = house.agent("acme", "robot").await;
    let same = house
        .identity
        .create_agent("acme", "robot", Scopes::ALL, NOW)
        .await;
    assert!(matches!(same, Err(IdentityError::AgentExists { .. })));
    let elsewhere = house.agent("globex", "robot").await;
    assert_ne!(elsewhere.agent.tenant_number, first.agent.tenant_number);
    house
        .identity
        .set_status(&elsewhere.agent.id, AgentStatus::Deleted)
        .await
        .unwrap();
    let house = house.reopened().await;
    let next = house.agent("globex", "next").await;
    assert!(next.agent.number > elsewhere.agent.number);
    let same = house
        .identity
        .create_agent("globex", "robot", Scopes::ALL, NOW)
        .await;
    assert!(matches!(same, Err(IdentityError::AgentExists { .. })));
    assert_eq!(house.identity.agents(Some("globex")).len(), 2);
    assert_eq!(house.identity.agents(None).len(), 3);
}

#[tokio::test]
async fn bad_input_is_refused_before_anything_is_stored() {
    let house = House::new().await;
    for name in ["", "Acme", "1st", "a_b", "a b"] {
        let refused = house.identity.create_tenant(tenant(name), NOW).await;
        assert!(
            matches!(refused, Err(IdentityError::BadName { .. })),
            "{name:?}"
        );
        let refused = house
            .identity
            .create_agent("acme", name, Scopes::ALL, NOW)
            .await;
        assert!(
            matches!(refused, Err(IdentityError::BadName { .. })),
            "{name:?}"
        );
    }
    let none = house
        .identity
        .create_agent("nobody", "robot", Scopes::ALL, NOW)
        .await;
    assert!(matches!(none, Err(IdentityError::TenantUnknown(_))));
    let none = house
        .identity
        .create_agent("acme", "robot", Scopes::NONE, NOW)
        .await;
    assert!(matches!(none, Err(IdentityError::NoScopes)));
    assert_eq!(
        (
            house.identity.tenants().len(),
            house.identity.agents(None).len()
        ),
        (2, 0)
    );
}

#[tokio::test]
async fn a_tenant_is_read_as_it_was_written() {
    let house = House::new().await;
    let models = vec!["minilm".to_owned(), "org/model:v1.2".to_owned()];
    let new = NewTenant {
        name: "initech".into(),
        weight: 7,
        models,
        quota_bytes: i64::MAX as u64,
        limits: Limits {
            tokens: Some(i64::MAX as u64),
            agent_requests: Some(0),
            ..Limits::default()
        },
        residency: regions(&["eu-west", "eu-central"]),
    };
    let made = house
        .identity
        .create_tenant(new.clone(), NOW)
        .await
        .unwrap();
    let house = house.reopened().await;
    let read = house.identity.tenant("initech").unwrap();
    assert_eq!(read, made);
    assert_eq!((read.weight, &*read.models), (7, &*new.models));
    assert_eq!(
        (read.quota_bytes, read.created_unix_s),
        (new.quota_bytes, NOW)
    );
    assert_eq!((read.limits, read.generation), (new.limits, 1));
    assert_eq!(read.residency, new.residency);
}

fn regions(names: &[&str]) -> Residency {
    let names = names.iter().map(|name| name.to_string());
    Residency::of(names.collect()).unwrap()
}

async fn changed(
    house: &House,
    tenant: &str,
    update: TenantUpdate,
) -> Result<TenantChange, IdentityError> {
    let change = house.identity.plan_update(tenant, update)?;
    house.identity.change_tenant(&change).await?;
    Ok(change)
}

/// What an update names is changed and outlives a restart; what it does not stays as it was.
#[tokio::test]
async fn a_tenant_is_changed_in_part() {
    let house = House::new().await;
    let change = async |update| changed(&house, "acme", update).await;
    let limits = Limits {
        tokens: Some(Some(600)),
        agent_tokens: Some(Some(60)),
        ..Limits::default()
    };
    let first = TenantUpdate {
        weight: Some(3),
        limits,
        residency: Some(regions(&["eu-west"])),
    };
    let made = change(first.clone()).await.unwrap();
    assert_eq!((made.before.weight, made.tenant.weight), (1, 3));
    let back = Limits {
        tokens: Some(None),
        ..Limits::default()
    };
    let second = TenantUpdate {
        limits: back,
        ..TenantUpdate::default()
    };
    let now = change(second).await.unwrap().tenant;
    let kept = Limits {
        agent_tokens: Some(60),
        ..Limits::default()
    };
    assert_eq!((now.weight, now.limits), (3, kept));
    assert_eq!(now.residency, regions(&["eu-west"]));
    let anywhere = TenantUpdate {
        residency: Some(Residency::default()),
        ..TenantUpdate::default()
    };
    let now = change(anywhere).await.unwrap().tenant;
    assert_eq!(now.residency, Residency::default());
    for weight in [0, WEIGHT_MAX + 1] {
        let bad = TenantUpdate {
            weight: Some(weight),
            ..TenantUpdate::default()
        };
        let failed = change(bad).await;
        assert!(matches!(failed, Err(IdentityError::BadWeight(_))));
    }
    let nobody = changed(&house, "nobody", first).await;
    assert!(matches!(nobody, Err(IdentityError::TenantUnknown(_))));
    let house = house.reopened().await;
    assert_eq!(house.identity.tenant("acme").unwrap(), now);
}

/// Fails where of two changes at once one undoes the other unseen, or memory and disk tell different stories.
#[tokio::test]
async fn changes_at_once_are_one_after_the_other() {
    let house = House::new().await;
    let to = |weight| TenantUpdate {
        weight: Some(weight),
        ..TenantUpdate::default()
    };
    let (a, b) = tokio::join!(
        changed(&house, "acme", to(5)),
        changed(&house, "acme", to(6)),
    );
    let done = [&a, &b].into_iter().filter(|result| result.is_ok()).count();
    assert!(done >= 1);
    for failed in [a, b].into_iter().filter_map(Result::err) {
        assert!(matches!(failed, IdentityError::Conflict));
    }
    let now = house.identity.tenant("acme").unwrap();
    assert_eq!(now.generation, 1 + done as u64);
    let house = house.reopened().await;
    assert_eq!(house.identity.tenant("acme").unwrap(), now);
}

#[tokio::test]
async fn a_change_goes_to_its_end_when_its_caller_goes_away() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    let token = house.token(&agent, NOW).await;
    // Polled once and dropped, like the handler of a connection that was cut.
    {
        let change = house
            .identity
            .set_status(&agent.agent.id, AgentStatus::Revoked);
        let mut change = std::pin::pin!(change);
        let polled = std::future::poll_fn(|cx| {
            std::task::Poll::Ready(change.as_mut().poll(cx).is_pending())
        });
        assert!(polled.await, "it cannot be done already");
    }
    // The store has one connection: what comes after waits for what came before.
    house
        .identity
        .create_tenant(tenant("later"), NOW)
        .await
        .unwrap();
    let refused = house.identity.authenticate(&token, NOW).unwrap_err();
    assert_eq!(refused, AuthError::AgentRevoked);
}

#[tokio::test]
async fn what_is_stored_is_the_owners_alone_and_holds_no_private_key() {
    let house = House::new().await;
    let agent = house.agent("acme", "robot").await;
    house.token(&agent, NOW).await;
    house.identity.close().await;
    let secret = agent
        .private_key_pem
        .lines()
        .nth(1)
        .unwrap()
        .as_bytes()
        .to_vec();
    let issuer = std::fs::read(house.folder.path().join("issuer-1.pk8")).unwrap();
    for entry in std::fs::read_dir(house.folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            !contains(&bytes, &secret),
            "the agent's key is in {}",
            path.display()
        );
        if path.extension().is_some_and(|e| e != "pk8") {
            // The seed is the last 32 bytes of its PKCS#8.
            assert!(
                !contains(&bytes, &issuer[issuer.len() - 32..]),
                "{}",
                path.display()
            );
        }
    }
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn a_lost_or_foreign_issuer_key_is_said_and_not_replaced() {
    let house = House::new().await;
    let database = house.database();
    let file = house.folder.path().join("issuer-1.pk8");
    house.identity.close().await;
    let open = || Identity::open(&database, ISSUER, AUDIENCE, NOW);
    let kept = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert!(matches!(
        open().await.err(),
        Some(IdentityError::KeyFile { .. })
    ));
    let other = House::new().await;
    std::fs::copy(other.folder.path().join("issuer-1.pk8"), &file).unwrap();
    assert!(matches!(
        open().await.err(),
        Some(IdentityError::KeyFile { .. })
    ));
    std::fs::write(&file, kept).unwrap();
    assert!(open().await.is_ok());
}

#[tokio::test]
async fn an_issuer_is_an_https_url() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("identity.db");
    for bad in [
        "",
        "http://a",
        "https://",
        "https:///a",
        "https://a/",
        "https://a?b",
        "https://a b",
    ] {
        let opened = Identity::open(&database, bad, AUDIENCE, NOW).await;
        assert!(
            matches!(opened.err(), Some(IdentityError::BadIssuer(_))),
            "{bad}"
        );
    }
}
