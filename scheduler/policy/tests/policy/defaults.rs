//! The default policies, as a table.

use crate::callers::{Caller, House, caller};
use bulkhead_policy::{Action, DenyReason, ModelFacts, PolicyEngine};

const ALL: &str = "embed generate models:read";

fn ask(
    engine: &PolicyEngine,
    caller: &Caller,
    action: Action,
    name: &str,
    owner: Option<&str>,
) -> Result<(), DenyReason> {
    let model = ModelFacts { name, owner };
    let answer = engine.authorize(&caller.principal, action, &model, &caller.tenant);
    answer.map(drop).map_err(|denied| denied.reason)
}

#[tokio::test]
async fn models() {
    use DenyReason::{ModelNotAllowed, ModelNotFound};
    let engine = PolicyEngine::new(None).unwrap();
    type Case = (
        &'static [&'static str],
        &'static str,
        Option<&'static str>,
        Result<(), DenyReason>,
    );
    let cases: &[Case] = &[
        (&[], "minilm", None, Ok(())),
        (&["minilm"], "minilm", None, Ok(())),
        (&["other"], "minilm", None, Err(ModelNotAllowed)),
        (
            &["min", "minilm2", "MINILM"],
            "minilm",
            None,
            Err(ModelNotAllowed),
        ),
        (&[], "own", Some("acme"), Ok(())),
        (&["own"], "own", Some("acme"), Ok(())),
        (&["other"], "own", Some("acme"), Err(ModelNotAllowed)),
        (&[], "theirs", Some("globex"), Err(ModelNotFound)),
        (&["theirs"], "theirs", Some("globex"), Err(ModelNotFound)),
        (&["theirs"], "theirs", Some(""), Err(ModelNotFound)),
    ];
    for (models, name, owner, answer) in cases {
        let caller = caller("acme", models, ALL).await;
        for action in Action::ALL {
            let got = ask(&engine, &caller, action, name, *owner);
            assert_eq!(got, *answer, "{action} {name} of {owner:?} with {models:?}");
        }
    }
}

#[tokio::test]
async fn scopes() {
    let engine = PolicyEngine::new(None).unwrap();
    for (scope, permitted) in [
        ("embed", Action::Embed),
        ("generate", Action::Generate),
        ("models:read", Action::ListModels),
    ] {
        let caller = caller("acme", &[], scope).await;
        for action in Action::ALL {
            let answer = ask(&engine, &caller, action, "minilm", None);
            let right = if action == permitted {
                Ok(())
            } else {
                Err(DenyReason::ScopeMissing)
            };
            assert_eq!(answer, right, "{action} with {scope}");
        }
    }
}

#[tokio::test]
async fn another_tenants_model_is_answered_as_one_that_does_not_exist() {
    let engine = PolicyEngine::new(None).unwrap();
    let denied = bulkhead_policy::Denied::model_not_found("theirs");
    for scopes in [ALL, "embed"] {
        let caller = caller("acme", &["other"], scopes).await;
        for action in Action::ALL {
            let model = ModelFacts {
                name: "theirs",
                owner: Some("globex"),
            };
            let answer = engine.authorize(&caller.principal, action, &model, &caller.tenant);
            let answer = answer.unwrap_err();
            // Whatever the caller lacks besides, what it sees is the same to the letter.
            assert_eq!(
                (answer.reason, &answer.detail),
                (denied.reason, &denied.detail)
            );
            assert!(
                answer
                    .policies
                    .contains(&"default#foreign-model".to_owned()),
                "for the log"
            );
        }
    }
}

#[tokio::test]
async fn a_permit_says_what_was_permitted() {
    let engine = PolicyEngine::new(None).unwrap();
    let caller = caller("acme", &[], ALL).await;
    let model = ModelFacts {
        name: "minilm",
        owner: None,
    };
    let answer = engine.authorize(&caller.principal, Action::Embed, &model, &caller.tenant);
    let permit = answer.unwrap();
    assert_eq!(
        (permit.action(), &**permit.model()),
        (Action::Embed, "minilm")
    );
    assert_eq!(permit.principal().agent_id(), caller.principal.agent_id());
}

#[tokio::test]
async fn the_facts_of_another_tenant_deny() {
    let house = House::new().await;
    let acme = house.caller("acme", &["minilm"], ALL).await;
    let globex = house.caller("globex", &[], ALL).await;
    let engine = PolicyEngine::new(None).unwrap();
    let mixed = Caller {
        principal: acme.principal,
        tenant: globex.tenant,
    };
    let answer = ask(&engine, &mixed, Action::Embed, "other", None);
    assert_eq!(answer, Err(DenyReason::PolicyError));
}

#[tokio::test]
async fn only_what_may_be_used_is_listed() {
    let engine = PolicyEngine::new(None).unwrap();
    let models = [
        ("minilm", None),
        ("own", Some("acme")),
        ("theirs", Some("globex")),
    ];
    let models = models.map(|(name, owner)| ModelFacts { name, owner });
    let one = caller("acme", &[], "models:read").await;
    assert_eq!(
        engine.visible(&one.principal, models, &one.tenant).unwrap(),
        ["minilm", "own"]
    );
    let two = caller("acme", &["minilm", "theirs"], "models:read").await;
    assert_eq!(
        engine.visible(&two.principal, models, &two.tenant).unwrap(),
        ["minilm"]
    );
    let three = caller("acme", &[], "embed").await;
    let denied = engine
        .visible(&three.principal, models, &three.tenant)
        .unwrap_err();
    assert_eq!(denied.reason, DenyReason::ScopeMissing);
}
