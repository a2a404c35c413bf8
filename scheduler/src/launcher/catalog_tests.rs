//! Models are opened for whom they are meant, as they were installed, or not at all.

use super::*;
use crate::models::{self, Format, Task, sha256};
use std::io::Read;

const TENANT: &str = "acme";

fn model(dir: &Path, content: &str) -> Manifest {
    std::fs::write(dir.join("model.gguf"), content).unwrap();
    Manifest {
        name: "m".into(),
        format: Format::Gguf,
        task: Task::Generate,
        owner: None,
        source: None,
        weights_bytes: None,
        files: vec![models::File {
            name: "model.gguf".into(),
            sha256: sha256(&mut content.as_bytes(), |_| {}).unwrap(),
        }],
        dir: dir.into(),
    }
}

#[test]
fn each_opening_reads_from_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(vec![model(dir.path(), "weights")]);
    for _ in 0..2 {
        let opened = catalog.open("m", TENANT).unwrap();
        let mut text = String::new();
        let mut file = File::from(opened.files.into_iter().next().unwrap());
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "weights");
    }
}

#[test]
fn a_changed_file_is_named_and_final() {
    let dir = tempfile::tempdir().unwrap();
    let catalog = Catalog::new(vec![model(dir.path(), "weights")]);
    std::fs::write(dir.path().join("other"), "weightS").unwrap();
    std::fs::rename(dir.path().join("other"), dir.path().join("model.gguf")).unwrap();
    let error = catalog.open("m", TENANT).expect_err("refused");
    let fault = error.fault().expect("a file is at fault");
    assert_eq!(
        (fault.file.as_str(), fault.found.as_str()),
        ("model.gguf", "")
    );
    assert!(error.permanent(), "{error}");

    std::fs::remove_file(dir.path().join("model.gguf")).unwrap();
    assert!(catalog.open("m", TENANT).expect_err("refused").permanent());
}

#[test]
fn a_file_that_hashes_to_something_else_is_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = model(dir.path(), "weights");
    std::fs::write(dir.path().join("model.gguf"), "weight!").unwrap();
    let broken = Catalog::new(vec![manifest.clone()]);
    let error = broken.open("m", TENANT).expect_err("refused").to_string();
    assert!(error.contains("install the model again"), "{error}");

    manifest.files[0].name = "link.gguf".into();
    std::os::unix::fs::symlink("model.gguf", dir.path().join("link.gguf")).unwrap();
    assert!(
        Catalog::new(vec![manifest]).open("m", TENANT).is_err(),
        "no links"
    );
}

#[test]
fn an_unknown_name_is_cut_short_in_the_answer() {
    let catalog = Catalog::default();
    let error = catalog.open(&"x".repeat(60_000), TENANT);
    let error = error.expect_err("refused");
    assert!(error.permanent() && error.to_string().len() < 100);
}

#[test]
fn what_is_wrong_at_the_start_is_told_with_what_was_found() {
    let dir = tempfile::tempdir().unwrap();
    let manifest = model(dir.path(), "weights");
    std::fs::write(dir.path().join("model.gguf"), "weight!").unwrap();
    let catalog = Catalog::new(vec![manifest]);
    let faults: Vec<_> = catalog.faults().collect();
    let found = sha256(&mut "weight!".as_bytes(), |_| {}).unwrap();
    assert_eq!((faults.len(), &faults[0].found), (1, &found));
}

/// Promise 3: the launcher itself gives a tenant's own model to nobody else.
#[test]
fn a_tenants_own_model_is_opened_for_that_tenant_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = model(dir.path(), "weights");
    manifest.owner = Some(TENANT.into());
    let catalog = Catalog::new(vec![manifest]);
    assert!(catalog.open("m", TENANT).is_ok());
    for other in ["globex", "", "ACME", "acme "] {
        let error = catalog.open("m", other).expect_err("refused");
        assert!(matches!(error, CatalogError::NotTheirs(_)) && error.permanent());
    }
}

#[test]
fn a_file_in_a_folder_is_opened_and_a_folder_that_is_a_link_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut manifest = model(dir.path(), "weights");
    std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
    std::fs::rename(
        dir.path().join("model.gguf"),
        dir.path().join("1_Pooling/config.json"),
    )
    .unwrap();
    manifest.files[0].name = "1_Pooling/config.json".into();
    assert!(
        Catalog::new(vec![manifest.clone()])
            .open("m", TENANT)
            .is_ok()
    );

    std::fs::rename(dir.path().join("1_Pooling"), dir.path().join("real")).unwrap();
    std::os::unix::fs::symlink("real", dir.path().join("1_Pooling")).unwrap();
    let linked = Catalog::new(vec![manifest]);
    assert!(linked.open("m", TENANT).is_err(), "no links");
}
