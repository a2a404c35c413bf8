//! The operator's folder: what it can change, what it cannot, and that a bad one changes nothing.

use crate::callers::{Caller, House, caller};
use bulkhead_identity::Tenant;
use bulkhead_policy::{Action, ModelFacts, PolicyEngine, PolicyError};
use std::path::Path;

const ALL: &str = "embed generate models:read";

fn ask(engine: &PolicyEngine, caller: &Caller, name: &str, owner: Option<&str>) -> &'static str {
    let model = ModelFacts { name, owner };
    match engine.authorize(&caller.principal, Action::Embed, &model, &caller.tenant) {
        Ok(_) => "permitted",
        Err(denied) => denied.reason.name(),
    }
}

fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

#[tokio::test]
async fn an_operator_can_permit_more_models_and_forbid_anything() {
    let house = House::new().await;
    let robot = house.caller("acme", &["minilm"], ALL).await;
    let other = house.another(robot.tenant.clone(), "other", ALL).await;
    let folder = tempfile::tempdir().unwrap();
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    let defaults = engine.policies();
    assert_eq!(ask(&engine, &robot, "extra", None), "MODEL_NOT_ALLOWED");

    let more = r#"permit (principal in Tenant::"acme", action, resource == Model::"extra");"#;
    let less = r#"forbid (principal, action, resource) when { principal.name == "other" };"#;
    write(folder.path(), "more.cedar", more);
    write(folder.path(), "less.cedar", less);
    assert_eq!(engine.reload(folder.path()).unwrap(), defaults + 2);
    assert_eq!(ask(&engine, &robot, "extra", None), "permitted");
    assert_eq!(ask(&engine, &other, "extra", None), "POLICY_DENIED");
    assert_eq!(ask(&engine, &other, "minilm", None), "POLICY_DENIED");

    std::fs::remove_file(folder.path().join("less.cedar")).unwrap();
    assert_eq!(engine.reload(folder.path()).unwrap(), defaults + 1);
    assert_eq!(ask(&engine, &other, "minilm", None), "permitted");
}

/// Answers are remembered: for the policies, the caller and the model that they were about, and for no others.
#[tokio::test]
async fn what_was_permitted_is_asked_anew_where_anything_differs() {
    let house = House::new().await;
    let robot = house.caller("acme", &["minilm"], ALL).await;
    let narrow = house
        .another(robot.tenant.clone(), "narrow", "models:read")
        .await;
    let folder = tempfile::tempdir().unwrap();
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    for _ in 0..2 {
        assert_eq!(ask(&engine, &robot, "minilm", None), "permitted");
        assert_eq!(
            ask(&engine, &robot, "minilm", Some("globex")),
            "MODEL_NOT_FOUND"
        );
        assert_eq!(ask(&engine, &robot, "other", None), "MODEL_NOT_ALLOWED");
        assert_eq!(ask(&engine, &narrow, "minilm", None), "SCOPE_MISSING");
    }
    let model = ModelFacts {
        name: "minilm",
        owner: None,
    };
    let embed = |tenant: &Tenant| {
        let answer = engine.authorize(&robot.principal, Action::Embed, &model, tenant);
        answer.map_err(|denied| denied.reason.name()).map(drop)
    };
    let fewer = Tenant {
        models: ["other".to_owned()].into(),
        ..(*robot.tenant).clone()
    };
    assert_eq!(embed(&fewer), Err("MODEL_NOT_ALLOWED"));
    let another = Tenant {
        number: robot.tenant.number + 1,
        ..(*robot.tenant).clone()
    };
    assert_eq!(embed(&another), Err("POLICY_ERROR"));

    let none = "forbid (principal, action, resource);";
    write(folder.path(), "none.cedar", none);
    engine.reload(folder.path()).unwrap();
    assert_eq!(ask(&engine, &robot, "minilm", None), "POLICY_DENIED");
}

#[tokio::test]
async fn an_operator_cannot_permit_what_a_default_forbids() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "all.cedar",
        "permit (principal, action, resource);",
    );
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    let robot = caller("acme", &["minilm"], ALL).await;
    assert_eq!(ask(&engine, &robot, "any", None), "permitted");
    assert_eq!(
        ask(&engine, &robot, "theirs", Some("globex")),
        "MODEL_NOT_FOUND"
    );
    let narrow = caller("acme", &[], "models:read").await;
    assert_eq!(ask(&engine, &narrow, "minilm", None), "SCOPE_MISSING");
}

#[tokio::test]
async fn a_folder_that_does_not_load_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"forbid (principal, action, resource == Model::"secret");"#;
    write(folder.path(), "good.cedar", good);
    let engine = PolicyEngine::new(Some(folder.path())).unwrap();
    let robot = caller("acme", &[], ALL).await;
    let bad = [
        "permit (principal, action, resource",
        "permit (principal, action, resource) when { principal.age > 3 };",
        "permit (principal, action, resource) when { resource.owner == principal.tenant };",
        "permit (principal, action == Action::\"fly\", resource);",
        "permit (principal == ?principal, action, resource);",
        "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") permit (principal, action, resource);",
        "permit (principal, action, resource) when { context.scopes == \"embed\" };",
    ];
    std::fs::remove_file(folder.path().join("good.cedar")).unwrap();
    for text in bad {
        write(folder.path(), "bad.cedar", text);
        assert!(engine.reload(folder.path()).is_err(), "{text}");
        assert!(PolicyEngine::new(Some(folder.path())).is_err(), "{text}");
        assert_eq!(
            ask(&engine, &robot, "secret", None),
            "POLICY_DENIED",
            "the last good is kept"
        );
    }
    std::fs::remove_file(folder.path().join("bad.cedar")).unwrap();
    let missing = engine.reload(&folder.path().join("none"));
    assert!(matches!(missing, Err(PolicyError::Read { .. })));
    write(folder.path(), "bytes.cedar", "");
    std::fs::write(folder.path().join("bytes.cedar"), [0xff, 0xfe]).unwrap();
    assert!(matches!(
        engine.reload(folder.path()),
        Err(PolicyError::Read { .. })
    ));
    std::fs::remove_file(folder.path().join("bytes.cedar")).unwrap();
    engine.reload(folder.path()).unwrap();
    assert_eq!(ask(&engine, &robot, "secret", None), "permitted");
}

#[tokio::test]
async fn what_is_no_policy_file_is_left_alone_and_errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in [".draft.cedar", "notes.txt", "cedar"] {
        write(folder.path(), name, "not a policy");
    }
    assert!(PolicyEngine::new(Some(folder.path())).is_ok());
    write(folder.path(), "team.cedar", "not a policy");
    let error = PolicyEngine::new(Some(folder.path()))
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("team.cedar"), "{error}");
}

#[tokio::test]
async fn a_folder_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let long = " ".repeat(bulkhead_policy::FILE_BYTES_MAX as usize + 1);
    write(folder.path(), "long.cedar", &long);
    let error = PolicyEngine::new(Some(folder.path())).err();
    assert!(matches!(error, Some(PolicyError::TooLong(_))));
    std::fs::remove_file(folder.path().join("long.cedar")).unwrap();
    for n in 0..=bulkhead_policy::FILES_MAX {
        write(folder.path(), &format!("{n}.cedar"), "");
    }
    let error = PolicyEngine::new(Some(folder.path())).err();
    assert!(matches!(error, Some(PolicyError::TooManyFiles(_))));
}
