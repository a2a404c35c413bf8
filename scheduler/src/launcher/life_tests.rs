//! A life driven as the scheduler would drive it, over a real connection and with real processes:
//! shell scripts in the place of worker and audit process, which show what they were given.

use super::*;
use crate::config::GpuUse;
use crate::launcher::worker::{self, CPU};
use crate::models::{File as ModelFile, Format, Manifest, Task};
use bulkhead_proto::{
    frame,
    internal::{KillWorker, SpawnFailed, SpawnGpu, SpawnWorker, ToWorker, to_worker},
};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::Path,
    time::Duration,
};

#[path = "keeper_tests.rs"]
mod keepers;
#[path = "reload_tests.rs"]
mod reload;
#[path = "spare_tests.rs"]
mod spares;
#[path = "template_tests.rs"]
mod templates;

/// Says what it has (arguments, environment, descriptors), then waits for the end of its connection.
const SHOWS: &str = "exec >&3
/bin/ls /proc/$$/fd
echo \"environ $(/usr/bin/wc -c </proc/$$/environ)\"
for arg in \"$@\"; do echo \"arg $arg\"; done
while IFS= read -r line; do echo \"$line\"; done </proc/$$/status
read -r weights <&4 && echo \"weights $weights\"
echo end
read -r _ <&3; exit 0\n";
const DIES: &str = "exit 3\n";

fn script(dir: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(name);
    let mut file = File::create(&path).unwrap();
    file.write_all(format!("#!/bin/sh\n{text}").as_bytes())
        .unwrap();
    file.set_permissions(fs::Permissions::from_mode(0o755))
        .unwrap();
    path
}

/// Without GPUs.
fn setup(dir: &Path, worker: &str, audit: &str) -> Setup {
    setup_with(dir, worker, audit, "exit 0\n")
}

fn setup_with(dir: &Path, worker: &str, audit: &str, gpus: &str) -> Setup {
    fs::write(dir.join("model.gguf"), "numbers\n").unwrap();
    let mut config = Config {
        data: dir.join("data"),
        ..Config::default()
    };
    config.cpu.workers_max = 1;
    config.gpu.use_ = GpuUse::Off;
    // A script can be a worker, and no template.
    config.worker.share_weights = false;
    let manifest = Manifest {
        name: "m".into(),
        format: Format::Gguf,
        task: Task::Generate,
        owner: None,
        source: None,
        weights_bytes: None,
        files: vec![ModelFile {
            name: "model.gguf".into(),
            sha256: crate::models::sha256(&mut "numbers\n".as_bytes(), |_| {}).unwrap(),
        }],
        dir: dir.into(),
    };
    Setup {
        seed: 1,
        config,
        catalog: Catalog::new(vec![manifest]).into(),
        programs: Programs {
            worker: script(dir, "worker", worker),
            worker_cuda: None,
            audit: script(dir, "audit", audit),
            gpus: script(dir, "gpus", gpus),
        },
        groups: Default::default(),
        words: Default::default(),
        hung: Default::default(),
    }
}

/// As NVML writes it.
const UUID: &str = "GPU-01234567-89ab-cdef-0123-456789abcdef";

fn gpu(uuid: &str) -> Option<SpawnGpu> {
    let uuid = uuid.into();
    Some(SpawnGpu { uuid, minor: 7 })
}

/// A life and the scheduler's end of it.
struct Pair<'a> {
    life: Life<'a>,
    scheduler: OwnedFd,
}

