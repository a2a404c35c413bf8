//! The programs under test, built the way that the tests themselves were.
//!
//! `cargo test` does not build other packages' binaries, so this does, once per test process; cargo's
//! own lock keeps several of them apart, and a build with nothing to do takes a second. Where the
//! programs lie is taken from cargo's answer.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

const PACKAGES: [&str; 5] = [
    "bulkhead",
    "bulkhead-worker",
    "bulkhead-audit",
    "bulkhead-gpus",
    "bulkhead-hostile",
];

/// The path of one of our programs.
pub fn path(name: &str) -> &'static Path {
    static BUILT: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    let built = BUILT.get_or_init(build);
    let path = built.get(name);
    path.unwrap_or_else(|| panic!("cargo built no program {name}"))
}

/// A command that runs `bulkhead`.
pub fn bulkhead() -> Command {
    Command::new(path("bulkhead"))
}

/// The worker's program, but for one model: where it is given that model's file, it first runs these lines
/// of shell, in which `$file` is the file's path. For faults that only the loading process can have.
pub fn worker_with(dir: &Path, model: &str, lines: &str) -> PathBuf {
    let program = dir.join("worker");
    let text = format!(
        "#!/bin/sh\nfile=$(/usr/bin/readlink /proc/$$/fd/4)\n\
         case $file in */{model}/*)\n{lines}\n;;\nesac\nexec {} \"$@\"\n",
        path("bulkhead-worker").display()
    );
    fs::write(&program, text).expect("a script");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("may be run");
    program
}

fn build() -> BTreeMap<String, PathBuf> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--message-format", "json-render-diagnostics"]);
    for package in PACKAGES {
        cargo.args(["-p", package]);
    }
    match profile().as_str() {
        "debug" => {}
        name => {
            cargo.args(["--profile", name]);
        }
    }
    let output = cargo
        .current_dir(crate::source::root())
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "the programs under test build");
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(executable).collect()
}

/// The folder below the target folder that this test lies in: a profile's name, or "debug".
fn profile() -> String {
    let me = std::env::current_exe().expect("this test is a file");
    let folder = me.ancestors().nth(2).and_then(Path::file_name);
    folder.map_or("debug".into(), |name| name.to_string_lossy().into_owned())
}

/// One of cargo's messages, if it tells of an executable.
fn executable(line: &str) -> Option<(String, PathBuf)> {
    let message: serde_json::Value = serde_json::from_str(line).ok()?;
    let path = PathBuf::from(message["executable"].as_str()?);
    Some((message["target"]["name"].as_str()?.into(), path))
}
