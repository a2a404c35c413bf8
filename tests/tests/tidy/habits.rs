//! House habits that a compiler does not hold: what a file opens with, where `unsafe` may be, and what
//! is never left lying about.

use bulkhead_tests::source::{Source, names, rust_files};

/// Everything outside `kernels/` that may hold `unsafe`: thin wrappers of system calls.
const UNSAFE_ALLOWED: &[&str] = &[
    "proto/src/packet.rs",
    "scheduler/audit/src/process.rs",
    "scheduler/gpus/src/process.rs",
    "scheduler/src/launcher/spawn.rs",
    "scheduler/src/launcher/sys.rs",
    "worker/src/process.rs",
    "worker/src/seal/",
    // Attacks on the seal make the raw calls that it has to stop.
    "scheduler/src/server/seal_tests.rs",
    "tests/hostile/",
    "worker/tests/seal/",
    "worker/tests/support/",
];

/// The one place where a test may wait: polling for a condition, with a bound.
const WAITING_ALLOWED: &str = "tests/src/wait.rs";

fn ours() -> Vec<Source> {
    let files = rust_files("");
    assert!(files.len() > 100, "the workspace's files are found");
    files
}

fn is_test_code(path: &str) -> bool {
    path.starts_with("tests/") || path.contains("/tests/") || path.ends_with("tests.rs")
}

#[test]
fn every_file_says_what_it_is() {
    let silent = ours()
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| format!("{} does not open with //!", file.path));
    super::none_of(
        silent.collect(),
        "say what it is, why it is so, and what never happens there",
    );
}

#[test]
fn unsafe_stays_where_it_is_looked_at() {
    let mut complaints = Vec::new();
    for file in ours() {
        let allowed = file.path.starts_with("kernels/")
            || UNSAFE_ALLOWED.iter().any(|p| file.path.starts_with(p));
        if !allowed && names(&file.code(), "unsafe") {
            complaints.push(format!("{} holds `unsafe`", file.path));
        }
    }
    super::none_of(
        complaints,
        "move it into kernels, or into a thin wrapper of one system call",
    );
}

#[test]
fn every_unsafe_block_has_its_reason() {
    let mut complaints = Vec::new();
    for file in ours() {
        let (code, lines) = (file.code(), file.text.lines().collect::<Vec<_>>());
        for (number, _) in code
            .lines()
            .enumerate()
            .filter(|(_, l)| l.contains("unsafe {"))
        {
            let near = &lines[number.saturating_sub(12)..=number];
            if !near.iter().any(|line| line.contains("SAFETY:")) {
                complaints.push(format!("{}:{}", file.path, number + 1));
            }
        }
    }
    super::none_of(complaints, "say after `// SAFETY:` why it is sound");
}

#[test]
fn nothing_is_left_to_do_and_no_test_is_skipped() {
    // Spelled so that this file does not find itself.
    let notes = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
    ];
    let code = [
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
    ];
    let mut complaints = Vec::new();
    for file in ours() {
        let shown = file.code();
        let noted = notes.iter().filter(|note| names(&file.text, note));
        let coded = code.iter().filter(|mark| shown.contains(*mark));
        for mark in noted.chain(coded) {
            complaints.push(format!("{} holds {mark}", file.path));
        }
    }
    super::none_of(complaints, "do it, or open an issue");
}

/// A sleep in a test is either too short on a busy machine or too long on every other.
#[test]
fn tests_wait_for_conditions_and_not_for_time() {
    let mut complaints = Vec::new();
    for file in ours() {
        let code = match file.path.as_str() {
            WAITING_ALLOWED => continue,
            path if is_test_code(path) => file.code(),
            _ => file.code().replace(&file.shipped_code(), ""),
        };
        if ["sleep(", "sleep_until("]
            .iter()
            .any(|call| code.contains(call))
        {
            complaints.push(format!("{} sleeps", file.path));
        }
    }
    super::none_of(
        complaints,
        "wait for what is meant: an event, or `eventually(limit, …)`",
    );
}

/// What `cargo fmt` would mend, said in a place that names the file.
#[test]
fn files_end_with_a_newline_and_hold_no_tabs() {
    let mut complaints = Vec::new();
    for file in ours() {
        if !file.text.ends_with('\n') {
            complaints.push(format!("{} does not end with a newline", file.path));
        }
        if file.text.contains('\t') {
            complaints.push(format!("{} holds a tab", file.path));
        }
    }
    super::none_of(complaints, "run `cargo fmt`");
}