impl<'a> Pair<'a> {
    fn new(setup: &'a Setup) -> Pair<'a> {
        let (ours, scheduler) = packet::pair().unwrap();
        let life = Life::new(setup, ours, Instant::now()).unwrap();
        let pair = Pair { life, scheduler };
        match pair.told().0 {
            Tell::Models(told) => assert_eq!(told.models.len(), 1),
            other => panic!("{other:?}"),
        }
        pair
    }

    fn ask(&mut self, ask: Ask) {
        self.ask_at(ask, Instant::now());
    }

    fn ask_at(&mut self, ask: Ask, now: Instant) {
        let message = ToLauncher { message: Some(ask) };
        packet::send(self.scheduler.as_fd(), &message, None).unwrap();
        self.life.listen(now);
    }

    fn spawn(&mut self, worker: u64, model: &str, device: &str) -> (Tell, Option<OwnedFd>) {
        self.ask(Ask::Spawn(SpawnWorker {
            worker,
            model: model.into(),
            device: device.into(),
            tenant: "acme".into(),
            quota_bytes: 0,
            gpu: gpu(UUID).filter(|_| device != CPU),
        }));
        loop {
            match self.told() {
                (Tell::AuditUp(_) | Tell::AuditDown(_), _) => {}
                other => return other,
            }
        }
    }

    fn told(&self) -> (Tell, Option<OwnedFd>) {
        loop {
            match self.told_of_all() {
                (Tell::GpusUp(_) | Tell::GpusDown(_), _) => {}
                other => return other,
            }
        }
    }

    fn told_of_all(&self) -> (Tell, Option<OwnedFd>) {
        let told = packet::recv::<FromLauncher>(self.scheduler.as_fd()).unwrap();
        let (message, fd) = told.expect("the launcher is there");
        (message.message.expect("a message"), fd)
    }

    fn spawned(&mut self, worker: u64) -> (Pid, UnixStream) {
        match self.spawn(worker, "m", "cpu") {
            (Tell::Spawned(told), Some(fd)) if told.worker == worker => {
                (Pid::from_raw(told.pid), UnixStream::from(fd))
            }
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, worker: u64, model: &str, device: &str) -> SpawnFailed {
        match self.spawn(worker, model, device) {
            (Tell::SpawnFailed(told), None) if told.worker == worker => told,
            other => panic!("{other:?}"),
        }
    }
}

/// Waits until a child has ended, and leaves it to be buried by the life.
fn until_ended(pid: Pid) {
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT).unwrap();
}

/// What a showing script says, up to its last word.
fn shown(connection: &mut UnixStream) -> Vec<String> {
    connection
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut text = String::new();
    while !text.ends_with("end\n") {
        let mut byte = [0];
        connection.read_exact(&mut byte).unwrap();
        text.push(char::from(byte[0]));
    }
    text.lines().map(String::from).collect()
}

fn line<'a>(lines: &'a [String], start: &str) -> &'a str {
    let found = lines.iter().find_map(|l| l.strip_prefix(start));
    found
        .unwrap_or_else(|| panic!("no {start:?} in {lines:#?}"))
        .trim()
}

