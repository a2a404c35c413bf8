//! What a reload does to numbers, and what is known of a model's memory.

use super::*;

fn model(name: &str, sha256: &str, owner: &str) -> OfferedModel {
    OfferedModel {
        name: name.into(),
        format: "gguf".into(),
        task: "generate".into(),
        owner: owner.into(),
        sha256: sha256.into(),
        weights_bytes: 100,
        ..OfferedModel::default()
    }
}

fn models<const N: usize>(models: [OfferedModel; N]) -> Models {
    Models {
        models: models.into(),
    }
}

#[test]
fn what_changed_gets_a_new_number_and_the_rest_keeps_its_own() {
    let catalog = Catalog::new(models([model("a", "1", ""), model("b", "1", "")]));
    let before = |name: &str| catalog.get(name).unwrap().id;
    let (a, b) = (before("a"), before("b"));
    let changes = catalog.replace(models([
        model("a", "1", ""),
        model("b", "2", ""),
        model("c", "1", "acme"),
    ]));
    assert_eq!(
        (changes.added, changes.changed),
        (vec!["c".into()], vec!["b".into()])
    );
    assert_eq!((changes.removed.len(), changes.retired), (0, vec![b]));
    assert_eq!(catalog.get("a").unwrap().id, a);
    assert_ne!(catalog.get("b").unwrap().id, b);
    assert_eq!(catalog.name(b).as_deref(), Some("b"), "for good");

    // Another owner is another model: no queue of the old owner's leads to it.
    let c = catalog.get("c").unwrap().id;
    let changes = catalog.replace(models([model("c", "1", "globex")]));
    assert!(changes.retired.contains(&c) && changes.retired.contains(&a));
    assert_eq!(changes.removed, ["a", "b"]);
    assert!(catalog.get("a").is_none() && catalog.name(a).is_some());
}

#[test]
fn a_model_that_comes_again_under_its_name_counts_as_changed() {
    let catalog = Catalog::new(models([model("a", "1", "")]));
    catalog.replace(models([]));
    assert_eq!(catalog.reloaded().number, 2);
    let changes = catalog.replace(models([model("a", "1", "")]));
    assert_eq!(changes.changed, ["a"]);
    catalog.reload_failed("no folder".into());
    let last = catalog.reloaded();
    assert_eq!(
        (last.number, last.outcome.unwrap_err().as_str()),
        (4, "no folder")
    );
    assert!(catalog.get("a").is_some(), "all stays as it was");
}

#[test]
fn what_a_model_takes_is_learnt_once_and_forgotten_when_it_changes() {
    let catalog = Catalog::new(models([model("a", "1", "")]));
    let ready = |weights_bytes| Ready {
        weights_bytes,
        ..Ready::default()
    };
    let failure = Failure {
        reason: "no room".into(),
        waits: true,
    };
    catalog.failed("a", failure.clone());
    assert_eq!(catalog.standing("a").failure, Some(failure));
    catalog.learn("a", &ready(130));
    catalog.learn("a", &ready(7));
    let standing = catalog.standing("a");
    assert_eq!(
        (standing.weights_bytes, standing.estimated_bytes),
        (130, 100)
    );
    assert_eq!(standing.failure, None);
    catalog.replace(models([model("a", "2", "")]));
    assert_eq!(catalog.standing("a").weights_bytes, 0);
    catalog.learn("b", &ready(1));
    assert_eq!(catalog.standing("b").weights_bytes, 0, "nobody's");
}

#[test]
fn a_model_is_on_its_way_in_memory_or_neither() {
    let catalog = Catalog::new(models([model("a", "1", "")]));
    let changes = catalog.changes();
    catalog.asked("a");
    let Stage::Loading(loading) = catalog.standing("a").stage else {
        panic!("asked for");
    };
    assert_eq!(loading.phase, "starting");
    let resident_bytes = 9;
    catalog.news("a", News::Held(ModelHeld { resident_bytes }));
    assert_eq!(catalog.standing("a").stage, Stage::Held { resident_bytes });
    catalog.asked("a");
    assert_eq!(catalog.standing("a").stage, Stage::Held { resident_bytes });
    let reason = "bad".to_owned();
    let permanent = true;
    catalog.news("a", News::Dropped(ModelDropped { reason, permanent }));
    let standing = catalog.standing("a");
    assert_eq!(
        (standing.stage, standing.failure.map(|f| f.reason)),
        (Stage::Absent, Some("bad".into()))
    );
    assert!(changes.has_changed().unwrap());
}
