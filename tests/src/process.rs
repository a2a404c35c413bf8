//! Our processes from outside: who is whose child, what the kernel says of them.
//!
//! Only `/proc` is read. Reading a sealed worker's memory takes root, or a user namespace in which the
//! tests are: `as_root` sees to that.

use bulkhead_search::readable;
use nix::{sys::signal::Signal, unistd::Pid};
use std::{fs, path::PathBuf, process::Command};

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    /// What the kernel calls it: the program's name, cut to 15 characters.
    pub name: String,
}

/// All descendants of `pid`, zombies left out.
pub fn descendants(pid: i32) -> Vec<Process> {
    let all = all();
    let mut found: Vec<Process> = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for process in all.iter().filter(|p| p.parent == parent) {
            parents.push(process.pid);
            found.push(process.clone());
        }
    }
    found
}

/// True while a process of this number runs.
pub fn alive(pid: i32) -> bool {
    one(pid).is_some()
}

/// Kills at once.
pub fn kill(pid: i32) {
    send(pid, Signal::SIGKILL);
}

/// Stops a process where it is; all it holds stays open.
pub fn freeze(pid: i32) {
    send(pid, Signal::SIGSTOP);
}

/// Lets a frozen process go on.
pub fn thaw(pid: i32) {
    send(pid, Signal::SIGCONT);
}

fn send(pid: i32, signal: Signal) {
    nix::sys::signal::kill(Pid::from_raw(pid), signal).expect("it is ours and alive");
}

fn all() -> Vec<Process> {
    let entries = fs::read_dir("/proc").expect("/proc is there");
    let pids = entries
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok());
    pids.filter_map(one).collect()
}

fn one(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (head, tail) = stat.rsplit_once(')')?;
    let mut fields = tail.split_whitespace();
    let (state, parent) = (fields.next()?, fields.next()?);
    let name = head.split_once('(')?.1.to_owned();
    let parent = parent.parse().ok()?;
    (state != "Z" && state != "X").then_some(Process { pid, parent, name })
}

/// A field of `/proc/PID/status`.
pub fn status_field(pid: i32, field: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let lines = text.lines();
    let mut values = lines.filter_map(|l| l.split_once(':').filter(|(name, _)| *name == field));
    let (_, value) = values.next().unwrap_or_else(|| panic!("no field {field}"));
    value.trim().into()
}

/// What the open descriptors of a process lead to.
pub fn open_files(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors may be read");
    let links = entries
        .flatten()
        .filter_map(|e| fs::read_link(e.path()).ok());
    links
        .map(|path| path.to_string_lossy().into_owned())
        .collect()
}

/// The namespace of a process: "net:[…]".
pub fn namespace(pid: i32, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{kind}")).expect("namespaces may be read");
    link.to_string_lossy().into_owned()
}

/// The control groups of a process that its launcher made for it: paths below the launcher's folder, one a line.
pub fn own_groups(pid: i32, launcher: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("groups may be read");
    let ours = format!("/bulkhead-{launcher}/");
    let below = text
        .lines()
        .filter_map(|line| Some(line.split_once(&ours)?.1));
    below.collect::<Vec<_>>().join("\n")
}

/// What a process's memory costs, bytes, by the kernel's account.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// Its share: what it has alone, and of each page that it shares, one part in as many as share it.
    pub proportional: u64,
    /// What it has alone and has written.
    pub private_dirty: u64,
    /// What it shares with other processes and somebody has written.
    pub shared_dirty: u64,
}

/// The memory of a process, from `/proc/PID/smaps_rollup`.
pub fn memory(pid: i32) -> Memory {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let bytes = |field: &str| {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_suffix(" kB"));
        value
            .expect("a field of the kernel's")
            .trim()
            .parse::<u64>()
            .expect("a number")
            << 10
    };
    Memory {
        proportional: bytes("Pss:"),
        private_dirty: bytes("Private_Dirty:"),
        shared_dirty: bytes("Shared_Dirty:"),
    }
}

/// Where a process's anonymous writable memory lies, and how long each piece is. All of it is private:
/// a mapping that writes would show through in is an error.
pub fn private_mappings(pid: i32) -> Vec<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("mappings may be read");
    let writable = maps.lines().filter(|line| line.contains(" rw"));
    let place = |line: &str| {
        let rights = line.split_whitespace().nth(1).expect("rights");
        assert!(rights.ends_with('p'), "shared and writable: {line}");
        readable(line).map(|(from, to)| (from, to - from))
    };
    writable
        .filter(|line| !line.contains('/'))
        .filter_map(place)
        .collect()
}

/// True where this process may read other processes' memory. Where not, runs the test of this name
/// once more, in a user namespace in which it may, and demands that it passes there; the caller then
/// has nothing left to do.
pub fn as_root(test: &str) -> bool {
    const INSIDE: &str = "BULKHEAD_TESTS_IN_NAMESPACE";
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(
        std::env::var_os(INSIDE).is_none(),
        "still not root inside a user namespace: run the tests as root"
    );
    let me: PathBuf = std::env::current_exe().expect("this test is a file");
    let run = Command::new("unshare")
        .args(["--user", "--map-root-user", "--"])
        .arg(me)
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .status();
    let passed = run.is_ok_and(|status| status.success());
    assert!(
        passed,
        "{test} reads other processes' memory: it failed in a user namespace, or none could be made \
         (`unshare --user --map-root-user`); run the tests as root to tell the two apart"
    );
    false
}
