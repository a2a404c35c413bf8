//! Templates driven as a launcher drives them: shell scripts in their place that speak its packets,
//! truly or not.

use super::*;
use bulkhead_proto::internal::{LoadModel, ModelDropped, ModelHeld, ModelLoading, UnloadModel};

/// Takes one packet, whatever it says.
pub const TAKE: &str = "/bin/dd bs=65536 count=1 <&3 2>/dev/null | /usr/bin/tail -c 0\n";
/// Says `Loaded`, `Forked`, and `Refused` with the reason "bad".
pub const LOADED: &str = "printf '\\012\\002\\010\\001' >&3\n";
const FORKED: &str = "printf '\\032\\000' >&3\n";
/// Says that it has read one byte of two, and that it dances.
const READS: &str = "printf '\\302\\002\\015\\012\\007reading\\020\\001\\030\\002' >&3\n";
const DANCES: &str = "printf '\\302\\002\\010\\012\\006dances' >&3\n";
/// More than the launcher takes in one turn.
const PACKETS_IN_A_TURN: usize = 64;
const REFUSED: &str = "printf '\\022\\010\\012\\003bad\\360\\001\\001' >&3\n";

/// Leaves a child behind, in a group of its own, that says `Forked` once the launcher has adopted it,
/// and then waits.
pub fn forks(dir: &Path) -> String {
    let text = format!(
        "while :; do
while read -r key value; do [ \"$key\" = PPid: ] && parent=$value; done </proc/$$/status
[ \"$parent\" = {} ] && break
done\n{FORKED}exec /bin/sleep 60\n",
        std::process::id()
    );
    let newborn = script(dir, "newborn", &text);
    format!("(/usr/bin/setsid /bin/sh {} &)\n", newborn.display())
}

pub fn sharing(dir: &Path, template: &str) -> Setup {
    let mut setup = setup(dir, template, "read -r _ <&3\n");
    setup.config.worker.share_weights = true;
    setup.config.worker.spares = 0;
    sys::adopt_orphans().unwrap();
    setup
}

pub fn spawn(worker: u64) -> Ask {
    let (model, device) = ("m".into(), "cpu".into());
    Ask::Spawn(SpawnWorker {
        worker,
        model,
        device,
        ..SpawnWorker::default()
    })
}

/// Whoever made a model's files says as much as a packet takes: the scheduler is told a part of it, and lives on.
#[test]
fn a_template_that_says_too_much_is_cut_short() {
    use bulkhead_proto::internal::{FromTemplate, Refused, from_template};
    use prost::Message as _;
    let dir = tempfile::tempdir().unwrap();
    let long = |letter: char, length| letter.to_string().repeat(length);
    let refused = Refused {
        reason: long('r', 30_000),
        file: long('f', 20_000),
        found_sha256: long('5', 15_000),
        permanent: true,
    };
    let packet = FromTemplate {
        message: Some(from_template::Message::Refused(refused)),
    };
    let file = dir.path().join("words");
    fs::write(&file, packet.encode_to_vec()).unwrap();
    let says = format!(
        "/bin/dd bs=65536 count=1 <{} >&3 2>/dev/null\n",
        file.display()
    );
    let setup = sharing(dir.path(), &format!("{TAKE}{says}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let (Tell::SpawnFailed(failed), _) = next(&mut pair) else {
        panic!("it is told");
    };
    assert!(failed.reason.starts_with("rrr") && failed.reason.len() < 1000);
    let fault = failed.fault.expect("a file");
    assert!(fault.file.len() < 1000 && fault.found_sha256.len() < 1000);
    assert!(
        pair.life.socket().is_some(),
        "the scheduler's connection lives"
    );
    pair.life.end();
}

/// What the scheduler is told next, whoever has to speak first, but for news of models.
fn next(pair: &mut Pair<'_>) -> (Tell, Option<OwnedFd>) {
    told(pair, false)
}

/// What the scheduler is told next of the model.
fn news(pair: &mut Pair<'_>) -> Stage {
    match told(pair, true).0 {
        Tell::ModelNews(news) if news.model == "m" => news.state.expect("a state"),
        other => panic!("{other:?}"),
    }
}

fn told(pair: &mut Pair<'_>, news: bool) -> (Tell, Option<OwnedFd>) {
    fcntl(&pair.scheduler, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for _ in 0..20_000 {
        let now = Instant::now();
        pair.life.listen(now);
        pair.life.tick(now);
        match packet::recv::<FromLauncher>(pair.scheduler.as_fd()) {
            Ok(Some((told, fd))) => match told.message.expect("a message") {
                Tell::AuditUp(_) | Tell::AuditDown(_) | Tell::GpusUp(_) => {}
                Tell::ModelNews(_) if !news => {}
                other => return (other, fd),
            },
            Ok(None) => panic!("the launcher hung up"),
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
        }
        let ready = |fd| nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN);
        let mut fds: Vec<_> = pair.life.readable().map(ready).collect();
        // Deaths are no packets: they are looked for again and again.
        nix::poll::poll(&mut fds, 10u16).unwrap();
    }
    panic!("nothing is told");
}

pub fn born(pair: &mut Pair<'_>, worker: u64) -> (Pid, OwnedFd) {
    match next(pair) {
        (Tell::Spawned(told), Some(fd)) if told.worker == worker => (Pid::from_raw(told.pid), fd),
        other => panic!("{other:?}"),
    }
}

fn failed(pair: &mut Pair<'_>, worker: u64) -> SpawnFailed {
    match next(pair) {
        (Tell::SpawnFailed(told), None) if told.worker == worker => told,
        other => panic!("{other:?}"),
    }
}

pub fn templates(pair: &Pair<'_>) -> Vec<Pid> {
    pair.life.templates.pids().collect()
}

#[test]
fn a_worker_that_a_template_forked_is_the_launchers_own_child() {
    let dir = tempfile::tempdir().unwrap();
    let each = format!("{TAKE}{}", forks(dir.path()));
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{each}{each}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    pair.ask(spawn(2));
    let before = templates(&pair);
    let (one, two) = (born(&mut pair, 1), born(&mut pair, 2));
    assert!(one.0 != two.0 && sys::is_child(one.0) && sys::is_child(two.0));
    assert_eq!(
        (before.len(), templates(&pair)),
        (1, before),
        "one for both"
    );

    // The template's death is nobody else's.
    sys::kill_now(templates(&pair)[0]);
    until_ended(templates(&pair)[0]);
    pair.life.listen(Instant::now());
    pair.life.tick(Instant::now());
    assert!(templates(&pair).is_empty());
    pair.ask(Ask::Kill(KillWorker { worker: 1 }));
    match next(&mut pair).0 {
        Tell::Exited(told) => assert_eq!((told.worker, pair.life.workers.len()), (1, 1)),
        other => panic!("{other:?}"),
    }
    pair.ask(spawn(3));
    let wait = failed(&mut pair, 3).wait_ns;
    assert!(wait > 0, "the next one waits a moment");
    pair.ask_at(spawn(4), Instant::now() + Duration::from_nanos(wait));
    born(&mut pair, 4);
    pair.life.end();
    assert!(!sys::is_child(two.0), "buried");
}

/// Of a model that a template refused no other template is started, until a file of it is another.
#[test]
fn a_model_that_a_template_refused_is_refused_without_another() {
    let dir = tempfile::tempdir().unwrap();
    let found = "\\372\\001\\001f\\202\\002\\002ab";
    let refuses = REFUSED
        .replace("\\010", "\\021")
        .replace("' >", &format!("{found}' >"));
    let setup = sharing(dir.path(), &format!("{TAKE}{refuses}exit 1\n"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let told = failed(&mut pair, 1);
    let fault = told.fault.expect("a file is at fault");
    let words = [fault.model.as_str(), &fault.file, &fault.found_sha256];
    assert_eq!(words, ["m", "f", "ab"]);
    for worker in 2..5 {
        let hours = Duration::from_secs(3600 * worker);
        pair.ask_at(spawn(worker), Instant::now() + hours);
        assert!(templates(&pair).is_empty(), "it is not tried");
        let told = failed(&mut pair, worker);
        assert!(told.permanent && told.reason == "bad", "{told:?}");
    }
    pair.life.end();

    // One that was only short of something is tried again.
    let short = REFUSED
        .replace("\\010", "\\005")
        .replace("\\360\\001\\001", "");
    let setup = sharing(dir.path(), &format!("{TAKE}{short}exit 1\n"));
    let mut pair = Pair::new(&setup);
    for worker in 1..3 {
        pair.ask_at(
            spawn(worker),
            Instant::now() + Duration::from_secs(60 * worker),
        );
        assert_eq!(templates(&pair).len(), 1, "it is tried");
        assert!(!failed(&mut pair, worker).permanent);
    }
    pair.life.end();
}

/// Lets time pass until this holds.
pub fn until(pair: &mut Pair<'_>, holds: impl Fn(&Pair<'_>) -> bool) {
    for _ in 0..20_000 {
        pair.life.listen(Instant::now());
        pair.life.tick(Instant::now());
        if holds(pair) {
            return;
        }
        let ready = |fd| nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN);
        let mut fds: Vec<_> = pair.life.readable().map(ready).collect();
        nix::poll::poll(&mut fds, 10u16).unwrap();
    }
    panic!("it never holds");
}

/// It may say why and end between the launcher's look at its words and the one at its death.
#[test]
fn the_last_words_of_a_template_are_heard_though_its_end_is_seen_first() {
    let dir = tempfile::tempdir().unwrap();
    let often = READS.repeat(PACKETS_IN_A_TURN + 1);
    let setup = sharing(dir.path(), &format!("{TAKE}{often}{REFUSED}exit 1\n"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    until_ended(templates(&pair)[0]);
    pair.life.tick(Instant::now());
    let told = failed(&mut pair, 1);
    assert!(told.permanent && told.reason == "bad", "{told:?}");
    pair.life.end();
}

/// However many ask meanwhile: nothing is started, and each is told at once for how long.
#[test]
fn a_template_that_dies_while_it_loads_is_started_again_ever_more_rarely() {
    let dir = tempfile::tempdir().unwrap();
    let setup = sharing(dir.path(), "exit 3\n");
    let mut pair = Pair::new(&setup);
    let (mut now, mut waits, mut worker) = (Instant::now(), Vec::new(), 0);
    for _ in 0..4 {
        worker += 1;
        pair.ask_at(spawn(worker), now);
        assert_eq!(templates(&pair).len(), 1, "it is tried");
        let told = failed(&mut pair, worker);
        assert!(
            told.reason.contains("exit 3") && told.wait_ns == 0,
            "{told:?}"
        );
        now = Instant::now();
        for _ in 0..3 {
            worker += 1;
            pair.ask_at(spawn(worker), now);
            assert!(templates(&pair).is_empty(), "it is not tried");
            let told = failed(&mut pair, worker);
            assert!(!told.permanent && told.wait_ns > 0, "{told:?}");
            waits.push(told.wait_ns);
        }
        now += Duration::from_nanos(*waits.last().unwrap());
    }
    assert!(waits[9] > 3 * waits[0], "{waits:?}");
    pair.life.end();
}

#[test]
fn a_template_that_lies_about_a_worker_is_ended_and_nobody_gets_one() {
    let dir = tempfile::tempdir().unwrap();
    // It says "I am the worker"; the kernel says who it is.
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{TAKE}{FORKED}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let liar = templates(&pair)[0];
    let told = failed(&mut pair, 1);
    assert!(told.reason.contains("lied") && !told.permanent, "{told:?}");
    assert!(!sys::is_child(liar), "dead and buried");
    pair.life.end();
}

#[test]
fn a_grandchild_is_no_worker_either() {
    let dir = tempfile::tempdir().unwrap();
    let child = script(
        dir.path(),
        "child",
        &format!("{FORKED}exec /bin/sleep 60\n"),
    );
    let lies = format!("/bin/sh {} &\n{TAKE}", child.display());
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{TAKE}{lies}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    assert!(failed(&mut pair, 1).reason.contains("lied"));
    pair.life.end();
}

#[test]
fn a_template_that_speaks_out_of_turn_or_nonsense_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let nonsense = "printf '\\377\\377\\377' >&3\n";
    for (what, word) in [(FORKED, "turn"), (nonsense, "nonsense")] {
        let setup = sharing(dir.path(), &format!("{TAKE}{what}{TAKE}"));
        let mut pair = Pair::new(&setup);
        pair.ask(spawn(1));
        let told = failed(&mut pair, 1);
        assert!(told.reason.contains(word) && !told.permanent, "{told:?}");
        pair.life.end();
    }
}

#[test]
fn why_a_model_did_not_load_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [(format!("{TAKE}{REFUSED}exit 1\n"), "bad", true)];
    let dies = [("exit 3\n".to_owned(), "exit 3", false)];
    for (script, word, permanent) in cases.into_iter().chain(dies) {
        let setup = sharing(dir.path(), &script);
        let mut pair = Pair::new(&setup);
        pair.ask(spawn(1));
        let told = failed(&mut pair, 1);
        assert!(told.reason.contains(word), "{told:?}");
        assert_eq!(told.permanent, permanent);
        pair.life.end();
    }
}

#[test]
fn a_template_that_hangs_is_ended_when_its_time_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let hour = std::time::Duration::from_secs(3600);
    for hangs in [TAKE.to_owned(), format!("{TAKE}{LOADED}{TAKE}")] {
        let setup = sharing(dir.path(), &format!("{hangs}exec /bin/sleep 60\n"));
        let mut pair = Pair::new(&setup);
        pair.ask(spawn(1));
        let due = pair.life.templates.wake_at().expect("bounded");
        assert!(due < Instant::now() + hour);
        pair.life.tick(Instant::now() + hour);
        let told = failed(&mut pair, 1);
        assert!(
            told.reason.contains("too long") && !told.permanent,
            "{told:?}"
        );
        pair.life.end();
    }
}

#[test]
fn a_worker_that_is_killed_before_it_is_there_is_told_at_once_and_never_comes() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let waits = format!("until [ -e {} ]; do :; done\n", gate.display());
    let late = format!("{TAKE}{waits}{}", forks(dir.path()));
    let then = format!("{TAKE}{}", forks(dir.path()));
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{late}{then}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    pair.ask(Ask::Kill(KillWorker { worker: 1 }));
    match next(&mut pair) {
        (Tell::Exited(told), None) => assert_eq!(told.worker, 1),
        other => panic!("{other:?}"),
    }
    fs::write(&gate, "").unwrap();
    pair.ask(spawn(2));
    // The first birth, where it still happens, is nobody's.
    born(&mut pair, 2);
    pair.life.end();
}

#[test]
fn a_template_without_workers_is_kept_for_a_while_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let each = format!("{TAKE}{}", forks(dir.path()));
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{each}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    born(&mut pair, 1);
    assert_eq!(
        pair.life.templates.wake_at(),
        None,
        "never, while it has one"
    );
    pair.ask(Ask::Kill(KillWorker { worker: 1 }));
    assert!(matches!(next(&mut pair).0, Tell::Exited(_)));
    let due = pair.life.templates.wake_at().expect("it has none");
    let template = templates(&pair)[0];
    pair.life.tick(due - std::time::Duration::from_secs(1));
    assert_eq!(pair.life.templates.controls().count(), 1);
    pair.life.tick(due);
    assert_eq!(pair.life.templates.controls().count(), 0);
    until_buried(&mut pair, template);
    pair.life.end();
}

