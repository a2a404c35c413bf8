//! Tampering, by hands that know the format and have no key.

use super::*;
use crate::record::Kind;
use crate::testing::{Home, SESSION, append};
use std::fs;

/// Swaps, drops or changes entries of the journal, checksums correct, and verifies.
fn forged(change: impl FnOnce(&mut Vec<Vec<Vec<u8>>>)) -> Result<Report, VerifyError> {
    let home = Home::new().closed();
    let mut groups = home.groups();
    change(&mut groups);
    home.forge(&groups);
    home.verify()
}

const RECORD: u8 = 1;

fn is_record_group(group: &[Vec<u8>]) -> bool {
    group.len() == 2 && group.iter().all(|entry| entry[0] == RECORD)
}

/// The group of the third request: two records, covered by later checkpoints.
fn third(groups: &[Vec<Vec<u8>>]) -> usize {
    groups
        .iter()
        .enumerate()
        .filter(|(_, g)| is_record_group(g))
        .nth(2)
        .unwrap()
        .0
}

#[test]
fn an_honest_log_verifies_also_when_written_anew_unchanged() {
    let home = Home::new().closed();
    let report = home.verify().unwrap();
    assert!(report.closed);
    assert_eq!(
        (
            report.uncovered_records,
            report.open_requests,
            report.unfinished_bytes
        ),
        (0, 0, 0)
    );
    assert_eq!(
        (report.requests.admitted, report.requests.completed),
        (8, 8)
    );
    assert_eq!(
        report.tenants.iter().map(|t| t.records).sum::<u64>(),
        report.records
    );
    home.forge(&home.groups());
    assert_eq!(home.verify().unwrap(), report);
}

#[test]
fn every_flipped_byte_of_the_journal_is_detected() {
    let home = Home::new().closed();
    let whole = fs::read(home.segment(1)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    // Every eleventh byte that is used, with every bit in turn, and some of the zeros behind.
    let beyond = [used, used + 511, used + 512, whole.len() - 1];
    for (turn, at) in (0..used).step_by(11).chain(beyond).enumerate() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1 << (turn % 8);
        fs::write(home.segment(1), bytes).unwrap();
        assert!(home.verify().is_err(), "byte {at}");
    }
    fs::write(home.segment(1), whole).unwrap();
    home.verify().unwrap();
}

#[test]
fn every_flipped_byte_of_a_record_is_detected_when_checksums_are_forged() {
    let home = Home::new().closed();
    let groups = home.groups();
    let at = third(&groups);
    for byte in 0..groups[at][0].len() {
        let mut groups = groups.clone();
        groups[at][0][byte] ^= 0x10;
        home.forge(&groups);
        let error = home.verify().unwrap_err();
        assert!(
            matches!(error, VerifyError::Altered { .. }),
            "byte {byte}: {error}"
        );
    }
}

#[test]
fn a_deleted_record_is_detected() {
    for place in 0..2 {
        let error = forged(|groups| {
            let at = third(groups);
            groups[at].remove(place);
        });
        assert!(matches!(error, Err(VerifyError::Altered { .. })));
    }
    // A whole group, with the checkpoint after it.
    let error = forged(|groups| {
        let at = third(groups);
        groups.drain(at..at + 2);
    });
    assert!(matches!(
        error,
        Err(VerifyError::Altered {
            violation: Violation::Sequence { .. },
            ..
        })
    ));
}

#[test]
fn swapped_records_are_detected_within_and_across_tenants() {
    let within = forged(|groups| {
        let at = third(groups);
        groups[at].swap(0, 1);
    });
    assert!(matches!(within, Err(VerifyError::Altered { .. })));
    let across = forged(|groups| {
        let (at, first) = (
            third(groups),
            groups.iter().position(|g| is_record_group(g)).unwrap(),
        );
        groups.swap(first, at);
    });
    assert!(matches!(across, Err(VerifyError::Altered { .. })));
}

#[test]
fn a_forger_who_fits_the_checkpoints_inside_is_caught_by_the_signed_one() {
    // The inner checkpoint is adapted to the changed record: its root is right, its signature is not.
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "r");
    log.close().unwrap();
    let mut groups = home.groups();
    let at = groups
        .iter()
        .position(|g| g.len() == 1 && g[0][0] == RECORD && contains(&g[0], b"acme"))
        .unwrap();
    *groups[at][0].last_mut().unwrap() ^= 1;
    let mut tree = crate::tree::Frontier::default();
    tree.push(crate::tree::leaf_hash(
        &groups[at][0][entry::ENTRY_HEADER_BYTES..],
    ));
    for whole in groups
        .iter_mut()
        .flatten()
        .filter(|e| e[0] == 2 && contains(e, b"acme"))
    {
        let length = whole.len();
        whole[length - 32..].copy_from_slice(&tree.root());
    }
    home.forge(&groups);
    let error = home.verify().unwrap_err();
    assert!(matches!(error, VerifyError::Inconsistent { .. }), "{error}");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_log_cut_behind_its_own_checkpoint_is_detected() {
    let home = Home::new().closed();
    let groups = home.groups();
    for keep in 1..groups.len() {
        home.forge(&groups[..keep]);
        let error = home.verify().unwrap_err();
        assert!(
            matches!(
                error,
                VerifyError::Truncated { .. } | VerifyError::NotClosed { .. }
            ),
            "{error}"
        );
        assert!(
            crate::log::Log::open(home.options.clone()).is_err(),
            "the log refuses to go on"
        );
    }
}

