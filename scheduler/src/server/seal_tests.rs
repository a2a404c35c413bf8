//! Whoever took the scheduler over: what it tries works without the seal, or the test would show nothing, and fails
//! with it; and what a scheduler does still works.
//!
//! Each try is a process of its own, which is this very program with one test: the seal is for ever, and may kill.

use super::*;
use crate::config::Config;
use nix::{sys::signal::kill, unistd::getppid};
use std::{
    env, fs,
    fs::File,
    io,
    net::{TcpListener, TcpStream},
    os::{
        fd::AsRawFd,
        unix::{
            net::{UnixDatagram, UnixStream},
            process::ExitStatusExt,
        },
    },
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

/// Says what to try, in which folder, and whether sealed: `name sealed folder`.
const ORDER: &str = "BULKHEAD_SEAL_TEST";
/// How a try ends that was told no.
const DENIED: i32 = 10;

type Try = (&'static str, fn(&Path) -> io::Result<()>);

const FORBIDDEN_TRIES: [Try; 15] = [
    ("anybody's file", |_| File::open("/etc/hostname").map(drop)),
    ("the log's keys", |data| {
        fs::read(data.join("keys/audit/key")).map(drop)
    }),
    ("the CA's key", |data| {
        fs::read(data.join("tls/ca.key")).map(drop)
    }),
    ("the log", |data| fs::write(data.join("audit/journal"), "x")),
    ("a policy", |data| {
        fs::write(data.join("policy/a.cedar"), "x")
    }),
    ("a file of its own making", |data| {
        fs::write(data.join("x"), "x")
    }),
    ("its own memory map", |_| {
        File::open("/proc/self/maps").map(drop)
    }),
    ("its parent's environment", |_| {
        File::open(format!("/proc/{}/environ", getppid())).map(drop)
    }),
    ("a program", |_| {
        Command::new("/bin/true").status().map(drop)
    }),
    ("a listener", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("a connection", |_| {
        match TcpStream::connect("127.0.0.1:1") {
            // Nobody listens there, and it could be asked.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
            other => other.map(drop),
        }
    }),
    ("who may read the log", |data| {
        let mut rights = fs::metadata(data.join("audit"))?.permissions();
        rights.set_readonly(true);
        fs::set_permissions(data.join("audit"), rights)
    }),
    ("a datagram to anybody's path", |_| {
        UnixDatagram::pair().map(drop)
    }),
    ("a signal for a descriptor", |_| {
        let (one, _other) = UnixStream::pair()?;
        // SAFETY: a plain system call on numbers.
        match unsafe { libc::fcntl(one.as_raw_fd(), libc::F_SETOWN, getppid().as_raw()) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }),
    ("a signal", |_| Ok(kill(getppid(), None)?)),
];

const NEEDED: [Try; 4] = [
    ("its state", |data| {
        fs::write(data.join("state/new"), "x")?;
        fs::rename(data.join("state/new"), data.join("state/identity.db"))?;
        File::open(data.join("state"))?.sync_all()
    }),
    ("its certificate", |data| {
        fs::read(data.join("tls/server.key")).map(drop)
    }),
    ("the policies", |data| {
        fs::read_dir(data.join("policy"))?.count();
        fs::read(data.join("policy/a.cedar")).map(drop)
    }),
    ("a thread", |_| {
        let made = std::thread::Builder::new().spawn(|| ())?;
        made.join().map_err(|_| io::Error::other("it panicked"))
    }),
];

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["state", "tls", "policy", "audit", "keys/audit"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in [
        "tls/ca.pem",
        "tls/ca.key",
        "tls/server.pem",
        "tls/server.key",
        "policy/a.cedar",
        "audit/journal",
        "keys/audit/key",
    ] {
        fs::write(dir.path().join(name), "x").unwrap();
    }
    dir
}

/// Does what it is told to where it is told anything; this is the child's only test.
#[test]
fn child() {
    let Ok(order) = env::var(ORDER) else { return };
    let mut words = order.splitn(3, '|');
    let (name, depth, data) = (
        words.next().unwrap(),
        words.next().unwrap(),
        words.next().unwrap(),
    );
    let data = Path::new(data);
    if depth == "sealed" {
        let config = Config {
            data: data.to_owned(),
            ..Config::default()
        };
        for layer in restrict(&config.paths()) {
            layer.outcome.expect(layer.name);
        }
    }
    let mut all = FORBIDDEN_TRIES.iter().chain(&NEEDED);
    let (_, what) = all.find(|(known, _)| *known == name).unwrap();
    if what(data).is_err() {
        std::process::exit(DENIED);
    }
}

fn tried(name: &str, depth: &str) -> ExitStatus {
    let data = folder();
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "server::seal::tests::child"])
        .env(ORDER, format!("{name}|{depth}|{}", data.path().display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap()
}

#[test]
fn what_a_scheduler_never_does_it_cannot_do() {
    for (name, _) in FORBIDDEN_TRIES {
        let (open, sealed) = (tried(name, "open"), tried(name, "sealed"));
        assert!(open.success(), "{name} works without the seal: {open}");
        let denied = sealed.code() == Some(DENIED) || sealed.signal() == Some(libc::SIGSYS);
        assert!(denied, "{name} is denied: {sealed}");
    }
}

#[test]
fn what_a_scheduler_does_it_still_can() {
    for (name, _) in NEEDED {
        let sealed = tried(name, "sealed");
        assert!(sealed.success(), "{name}: {sealed}");
    }
}

#[test]
fn the_filters_fit_the_kernels_limit() {
    for filter in filters().unwrap() {
        assert!(!filter.is_empty() && filter.len() < 4096);
    }
}