#[test]
fn a_template_ends_when_a_file_of_its_model_has_changed() {
    let dir = tempfile::tempdir().unwrap();
    let each = format!("{TAKE}{}", forks(dir.path()));
    let setup = sharing(dir.path(), &format!("{TAKE}{LOADED}{each}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let (worker, _connection) = born(&mut pair, 1);
    fs::write(dir.path().join("model.gguf"), "others\n").unwrap();
    pair.ask(spawn(2));
    assert!(failed(&mut pair, 2).permanent);
    assert_eq!(pair.life.templates.controls().count(), 0);
    assert!(sys::ended(worker).is_none(), "who runs keeps what it has");
    pair.life.end();
}

/// Waits until a template that was killed is no more.
fn until_buried(pair: &mut Pair<'_>, template: Pid) {
    if templates(pair).contains(&template) {
        until_ended(template);
        pair.life.tick(Instant::now());
    }
    assert!(!sys::is_child(template), "dead and buried");
}

fn load() -> Ask {
    let (model, device) = ("m".into(), "cpu".into());
    Ask::LoadModel(LoadModel { model, device })
}

/// How it ended, and whether that is for good.
fn dropped(pair: &mut Pair<'_>) -> (String, bool) {
    loop {
        match news(pair) {
            Stage::Loading(_) => {}
            Stage::Dropped(ModelDropped { reason, permanent }) => return (reason, permanent),
            Stage::Held(_) => panic!("it is not to be held"),
        }
    }
}

#[test]
fn a_model_that_was_loaded_ahead_is_held_until_it_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    let setup = sharing(dir.path(), &format!("{TAKE}{READS}{LOADED}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(load());
    assert_eq!(news(&mut pair), Stage::Loading(ModelLoading::default()));
    let mut stages = Vec::new();
    let held = loop {
        match news(&mut pair) {
            Stage::Loading(loading) => stages.push(loading),
            Stage::Held(ModelHeld { resident_bytes }) => break resident_bytes,
            other => panic!("{other:?}"),
        }
    };
    // What comes in one turn is told once: the last of it.
    let half = |loading: &ModelLoading| (loading.done_bytes, loading.total_bytes) == (1, 2);
    assert!(stages.iter().all(half) && held > 0, "{stages:?}, {held}");
    let bounded = pair.life.templates.wake_at();
    assert_eq!(bounded, None, "no time ends it");
    pair.ask(load());
    assert!(
        matches!(news(&mut pair), Stage::Held(_)),
        "it is held already"
    );

    pair.ask(Ask::UnloadModel(UnloadModel { model: "m".into() }));
    assert_eq!(dropped(&mut pair), (String::new(), false));
    assert!(templates(&pair).is_empty());
    pair.life.end();
}

#[test]
fn what_keeps_a_model_from_being_loaded_ahead_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = sharing(dir.path(), &format!("{TAKE}{REFUSED}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(load());
    assert_eq!(dropped(&mut pair), ("bad".into(), true));
    pair.life.end();

    setup.programs.worker = script(dir.path(), "dancer", &format!("{TAKE}{DANCES}{TAKE}"));
    let mut pair = Pair::new(&setup);
    pair.ask(load());
    let (reason, _) = dropped(&mut pair);
    assert!(reason.contains("lied about its progress"), "{reason}");
    pair.life.end();

    setup.config.worker.share_weights = false;
    let mut pair = Pair::new(&setup);
    pair.ask(load());
    let (reason, permanent) = dropped(&mut pair);
    assert!(permanent && reason.contains("share_weights"), "{reason}");
    fs::write(dir.path().join("model.gguf"), "others\n").unwrap();
    pair.ask(load());
    assert!(matches!(next(&mut pair).0, Tell::ModelFault(_)));
    pair.life.end();
}
