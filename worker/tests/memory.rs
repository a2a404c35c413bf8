//! Promise 4, read from outside: after a job, no piece of its prompt is in the worker's memory.
//!
//! A random canary goes through the real worker as a prompt; when the worker has run dry, all that it can
//! write to is read through `/proc/PID/mem`. The same scan with zeroing switched off does find the
//! canary, so the test could fail. Reading another process's memory needs root; other users run the
//! test again as root of a user namespace of their own.

#[path = "models/tiny.rs"]
#[allow(dead_code)] // Its other tests use the rest.
mod tiny;

mod support;

use aws_lc_rs::digest;
use bulkhead_kernels::Measure;
use bulkhead_kernels::canary;
use bulkhead_proto::internal::{EmbedJob, Load, Work, WorkItem, to_worker, work_item::Job};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::Command;
use support::{Worker, model_file, null_load};
use tiny::Tiny;

/// The least piece of a canary that counts as a leak, bytes.
const PIECE_BYTES: usize = 16;

/// 32 random printable bytes.
fn random_canary() -> String {
    let mut bytes = [0u8; 32];
    File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
        .iter()
        .map(|byte| char::from(b'A' + byte % 26))
        .collect()
}

/// How many writable mappings of the process hold a piece of the canary, and the bytes that were read.
fn leaks(pid: u32, canary: &str) -> (Vec<String>, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    let mut read = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        let mut bytes = vec![0; (end - start) as usize];
        memory.read_exact_at(&mut bytes, start).unwrap();
        read += end - start;
        if let Some(offset) = canary::scan(&bytes, canary.as_bytes(), PIECE_BYTES) {
            found.push(format!("{:#x} in {line}", start + offset as u64));
        }
    }
    (found, read)
}

/// Runs three jobs whose prompts hold the canary, until the worker is dry, and looks.
fn leaks_after_jobs(load: Load) -> Vec<String> {
    let canary = random_canary();
    let (mut worker, _) = Worker::assigned(Load {
        null_ns_per_token: 1000,
        ..load
    });
    for request in 1..=3 {
        let padding = "-".repeat(500);
        worker.generate(request, &format!("{padding}{canary}{padding}"), 4);
        worker.grant(request);
        let (_, released) = worker.until_released();
        assert!(released.dry);
    }
    let (found, read) = leaks(worker.child.id(), &canary);
    assert!(read > 1 << 20, "the scan read only {read} bytes");
    found
}

/// Runs the test of this name again in a user namespace, where we are root; false where we are it already.
fn ran_as_root_instead(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return false;
    }
    let this = std::env::current_exe().unwrap();
    let status = Command::new("unshare")
        .args(["-Ur"])
        .arg(this)
        .args(["--exact", test])
        .status();
    assert!(
        status.expect("unshare, of util-linux").success(),
        "{test}, as root of a namespace"
    );
    true
}

#[test]
fn no_piece_of_a_prompt_is_left_after_its_job() {
    if ran_as_root_instead("no_piece_of_a_prompt_is_left_after_its_job") {
        return;
    }
    assert_eq!(leaks_after_jobs(null_load()), Vec::<String>::new());
}

#[test]
fn without_zeroing_the_same_scan_finds_the_prompt() {
    if ran_as_root_instead("without_zeroing_the_same_scan_finds_the_prompt") {
        return;
    }
    let found = leaks_after_jobs(Load {
        zeroing_off: every_measure(),
        ..null_load()
    });
    assert!(
        !found.is_empty(),
        "the scan must be able to find what it looks for"
    );
}

fn every_measure() -> Vec<String> {
    Measure::ALL.map(|one| one.name().to_owned()).to_vec()
}

/// What is left of a text after a real encoder with this tokenizer embedded it.
fn leaks_after_embedding(tokenizer: &str, zeroing: bool) -> Vec<String> {
    // In lower case, which no tokenizer changes.
    let canary = random_canary().to_lowercase();
    let model = Tiny {
        model_type: "xlm-roberta".into(),
        tokenizer: tokenizer.into(),
        ..Tiny::bert()
    };
    let (entries, files): (Vec<_>, Vec<_>) = (model.files().into_iter().zip(4..))
        .map(|(file, fd)| {
            let hash = digest::digest(&digest::SHA256, &file.bytes);
            let hex: String = hash.as_ref().iter().map(|x| format!("{x:02x}")).collect();
            model_file(&file.name, &file.bytes, &hex, fd)
        })
        .unzip();
    let load = Load {
        model: "tiny".into(),
        format: "safetensors".into(),
        files: entries,
        zeroing_off: if zeroing { vec![] } else { every_measure() },
        ..null_load()
    };
    let (mut worker, _) = Worker::assigned_with(load, &files);
    for request in 1..=3 {
        let texts = vec![format!("the {canary} of the ship")];
        let item = WorkItem {
            request,
            job: Some(Job::Embed(EmbedJob { texts })),
            ..WorkItem::default()
        };
        worker.send(to_worker::Message::Work(Work { items: vec![item] }));
        worker.grant(request);
        assert!(worker.until_released().1.dry);
    }
    leaks(worker.child.id(), &canary).0
}

#[test]
fn no_tokenizer_keeps_a_word_of_a_text() {
    if ran_as_root_instead("no_tokenizer_keeps_a_word_of_a_text") {
        return;
    }
    for tokenizer in ["unigram", "bytes"] {
        assert_eq!(leaks_after_embedding(tokenizer, true), Vec::<String>::new());
        assert!(!leaks_after_embedding(tokenizer, false).is_empty());
    }
}
