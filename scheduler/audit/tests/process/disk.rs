//! A disk that is really full: a small tmpfs, in a mount namespace of the test's own.
//!
//! The test starts itself anew inside the namespace. Where the system grants no namespace it says so
//! and leaves the matter to the test of `--max-bytes`, which takes the same way through the code.

use super::support::{Home, Sender};
use std::env;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

const INSIDE: &str = "BULKHEAD_TEST_SMALL_DISK";
const NAME: &str = "disk::a_disk_that_is_full_stops_the_log_and_costs_nothing";

#[test]
fn a_disk_that_is_full_stops_the_log_and_costs_nothing() {
    if let Ok(disk) = env::var(INSIDE) {
        return inside(Path::new(&disk));
    }
    let folder = tempfile::tempdir().unwrap();
    let granted = Command::new("unshare").args(["-Urm", "true"]).status();
    if !granted.is_ok_and(|status| status.success()) {
        eprintln!("not run: no user and mount namespaces here");
        return;
    }
    let status = Command::new("unshare")
        .args(["-Urm", "sh", "-c"])
        .arg(format!(
            r#"mount -t tmpfs -o size=24m tmpfs "${INSIDE}" && exec "$0" --exact {NAME}"#
        ))
        .arg(env::current_exe().unwrap())
        .env(INSIDE, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}

fn inside(disk: &Path) {
    const TOTAL: u64 = 8;
    let keys = tempfile::tempdir().unwrap();
    let home = Home::at(&disk.join("log"), &keys.path().join("keys"));
    let session = b"session-of-16-by";
    let mut audit = home.start(&[]);
    let last = audit.hello(session).last_number;
    let filler = disk.join("filler");
    fill(&filler);
    // Full in earnest: the audit process itself has no room for its next segment or checkpoint.
    let mut sender = Sender::new(TOTAL, 1 << 20);
    sender.drive(&mut audit, last, || {
        let _ = fs::remove_file(&filler);
    });
    assert!(sender.refusals > 0, "the disk was full");
    let (status, said) = audit.hang_up();
    assert!(
        status.success() && said.contains("takes records again"),
        "{said}"
    );
    assert!(home.recorded(session).keys().copied().eq(1..=TOTAL));
    assert!(home.verify().closed);
}

/// Writes until the disk takes nothing more.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for bytes in [1 << 16, 512, 1] {
        while file.write_all(&vec![1; bytes]).is_ok() {}
    }
}
