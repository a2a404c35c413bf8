//! Whoever changes a closed log is seen by `bulkhead audit verify`, with nothing but a public key; who
//! rolls it back, by a checkpoint that somebody kept.

use bulkhead_tests::{options::Options, server::Server};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

async fn closed(requests: usize) -> Server {
    let mut server = Server::start(Options::null(0)).await;
    let client = server.agent("acme", "reader").await.client().await;
    for _ in 0..requests {
        client.embed("null", &["a text"]).await.expect("served");
    }
    assert_eq!(server.stop().await, Some(0));
    server
}

fn segment(server: &Server) -> PathBuf {
    server.data().join("audit/journal/0000000001.seg")
}

/// Where the written part of a segment ends: all after it is zero.
fn used(bytes: &[u8]) -> usize {
    bytes
        .iter()
        .rposition(|b| *b != 0)
        .expect("something is written")
        + 1
}

#[tokio::test]
async fn a_flipped_bit_anywhere_is_found() {
    let server = closed(10).await;
    let path = segment(&server);
    let good = fs::read(&path).expect("the journal");
    server
        .command(&["audit", "verify"])
        .expect("untouched, it verifies");
    let used = used(&good);
    for step in 0..24 {
        let mut bad = good.clone();
        let at = used * step / 24 + step;
        bad[at] ^= 1 << (step % 8);
        fs::write(&path, &bad).expect("changed");
        let said = server
            .command(&["audit", "verify"])
            .expect_err(&format!("byte {at} of {used}"));
        assert!(!said.is_empty(), "it says what is wrong");
    }
    fs::write(&path, &good).expect("as it was");
    server
        .command(&["audit", "verify"])
        .expect("untouched again, it verifies");
}

#[tokio::test]
async fn a_cut_end_is_found() {
    let server = closed(10).await;
    let path = segment(&server);
    let mut bytes = fs::read(&path).expect("the journal");
    let end = used(&bytes);
    let from = end - end / 4;
    bytes[from - from % 512..].fill(0);
    fs::write(&path, &bytes).expect("cut");
    server
        .command(&["audit", "verify"])
        .expect_err("the last quarter is gone");
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(done.expect("cp runs").success());
}

/// A rollback to an earlier copy, with the checkpoints of that time, is consistent in itself: only
/// a later checkpoint that was kept elsewhere shows it.
#[tokio::test]
async fn a_rollback_is_found_with_a_checkpoint_that_was_kept() {
    let mut server = closed(5).await;
    let log = server.data().join("audit");
    let old = server.data().join("old");
    copy(&log, &old);
    server.restart().await;
    let client = server.agent("acme", "later").await.client().await;
    client.embed("null", &["a text"]).await.expect("served");
    assert_eq!(server.stop().await, Some(0));
    let kept = server.data().join("kept.txt");
    fs::copy(log.join("checkpoint"), &kept).expect("a signed checkpoint");
    let (kept, old) = (kept.to_str().expect("UTF-8"), old.to_str().expect("UTF-8"));

    let verify = |args: &[&str]| server.command(&[&["audit", "verify"], args].concat());
    verify(&["--checkpoint", kept]).expect("the log as it is has all that the checkpoint covers");
    verify(&["--dir", old]).expect("by itself the old copy is a good log");
    let said = verify(&["--dir", old, "--checkpoint", kept]).expect_err("it was rolled back");
    assert!(
        said.contains("rolled back") || said.contains("cut"),
        "{said}"
    );
}

#[tokio::test]
async fn a_live_log_verifies_and_its_records_can_be_read() {
    let server = Server::start(Options::null(0)).await;
    let client = server.agent("acme", "reader").await.client().await;
    let secret = bulkhead_search::canary().expect("random letters");
    client.embed("null", &[&secret]).await.expect("served");
    server
        .command(&["audit", "verify"])
        .expect("a live log verifies");
    let shown = server
        .command(&["audit", "show", "--tenant", "acme", "--json"])
        .expect("shown");
    assert!(
        shown.contains("admitted") && shown.contains("completed"),
        "{shown}"
    );
    assert!(!shown.contains(&secret), "prompts are not recorded");
    let own = server.command(&["audit", "show", "--tenant", "_system", "--json"]);
    let own = own.expect("shown");
    assert!(
        own.contains("server.start") && !own.contains("acme"),
        "{own}"
    );
    // Not even what is recorded lies there in the clear.
    let journal = fs::read(segment(&server)).expect("the journal");
    let clear = journal.windows(10).any(|w| w == b"input_byte");
    assert!(!clear, "bodies are encrypted");
}
