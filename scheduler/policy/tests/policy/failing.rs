//! An error while a policy is evaluated denies, whatever the others say.
//!
//! Cedar itself skips a policy that fails. Each test here would see a permit if `authorize` looked at
//! Cedar's decision alone.

use crate::callers::caller;
use bulkhead_policy::{Action, Denied, ModelFacts, Permit, PolicyEngine};

/// Passes strict validation, and overflows whenever it is evaluated.
const OVERFLOW: &str = "9223372036854775807 + 1 == 0";
const SHARED: ModelFacts<'_> = ModelFacts {
    name: "minilm",
    owner: None,
};

async fn ask_with(policy: &str) -> Result<Permit, Denied> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("extra.cedar"), policy).unwrap();
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    let caller = caller("acme", &[], "embed").await;
    engine.authorize(&caller.principal, Action::Embed, &SHARED, &caller.tenant)
}

#[tokio::test]
async fn a_forbid_that_fails() {
    let policy = format!("forbid (principal, action, resource) when {{ {OVERFLOW} }};");
    let denied = ask_with(&policy).await.unwrap_err();
    assert_eq!(denied.reason.name(), "POLICY_ERROR");
    assert_eq!(denied.policies, ["extra.cedar#policy0"]);
}

#[tokio::test]
async fn a_permit_that_fails_beside_one_that_holds() {
    let policy = format!(
        "@id(\"broken\") permit (principal, action, resource) when {{ {OVERFLOW} }};\n\
         @id(\"fine\") permit (principal, action, resource);"
    );
    let denied = ask_with(&policy).await.unwrap_err();
    assert_eq!(denied.reason.name(), "POLICY_ERROR");
    assert_eq!(denied.policies, ["extra.cedar#broken"]);
}

#[tokio::test]
async fn a_failing_policy_on_another_action_harms_nothing() {
    let policy = format!(
        "forbid (principal, action == Action::\"generate\", resource) when {{ {OVERFLOW} }};"
    );
    assert!(ask_with(&policy).await.is_ok());
}

#[tokio::test]
async fn an_error_does_not_betray_another_tenants_model() {
    let policy = format!(
        "forbid (principal, action, resource) when {{ resource.name == \"theirs\" && {OVERFLOW} }};"
    );
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("extra.cedar"), policy).unwrap();
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    let caller = caller("acme", &[], "embed").await;
    let model = ModelFacts {
        name: "theirs",
        owner: Some("globex"),
    };
    let answer = engine.authorize(&caller.principal, Action::Embed, &model, &caller.tenant);
    assert_eq!(answer.unwrap_err().reason.name(), "MODEL_NOT_FOUND");
}