#[test]
fn a_worker_gets_its_model_its_connection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), SHOWS, DIES);
    let mut pair = Pair::new(&setup);
    // Something of the launcher's that no worker may see.
    let mine = File::open("/proc/self/status").unwrap();
    let raw = nix::unistd::dup(&mine).unwrap();
    let (_, mut connection) = pair.spawned(1);
    let lines = shown(&mut connection);
    drop(raw);

    // 10 is the shell's own: the script that it reads.
    let fds = lines
        .iter()
        .filter(|l| l.parse::<u32>().is_ok_and(|fd| fd != 10));
    assert_eq!(fds.collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
    assert_eq!(line(&lines, "environ "), "0");
    assert_eq!(line(&lines, "weights "), "numbers");
    // Nothing but which user it is to be, where the launcher may say that.
    let arguments = lines.iter().filter_map(|l| l.strip_prefix("arg "));
    let arguments: Vec<_> = arguments.collect();
    match (nix::unistd::geteuid().is_root(), arguments.as_slice()) {
        (false, []) => {}
        (true, ["--users", block]) => assert!(block.parse::<u32>().is_ok(), "{block}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(line(&lines, "SigBlk:"), "0000000000000000");
    assert_eq!(line(&lines, "PPid:"), std::process::id().to_string());
    drop(connection);
    pair.life.end();
}

#[test]
fn the_load_frame_is_the_first_thing_a_worker_reads() {
    let dir = tempfile::tempdir().unwrap();
    // Sends back what it reads.
    let mut setup = setup(dir.path(), "exec cat <&3 >&3\n", DIES);
    setup.programs.worker = script(dir.path(), "echo", "exec /bin/cat <&3 >&3\n");
    let mut pair = Pair::new(&setup);
    let (_, mut connection) = pair.spawned(1);
    let message = frame::read::<ToWorker>(&mut connection).unwrap().unwrap();
    let Some(to_worker::Message::Load(load)) = message.message else {
        panic!("{message:?}");
    };
    assert_eq!((load.model.as_str(), load.format.as_str()), ("m", "gguf"));
    assert_eq!(
        (load.files[0].fd, load.files[0].name.as_str()),
        (4, "model.gguf")
    );
    assert_eq!(load.required_layers, setup.config.worker.required_layers);
    assert!(load.zeroing_off.is_empty());
    assert_eq!(load.device, "cpu");
    pair.life.end();
}

#[test]
fn a_gpus_worker_is_another_program_and_is_told_its_device() {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = setup(dir.path(), DIES, DIES);
    // Of a quantised model its weights are its own, whatever other workers do.
    setup.config.worker.share_weights = true;
    let missing = Pair::new(&setup).refused(1, "m", "cuda:1");
    assert!(missing.permanent);
    assert!(missing.reason.contains("deploy/cuda/setup"), "{missing:?}");

    setup.programs.worker_cuda = Some(script(dir.path(), "cuda", "exec /bin/cat <&3 >&3\n"));
    let mut pair = Pair::new(&setup);
    for device in ["cuda:", "cuda:01", "cuda:256", "cuda:-1", "gpu"] {
        let refused = pair.refused(1, "m", device);
        assert!(refused.reason.contains("no device"), "{refused:?}");
    }
    let (Tell::Spawned(told), Some(connection)) = pair.spawn(1, "m", "cuda:1") else {
        panic!("it is started");
    };
    let mut connection = UnixStream::from(connection);
    let message = frame::read::<ToWorker>(&mut connection).unwrap().unwrap();
    let Some(to_worker::Message::Load(load)) = message.message else {
        panic!("{message:?}");
    };
    // Whatever NVML calls it: it is shown no other.
    assert_eq!((load.device.as_str(), load.gpu_minor), ("cuda:0", Some(7)));
    let environment = fs::read_to_string(format!("/proc/{}/environ", told.pid)).unwrap();
    // A shell says where it is.
    let mut variables = environment
        .split_terminator('\0')
        .filter(|one| !one.starts_with("PWD="));
    assert_eq!(
        variables.next(),
        Some(&*format!("CUDA_VISIBLE_DEVICES={UUID}"))
    );
    assert_eq!(variables.next(), None);
    // What a driver maps is not bounded, and what it writes to is.
    let limits = fs::read_to_string(format!("/proc/{}/limits", told.pid)).unwrap();
    let soft = |name: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().split_whitespace().next().unwrap().to_owned()
    };
    assert_eq!(soft("Max address space"), "unlimited");
    let data: u64 = soft("Max data size").parse().unwrap();
    assert!((4 << 30..16 << 30).contains(&data), "{data}");
    assert_eq!((load.files.len(), load.shared_weights), (1, None));
    assert_eq!(pair.life.keepers.pids().count(), 0);
    pair.life.end();
}

#[test]
fn a_gpu_is_named_by_its_unique_id_and_nothing_else_goes_into_an_environment() {
    let ask = |device: &str, gpu| SpawnWorker {
        device: device.into(),
        gpu,
        ..SpawnWorker::default()
    };
    assert!(worker::on(&ask("cuda:0", gpu(UUID))).is_ok());
    let instance = UUID.replace("GPU", "MIG");
    assert!(worker::on(&ask("cuda:0", gpu(&instance))).is_ok());
    for uuid in [
        "",
        "0",
        "GPU-",
        "GPU-0",
        "0,1",
        "GPU-01234567-89ab-cdef-0123-456789abcde",
        "GPU-01234567-89ab-cdef-0123-456789abcdeg",
        "GPU-01234567-89ab-cdef-0123-456789abcdef,0",
        "CPU-01234567-89ab-cdef-0123-456789abcdef",
        "GPU-0123456789abcdef0123456789abcdef",
    ] {
        assert!(worker::on(&ask("cuda:0", gpu(uuid))).is_err(), "{uuid}");
    }
    assert!(worker::on(&ask("cuda:0", None)).is_err());
    assert!(worker::on(&ask("cpu", gpu(UUID))).is_err());
}

#[test]
fn what_the_scheduler_may_not_ask_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), "read -r _ <&3\nread -r _ <&3\n", DIES);
    let mut pair = Pair::new(&setup);
    assert!(pair.refused(1, "../m", "cpu").permanent);
    assert!(pair.refused(1, "m", "cuda:0").permanent);
    let alive: Vec<_> = (1..=5).map(|n| pair.spawned(n)).collect();
    assert!(pair.refused(5, "m", "cpu").reason.contains("alive already"));
    let most = pair.refused(6, "m", "cpu");
    assert!(!most.permanent && most.reason.contains('5'), "{most:?}");
    pair.life.end();
    drop(alive);
}

#[test]
fn a_workers_end_is_told_and_its_place_is_free_again() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), "read -r _ <&3; exec /bin/sleep 60\n", DIES);
    let mut pair = Pair::new(&setup);
    let (pid, _connection) = pair.spawned(1);
    // Of a worker that is not there, nothing happens.
    pair.ask(Ask::Kill(KillWorker { worker: 2 }));
    pair.ask(Ask::Kill(KillWorker { worker: 1 }));
    until_ended(pid);
    pair.life.tick(Instant::now());
    let exited = loop {
        match pair.told().0 {
            Tell::Exited(told) => break told,
            Tell::AuditUp(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(
        (exited.worker, exited.how.as_str(), exited.signal),
        (1, "signal 9 (SIGKILL)", 9)
    );
    pair.spawned(1);
    pair.life.end();
}

#[test]
fn the_audit_process_is_started_again_with_growing_patience() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), DIES, DIES);
    let mut pair = Pair::new(&setup);
    let mut now = Instant::now();
    let mut waits = Vec::new();
    for _ in 0..3 {
        pair.life.tick(now);
        assert!(matches!(pair.told(), (Tell::AuditUp(_), Some(_))));
        until_ended(pair.life.audit.pid().unwrap());
        pair.life.tick(now);
        match pair.told().0 {
            Tell::AuditDown(down) => assert_eq!(down.how, "exit 3"),
            other => panic!("{other:?}"),
        }
        let due = pair.life.wake_at(now).unwrap();
        waits.push((due - now).as_millis());
        pair.life.tick(now);
        assert!(pair.life.audit.pid().is_none(), "not before it is due");
        now = due;
    }
    assert_eq!(waits, [50, 100, 200]);
    pair.life.end();
}

