//! Keepers driven as a launcher drives them: real processes in their place, whose words the tests say, truly or not,
//! and scripts in the place of their workers.

use super::{
    templates::{TAKE, until},
    *,
};
use crate::launcher::{keeper::Keeper, spawn::Spawn};
use bulkhead_proto::internal::{
    FromKeeper, PieceChanged, Refused, TableMade, WeightsChanged, WeightsChecked, WeightsHeld,
    from_keeper::Message as Says,
};
use nix::{
    fcntl::SealFlag,
    sys::memfd::{MFdFlags, memfd_create},
};
use std::io::Seek;

/// Shows what it reads from the descriptors behind its socket, then waits for the end of its connection.
const READS: &str = "exec >&3
read -r config <&4 && echo \"config $config\"
read -r table <&5 && echo \"table $table\"
read -r memory <&6 && echo \"memory $memory\"
[ -e /proc/$$/fd/7 ] && echo \"more\"
echo end
while read -r _ <&3; do :; done; exit 0\n";
const WAITS: &str = "exec /bin/sleep 60\n";
const HOUR: Duration = Duration::from_secs(3600);

/// With a model that a keeper can lay out, and this as the worker for GPUs.
fn lending(dir: &Path, worker: &str) -> Setup {
    let mut setup = setup(dir, DIES, DIES);
    setup.config.worker.share_weights = true;
    setup.programs.worker_cuda = Some(script(dir, "cuda", worker));
    let file = |name: &str, text: &str| {
        fs::write(dir.join(name), text).unwrap();
        ModelFile {
            name: name.into(),
            sha256: crate::models::sha256(&mut text.as_bytes(), |_| {}).unwrap(),
        }
    };
    // Weights come first, so that what is left out is none of the last.
    let files = vec![
        file("model.safetensors", "numbers\n"),
        file("config.json", "words\n"),
    ];
    let manifest = Manifest {
        name: "m".into(),
        format: Format::Safetensors,
        task: Task::Generate,
        owner: None,
        source: None,
        weights_bytes: None,
        files,
        dir: dir.into(),
    };
    setup.catalog = Catalog::new(vec![manifest]).into();
    setup
}

fn spawn(worker: u64) -> Ask {
    Ask::Spawn(SpawnWorker {
        worker,
        model: "m".into(),
        device: "cuda:0".into(),
        tenant: "acme".into(),
        quota_bytes: 0,
        gpu: gpu(UUID),
    })
}

/// Memory of the system's with this text, which can be changed or not.
fn memory(text: &str, sealed: bool) -> OwnedFd {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"test", flags).unwrap());
    file.write_all(text.as_bytes()).unwrap();
    file.rewind().unwrap();
    if sealed {
        let all = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
        fcntl(&file, FcntlArg::F_ADD_SEALS(all)).unwrap();
    }
    file.into()
}

/// What a keeper says, and what is beside it.
type Said = (Says, Option<OwnedFd>);

/// A process in a keeper's place, and what speaks for it.
struct Pretend {
    pid: Pid,
    control: OwnedFd,
}

impl Pretend {
    fn in_place(dir: &Path, pair: &mut Pair<'_>) -> Pretend {
        let (ours, theirs) = packet::pair().unwrap();
        let program = script(dir, "keeper", WAITS);
        let pid = Spawn::new(&program, &[]).start().unwrap();
        let digest = pair.life.setup.catalog.borrow();
        let digest = digest.digest("m").unwrap().to_owned();
        let key = ("m".to_owned(), UUID.to_owned());
        let keeper = Keeper::over(pid, ours, key, &digest, Instant::now()).unwrap();
        pair.life.keepers.hold(keeper);
        Pretend {
            pid,
            control: theirs,
        }
    }

    fn says(&self, says: Says, beside: Option<OwnedFd>) {
        let message = FromKeeper {
            message: Some(says),
        };
        let beside = beside.as_ref().map(AsFd::as_fd);
        packet::send(self.control.as_fd(), &message, beside).unwrap();
    }

    fn holds(&self) {
        let held = WeightsHeld {
            memory_bytes: 4096,
            load_ns: 1,
        };
        self.says(
            Says::TableMade(TableMade {}),
            Some(memory("places\n", true)),
        );
        self.says(Says::WeightsHeld(held), Some(memory("handle\n", false)));
    }

    fn found(&self, offset: u64) {
        self.says(Says::PieceChanged(PieceChanged { offset }), None);
    }
}