#[test]
fn truncation_and_rollback_show_to_whoever_kept_a_checkpoint() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "a");
    log.commit().unwrap();
    log.checkpoint().unwrap();
    let keep = |name: &str| fs::read_to_string(home.options.dir.join(name)).unwrap();
    let (old_journal, old_global) = (fs::read(home.segment(1)).unwrap(), home.checkpoint());
    let (old_acme, old_system) = (keep("checkpoints/acme"), keep("checkpoints/_system"));
    append(&mut log, 2, "acme", Kind::Refused, "b");
    log.commit().unwrap();
    log.checkpoint().unwrap();
    let (kept_global, kept_acme) = (home.checkpoint(), keep("checkpoints/acme"));
    for kept in [&old_global, &old_acme, &kept_global, &kept_acme] {
        home.verify_against(kept).unwrap();
    }
    // Everything in the log's folder goes back to the earlier state: consistent in itself.
    fs::write(home.segment(1), old_journal).unwrap();
    for (name, text) in [
        ("checkpoint", &old_global),
        ("checkpoints/acme", &old_acme),
        ("checkpoints/_system", &old_system),
    ] {
        fs::write(home.options.dir.join(name), text).unwrap();
    }
    home.verify().unwrap();
    for kept in [&kept_global, &kept_acme] {
        assert!(matches!(
            home.verify_against(kept),
            Err(VerifyError::Truncated { .. })
        ));
    }
}

#[test]
fn a_rewritten_log_signed_by_the_same_key_shows_against_an_earlier_checkpoint() {
    // Whoever steals the signing key can make a new history, not one that contains the old.
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "honest");
    log.close().unwrap();
    drop(log);
    let kept = home.checkpoint();
    fs::remove_dir_all(home.options.dir.join("checkpoints")).unwrap();
    fs::remove_file(home.options.dir.join("checkpoint")).unwrap();
    let groups = home.groups();
    home.forge(&groups[..1]);
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "forged");
    log.close().unwrap();
    home.verify().unwrap();
    let error = home.verify_against(&kept).unwrap_err();
    assert!(matches!(error, VerifyError::Inconsistent { .. }), "{error}");
}

#[test]
fn another_key_another_log_and_missing_checkpoints_are_refused() {
    let (home, other) = (Home::new().closed(), Home::new().closed());
    let verify = |key: &VerifierKey| verify(&home.options.dir, key, &[]);
    assert!(matches!(
        verify(&other.key()),
        Err(VerifyError::Checkpoint { .. })
    ));
    let impostor = other.key().renamed(home.key().name().to_owned());
    assert!(matches!(
        verify(&impostor),
        Err(VerifyError::Checkpoint { .. })
    ));
    assert!(matches!(
        home.verify_against(&other.checkpoint()),
        Err(VerifyError::Checkpoint { .. })
    ));
    fs::remove_file(home.options.dir.join("checkpoints/acme")).unwrap();
    assert!(matches!(home.verify(), Err(VerifyError::NotClosed { .. })));
    fs::remove_file(home.options.dir.join("checkpoint")).unwrap();
    assert!(matches!(home.verify(), Err(VerifyError::NoCheckpoint(_))));
}

#[test]
fn requests_that_do_not_add_up_are_reported() {
    for kinds in [
        vec![Kind::Completed],
        vec![Kind::Admitted, Kind::Admitted],
        vec![Kind::Admitted, Kind::Completed, Kind::Completed],
    ] {
        let home = Home::new();
        let (mut log, _) = home.session(SESSION);
        for (at, kind) in kinds.into_iter().enumerate() {
            append(&mut log, at as u64 + 1, "acme", kind, "same");
        }
        log.close().unwrap();
        assert!(matches!(
            home.verify(),
            Err(VerifyError::Unmatched { count: 1, .. })
        ));
    }
}

/// Whoever is killed between its last checkpoint and its end has interrupted a log, not altered it.
#[test]
fn a_log_is_not_closed_before_its_last_checkpoint_is_published() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "r");
    log.checkpoint().unwrap();
    let global = home.options.dir.join("checkpoint");
    let kept = fs::read(&global).unwrap();
    // No file can take the place of a folder that holds something.
    fs::remove_file(&global).unwrap();
    fs::create_dir_all(global.join("in the way")).unwrap();
    log.close().unwrap_err();
    fs::remove_dir_all(&global).unwrap();
    fs::write(&global, kept).unwrap();
    assert!(!home.verify().unwrap().closed);

    log.close().unwrap();
    let report = home.verify().unwrap();
    assert_eq!((report.closed, report.uncovered_records), (true, 0));
    // The start, the session, the record, one end.
    assert_eq!(report.records, 4);
}

#[test]
fn a_log_that_is_closed_while_it_is_verified_verifies() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Refused, "r");
    log.checkpoint().unwrap();
    let (dir, key) = (&home.options.dir, home.key());
    let early = Notes::load(dir, &key, &[]).unwrap();
    log.close().unwrap();
    let error = look(dir, &key, early, &[]).unwrap_err();
    assert!(matches!(error, VerifyError::NotClosed { .. }), "{error}");
    assert!(verify(dir, &key, &[]).unwrap().closed);
}

#[test]
fn a_live_log_verifies_and_says_what_is_not_covered_yet() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Admitted, "r");
    log.commit().unwrap();
    let report = home.verify().unwrap();
    // The session's record and this one came after the checkpoint at the start.
    assert_eq!(
        (
            report.closed,
            report.uncovered_records,
            report.open_requests
        ),
        (false, 2, 1)
    );
    log.checkpoint().unwrap();
    assert_eq!(home.verify().unwrap().uncovered_records, 0);
}