#[test]
fn the_audit_process_ends_with_the_schedulers_end_of_its_connection() {
    let dir = tempfile::tempdir().unwrap();
    let seals = format!(
        "read -r _ <&3; echo sealed >{}/sealed\n",
        dir.path().display()
    );
    let setup = setup(dir.path(), DIES, &seals);
    let mut pair = Pair::new(&setup);
    pair.life.tick(Instant::now());
    let (_, connection) = pair.told();
    drop(connection);
    pair.life.end();
    assert_eq!(
        fs::read_to_string(dir.path().join("sealed")).unwrap(),
        "sealed\n"
    );
}

#[test]
fn a_program_that_cannot_run_is_an_answer_and_not_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let mut setup = setup(dir.path(), DIES, DIES);
    setup.programs.worker = dir.path().join("not there");
    let mut pair = Pair::new(&setup);
    let told = pair.refused(1, "m", "cpu");
    assert!(
        !told.permanent && told.reason.contains("No such file"),
        "{told:?}"
    );
    pair.life.end();
}

#[test]
fn nonsense_from_the_scheduler_ends_the_connection() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), DIES, DIES);
    let mut pair = Pair::new(&setup);
    nix::unistd::write(&pair.scheduler, b"\xff\xff\xff").unwrap();
    pair.life.listen(Instant::now());
    assert!(pair.life.socket().is_none());
    pair.life.end();
}

#[test]
fn a_scheduler_that_never_listens_cannot_stop_the_launcher() {
    let dir = tempfile::tempdir().unwrap();
    let setup = setup(dir.path(), DIES, DIES);
    let mut pair = Pair::new(&setup);
    for _ in 0..100_000 {
        if pair.life.socket().is_none() {
            break;
        }
        pair.life.drain();
    }
    assert!(pair.life.socket().is_none(), "the connection was given up");
    pair.life.end();
}

#[test]
fn whoever_watches_gpus_is_started_again_unless_there_are_none() {
    let dir = tempfile::tempdir().unwrap();
    let up = |pair: &Pair<'_>| loop {
        match pair.told_of_all() {
            (Tell::GpusUp(_), Some(connection)) => return connection,
            (Tell::AuditUp(_) | Tell::AuditDown(_), _) => {}
            other => panic!("{other:?}"),
        }
    };
    let setup = setup_with(dir.path(), DIES, DIES, DIES);
    let mut pair = Pair::new(&setup);
    let mut now = Instant::now();
    for wait in [50, 100] {
        pair.life.tick(now);
        up(&pair);
        until_ended(pair.life.gpus.pid().unwrap());
        pair.life.tick(now);
        let how = loop {
            match pair.told_of_all().0 {
                Tell::GpusDown(down) => break down.how,
                Tell::AuditUp(_) | Tell::AuditDown(_) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(how, "exit 3");
        let due = pair.life.gpus.wake_at().unwrap();
        assert_eq!((due - now).as_millis(), wait);
        now = due;
    }
    pair.life.end();

    let setup = setup_with(dir.path(), DIES, DIES, "exit 0\n");
    let mut pair = Pair::new(&setup);
    pair.life.tick(now);
    up(&pair);
    until_ended(pair.life.gpus.pid().unwrap());
    pair.life.tick(now);
    assert_eq!(
        (pair.life.gpus.pid(), pair.life.gpus.wake_at()),
        (None, None)
    );
    pair.life.end();
}

#[test]
fn whoever_watches_gpus_ends_with_the_life() {
    let dir = tempfile::tempdir().unwrap();
    let deaf = "exec /bin/sleep 60\n";
    let setup = setup_with(dir.path(), DIES, DIES, deaf);
    let mut pair = Pair::new(&setup);
    pair.life.tick(Instant::now());
    let pid = pair.life.gpus.pid().unwrap();
    pair.life.end();
    assert!(!sys::is_child(pid) && setup.hung.borrow().is_empty());
}