/// What the scheduler is told next, whoever has to speak first.
fn next(pair: &mut Pair<'_>) -> (Tell, Option<OwnedFd>) {
    fcntl(&pair.scheduler, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    for _ in 0..20_000 {
        pair.life.listen(Instant::now());
        pair.life.tick(Instant::now());
        match packet::recv::<FromLauncher>(pair.scheduler.as_fd()) {
            Ok(Some((told, fd))) => match told.message.expect("a message") {
                Tell::AuditUp(_) | Tell::AuditDown(_) | Tell::GpusUp(_) | Tell::GpusDown(_) => {}
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

fn born(pair: &mut Pair<'_>, worker: u64) -> (Pid, UnixStream) {
    match next(pair) {
        (Tell::Spawned(told), Some(fd)) if told.worker == worker => {
            (Pid::from_raw(told.pid), UnixStream::from(fd))
        }
        other => panic!("{other:?}"),
    }
}

fn failed(pair: &mut Pair<'_>, worker: u64) -> SpawnFailed {
    match next(pair) {
        (Tell::SpawnFailed(told), None) if told.worker == worker => told,
        other => panic!("{other:?}"),
    }
}

fn changed(pair: &mut Pair<'_>) -> WeightsChanged {
    match next(pair).0 {
        Tell::WeightsChanged(told) => told,
        other => panic!("{other:?}"),
    }
}

fn killed(pair: &mut Pair<'_>, workers: &[u64]) {
    let told = workers.iter().map(|_| match next(pair).0 {
        Tell::Exited(told) => (told.worker, told.signal),
        other => panic!("{other:?}"),
    });
    let mut told: Vec<_> = told.collect();
    told.sort_unstable();
    let want: Vec<_> = workers.iter().map(|worker| (*worker, 9)).collect();
    assert_eq!(told, want);
}

#[test]
fn a_keepers_handles_reach_its_workers_and_weights_are_not_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), READS);
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    pair.ask(spawn(1));
    assert!(pair.life.workers.is_empty(), "it waits for the weights");
    keeper.holds();
    let (_, mut connection) = born(&mut pair, 1);
    let lines = shown(&mut connection);
    assert_eq!(line(&lines, "config "), "words");
    assert_eq!(line(&lines, "table "), "places");
    assert_eq!(line(&lines, "memory "), "handle");
    assert!(!lines.contains(&"more".to_owned()), "{lines:?}");
    pair.life.end();
    assert!(!sys::is_child(keeper.pid), "dead and buried");
}

#[test]
fn a_worker_is_told_which_descriptors_are_the_weights() {
    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), "exec /bin/cat <&3 >&3\n");
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    keeper.holds();
    pair.life.tick(Instant::now());
    pair.ask(spawn(1));
    let (_, mut connection) = born(&mut pair, 1);
    let message = frame::read::<ToWorker>(&mut connection).unwrap().unwrap();
    let Some(to_worker::Message::Load(load)) = message.message else {
        panic!("{message:?}");
    };
    let files = load.files.iter().map(|file| (file.name.as_str(), file.fd));
    assert_eq!(files.collect::<Vec<_>>(), [("config.json", 4)]);
    let shared = load.shared_weights.expect("weights");
    let fds = (shared.table_fd, shared.memory_fd, shared.memory_bytes);
    assert_eq!(fds, (5, 6, 4096));
    pair.life.end();
}

#[test]
fn changed_weights_end_all_that_have_them_and_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), WAITS);
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    keeper.holds();
    pair.life.tick(Instant::now());
    pair.ask(spawn(1));
    born(&mut pair, 1);
    pair.ask(spawn(2));
    born(&mut pair, 2);
    keeper.says(Says::WeightsChecked(WeightsChecked {}), None);
    keeper.found(131_072);
    let told = changed(&mut pair);
    let whose = (told.model.as_str(), told.device.as_str(), told.offset);
    assert_eq!(whose, ("m", UUID, 131_072));
    assert_eq!(told.workers, [1, 2]);
    killed(&mut pair, &[1, 2]);
    until(&mut pair, |pair| pair.life.keepers.pids().count() == 0);
    assert!(!sys::is_child(keeper.pid), "dead and buried");
    // The next one waits a moment.
    pair.ask(spawn(3));
    assert!(failed(&mut pair, 3).wait_ns > 0);
    pair.life.end();
}

#[test]
fn a_keeper_that_speaks_nonsense_or_out_of_turn_is_ended_with_its_workers() {
    let table = || Some(memory("places\n", true));
    let made = || Says::TableMade(TableMade {});
    let held = || {
        let memory_bytes = 1;
        Says::WeightsHeld(WeightsHeld {
            memory_bytes,
            load_ns: 1,
        })
    };
    // Before it holds anything: each of these, and nothing after.
    let lies: [(Vec<Said>, &str); 7] = [
        (vec![(made(), None)], "turn"),
        (vec![(held(), table())], "turn"),
        (vec![(made(), table()), (made(), table())], "turn"),
        (vec![(made(), table()), (held(), None)], "turn"),
        (vec![(made(), Some(memory("places\n", false)))], "changed"),
        (vec![(made(), Some(memory("", true)))], "too long"),
        (
            vec![(Says::WeightsChecked(WeightsChecked {}), None)],
            "turn",
        ),
    ];
    for (says, word) in lies {
        let dir = tempfile::tempdir().unwrap();
        let setup = lending(dir.path(), WAITS);
        let mut pair = Pair::new(&setup);
        let keeper = Pretend::in_place(dir.path(), &mut pair);
        pair.ask(spawn(1));
        says.into_iter()
            .for_each(|(says, beside)| keeper.says(says, beside));
        let told = failed(&mut pair, 1);
        assert!(told.reason.contains(word) && !told.permanent, "{told:?}");
        until(&mut pair, |pair| pair.life.keepers.pids().count() == 0);
        pair.life.end();
    }

    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), WAITS);
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    keeper.holds();
    pair.life.tick(Instant::now());
    pair.ask(spawn(1));
    born(&mut pair, 1);
    nix::unistd::write(&keeper.control, b"\xff\xff\xff").unwrap();
    killed(&mut pair, &[1]);
    pair.life.end();
}

