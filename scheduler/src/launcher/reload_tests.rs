//! The models' folder, read again while the server runs.

use super::*;
use bulkhead_proto::internal::{Models, ReloadModels, model_news::State as Stage};

/// Puts a model into the folder.
fn install(dir: &Path, name: &str, content: &str, promised: &str) {
    let folder = dir.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("model.gguf"), content).unwrap();
    let sha256 = crate::models::sha256(&mut promised.as_bytes(), |_| {}).unwrap();
    let manifest = format!(
        "name = {name:?}\nformat = \"gguf\"\ntask = \"generate\"\n\
         [[files]]\nname = \"model.gguf\"\nsha256 = {sha256:?}\n"
    );
    fs::write(folder.join("model.toml"), manifest).unwrap();
}

fn with_folder(dir: &Path) -> Setup {
    let mut setup = setup(dir, "exec /bin/sleep 60\n", "read -r _ <&3\n");
    setup.config.models.dir = dir.join("models");
    fs::create_dir(dir.join("models")).unwrap();
    setup
}

/// Has the folder read again; what the scheduler is told, but for the audit process.
fn reload(pair: &mut Pair<'_>) -> Vec<Tell> {
    pair.ask(Ask::ReloadModels(ReloadModels {}));
    while pair.life.reload.is_some() {
        pair.life.tick(Instant::now());
    }
    fcntl(&pair.scheduler, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut all = Vec::new();
    while let Ok(Some((told, _))) = packet::recv::<FromLauncher>(pair.scheduler.as_fd()) {
        all.extend(
            told.message
                .filter(|one| !matches!(one, Tell::AuditUp(_) | Tell::GpusUp(_))),
        );
    }
    all
}

/// Names of the models that are offered, and of those that are refused.
fn offered(told: &[Tell]) -> (Vec<&str>, Vec<&str>) {
    let models = told.iter().find_map(|one| match one {
        Tell::Models(Models { models }) => Some(models),
        _ => None,
    });
    let models = models.expect("the models were told");
    let names = models.iter().map(|model| model.name.as_str());
    let refused = models.iter().filter(|model| model.refused);
    (
        names.collect(),
        refused.map(|model| model.name.as_str()).collect(),
    )
}

#[test]
fn new_models_are_served_and_those_that_are_gone_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let setup = with_folder(dir.path());
    let mut pair = Pair::new(&setup);
    let (_, before) = pair.spawned(1);
    install(&setup.config.models.dir, "new", "numbers\n", "numbers\n");
    install(&setup.config.models.dir, "bad", "numbers\n", "others\n");
    let told = reload(&mut pair);
    assert_eq!(offered(&told), (vec!["bad", "new"], vec!["bad"]));
    let hashing = |one: &Tell| match one {
        Tell::ModelNews(news) => match &news.state {
            Some(Stage::Loading(loading)) => loading.phase == "hashing",
            _ => false,
        },
        _ => false,
    };
    assert!(
        told.iter()
            .any(|one| matches!(one, Tell::ModelFault(fault) if fault.model == "bad"))
    );
    fcntl(&pair.scheduler, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    assert!(pair.refused(2, "m", "cpu").permanent, "it is gone");
    let refused = pair.refused(2, "bad", "cpu");
    assert!(refused.reason.contains("models reload"), "{refused:?}");
    let (spawned, _socket) = pair.spawn(2, "new", "cpu");
    assert!(matches!(spawned, Tell::Spawned(_)), "{spawned:?}");
    assert_eq!(pair.life.workers.len(), 2, "those that run live on");
    drop(before);

    // What is as it was is not read again.
    install(&setup.config.models.dir, "bad", "others\n", "others\n");
    let told = reload(&mut pair);
    assert_eq!(offered(&told), (vec!["bad", "new"], vec![]));
    let read: Vec<_> = told.iter().filter(|one| hashing(one)).collect();
    assert!(
        read.iter()
            .all(|one| matches!(one, Tell::ModelNews(news) if news.model == "bad"))
    );
    pair.life.end();
}

#[test]
fn a_folder_that_cannot_be_read_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let setup = with_folder(dir.path());
    let mut pair = Pair::new(&setup);
    install(&setup.config.models.dir, "new", "numbers\n", "numbers\n");
    fs::write(setup.config.models.dir.join("new/model.toml"), "name = 7").unwrap();
    match &reload(&mut pair)[..] {
        [Tell::ReloadFailed(failed)] => assert!(failed.reason.contains("model.toml")),
        other => panic!("{other:?}"),
    }
    fcntl(&pair.scheduler, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    pair.spawned(1);
    pair.life.end();
}

/// A model of the largest size that there can be, 256 times: still one packet.
#[test]
fn as_many_models_as_there_can_be_are_told_in_one_packet() {
    let model = bulkhead_proto::internal::OfferedModel {
        name: "n".repeat(crate::models::names::NAME_BYTES_MAX),
        format: "safetensors".into(),
        task: "generate".into(),
        owner: "o".repeat(63),
        sha256: "0".repeat(64),
        refused: true,
        weights_bytes: u64::MAX,
    };
    let models = vec![model; crate::models::MODELS_MAX];
    let message = Some(Tell::Models(Models { models }));
    let (ours, _theirs) = packet::pair().unwrap();
    packet::send(ours.as_fd(), &FromLauncher { message }, None).unwrap();
}