#[test]
fn a_keeper_that_falls_silent_talks_too_much_or_dies_takes_its_workers_along() {
    let ends: [fn(&Pretend, &mut Pair<'_>); 3] = [
        |_, pair| pair.life.tick(Instant::now() + Duration::from_secs(61)),
        |keeper, _| {
            for _ in 0..100 {
                keeper.says(Says::WeightsChecked(WeightsChecked {}), None);
            }
        },
        |keeper, _| {
            nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&keeper.control),
                nix::sys::socket::Shutdown::Both,
            )
            .unwrap()
        },
    ];
    for end in ends {
        let dir = tempfile::tempdir().unwrap();
        let setup = lending(dir.path(), WAITS);
        let mut pair = Pair::new(&setup);
        let keeper = Pretend::in_place(dir.path(), &mut pair);
        keeper.holds();
        pair.life.tick(Instant::now());
        pair.ask(spawn(1));
        born(&mut pair, 1);
        end(&keeper, &mut pair);
        killed(&mut pair, &[1]);
        assert!(pair.life.keepers.expected().next().is_none());
        pair.life.end();
    }
}

#[test]
fn a_keeper_that_loads_for_too_long_or_has_no_workers_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), WAITS);
    let mut pair = Pair::new(&setup);
    let _keeper = Pretend::in_place(dir.path(), &mut pair);
    pair.ask(spawn(1));
    pair.life.tick(Instant::now() + HOUR);
    let told = failed(&mut pair, 1);
    assert!(
        told.reason.contains("too long") && !told.permanent,
        "{told:?}"
    );
    pair.life.end();

    let setup = lending(dir.path(), WAITS);
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    keeper.holds();
    pair.life.tick(Instant::now());
    let due = pair.life.keepers.wake_at().expect("it has none");
    pair.life.tick(due - Duration::from_secs(1));
    assert_eq!(pair.life.keepers.controls().count(), 1);
    keeper.says(Says::WeightsChecked(WeightsChecked {}), None);
    pair.life.tick(due);
    assert_eq!(pair.life.keepers.controls().count(), 0);
    pair.life.end();
}

/// Who runs keeps what it has, and it is looked after as long.
#[test]
fn of_a_model_that_was_replaced_there_are_no_new_workers_and_the_old_keep_their_keeper() {
    let dir = tempfile::tempdir().unwrap();
    let setup = lending(dir.path(), WAITS);
    let mut pair = Pair::new(&setup);
    let keeper = Pretend::in_place(dir.path(), &mut pair);
    keeper.holds();
    pair.life.tick(Instant::now());
    pair.ask(spawn(1));
    let (worker, _connection) = born(&mut pair, 1);
    fs::write(dir.path().join("config.json"), "others\n").unwrap();
    pair.ask(spawn(2));
    assert!(failed(&mut pair, 2).permanent);
    pair.life.tick(Instant::now());
    assert_eq!(pair.life.keepers.controls().count(), 1);
    assert!(sys::ended(worker).is_none());
    pair.ask(Ask::Kill(KillWorker { worker: 1 }));
    killed(&mut pair, &[1]);
    until(&mut pair, |pair| pair.life.keepers.pids().count() == 0);
    pair.life.end();
}

/// The real way to a keeper: what it is started as, and what becomes of its refusal.
#[test]
fn a_keeper_that_refuses_its_model_is_not_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let refuses = Says::Refused(Refused {
        reason: "bad".into(),
        permanent: true,
        ..Refused::default()
    });
    let message = FromKeeper {
        message: Some(refuses),
    };
    let bytes = prost::Message::encode_to_vec(&message);
    let octal: String = bytes.iter().map(|byte| format!("\\{byte:03o}")).collect();
    let tells = format!("[ \"$1\" = --keeper ] || exit 9\n{TAKE}printf '{octal}' >&3\nexit 1\n");
    let setup = lending(dir.path(), &tells);
    let mut pair = Pair::new(&setup);
    pair.ask(spawn(1));
    let told = failed(&mut pair, 1);
    assert!(told.permanent && told.reason == "bad", "{told:?}");
    pair.ask_at(spawn(2), Instant::now() + HOUR);
    assert_eq!(pair.life.keepers.controls().count(), 0, "it is not tried");
    let told = failed(&mut pair, 2);
    assert!(told.permanent && told.reason == "bad", "{told:?}");
    pair.life.end();
}
