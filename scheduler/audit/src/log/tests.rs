//! Recovery, resending, sessions, secrecy, bounds.

use super::*;
use crate::journal::SECTOR;
use crate::read::{Body, Filter, records};
use crate::testing::{Home, SESSION, append, durable, record};
use std::fs;

fn bodies(home: &Home, filter: Filter) -> Vec<Option<String>> {
    records(&home.options.dir, &home.options.keys_dir, filter)
        .unwrap()
        .map(|record| match record.unwrap().body {
            Body::Plain(plain) => Some(String::from_utf8(plain.to_vec()).unwrap()),
            Body::Erased => None,
        })
        .collect()
}

fn of(tenant: &str) -> Filter {
    Filter {
        tenant: Some(tenant.into()),
        ..Filter::default()
    }
}

#[test]
fn what_was_written_is_read_back_and_verifies() {
    let home = Home::new().closed();
    let globex = bodies(&home, of("globex"));
    assert_eq!(globex.len(), 6);
    assert_eq!(
        globex[0].as_deref(),
        Some(r#"{"prompt":"the secret of req-0"}"#)
    );
    let one = Filter {
        request_id: Some("req-1".into()),
        kinds: vec![Kind::Completed],
        ..of("acme")
    };
    assert_eq!(bodies(&home, one).len(), 1);
}

#[test]
fn a_tail_cut_at_any_byte_loses_that_group_and_nothing_before_it() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    durable(&mut log, 1, "acme", Kind::Refused, "kept").unwrap();
    let kept = log.replay.records;
    let before = fs::read(home.segment(1)).unwrap();
    for number in 2..6 {
        append(&mut log, number, "acme", Kind::Refused, "torn");
    }
    log.commit().unwrap();
    drop(log);
    let after = fs::read(home.segment(1)).unwrap();
    let differs = |at: &usize| before[*at] != after[*at];
    let start = (0..after.len()).find(differs).unwrap();
    let end = (0..after.len()).rev().find(differs).unwrap() + 1;
    for cut in start..end {
        let torn = [&after[..cut], &before[cut..]].concat();
        fs::write(home.segment(1), torn).unwrap();
        let log = Log::open(home.options.clone()).unwrap();
        assert_eq!(log.replay.records, kept, "cut at {cut}");
        assert_eq!(log.torn_bytes > 0, cut > start);
        assert_eq!(
            fs::read(home.segment(1)).unwrap(),
            before,
            "the rest is gone"
        );
    }
    // And sectors that arrived in another order: the first missing, the others there.
    let sector = start + SECTOR;
    fs::write(
        home.segment(1),
        [&before[..sector], &after[sector..]].concat(),
    )
    .unwrap();
    let (log, opened) = home.session(SESSION);
    assert_eq!((opened.last_number, log.torn_bytes > 0), (1, true));
    drop(log);
    home.verify().unwrap();
    let start = bodies(&home, of("")).into_iter().flatten().last().unwrap();
    assert!(
        start.contains("torn_bytes") && !start.contains(r#""torn_bytes":0"#),
        "{start}"
    );
}

#[test]
fn damage_before_the_last_group_is_never_repaired_away() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    for number in 1..4 {
        durable(&mut log, number, "acme", Kind::Refused, "r").unwrap();
    }
    drop(log);
    let whole = fs::read(home.segment(1)).unwrap();
    let used = whole.iter().rposition(|byte| *byte != 0).unwrap();
    let last_group = used / SECTOR * SECTOR - SECTOR;
    for at in (0..last_group).step_by(97) {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        fs::write(home.segment(1), &bytes).unwrap();
        let error = Log::open(home.options.clone()).err().unwrap();
        assert!(!error.temporary(), "byte {at}: {error}");
        assert_eq!(
            fs::read(home.segment(1)).unwrap(),
            bytes,
            "left as evidence"
        );
    }
}

#[test]
fn sending_again_answers_with_the_place_and_writes_nothing() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    append(&mut log, 1, "acme", Kind::Admitted, "a");
    append(&mut log, 1, "acme", Kind::Admitted, "a");
    append(&mut log, 2, "globex", Kind::Admitted, "b");
    append(&mut log, 3, "acme", Kind::Completed, "a");
    let first = log.commit().unwrap();
    assert_eq!(
        first
            .iter()
            .map(|d| (d.number, d.position))
            .collect::<Vec<_>>(),
        [(1, 0), (2, 0), (3, 1)]
    );
    drop(log);
    // The log crashed; the scheduler lives on with its session.
    let (mut log, opened) = home.session(SESSION);
    assert_eq!(
        opened,
        Opened {
            last_number: 3,
            abandoned: 0
        }
    );
    let size = log.replay.records;
    for (at, durable) in first.into_iter().enumerate() {
        let again = log
            .append(record(at as u64 + 1, "acme", Kind::Admitted, "a"))
            .unwrap();
        assert_eq!(again, Appended::Already(durable));
    }
    assert!(log.commit().unwrap().is_empty());
    assert_eq!(log.replay.records, size);
    assert_eq!(
        log.append(record(5, "acme", Kind::Admitted, "x")).unwrap(),
        Appended::Ahead
    );
    append(&mut log, 4, "acme", Kind::Admitted, "x");
}

#[test]
fn a_new_session_closes_what_older_ones_left_open_exactly_once() {
    let home = Home::new();
    let (mut log, _) = home.session(b"session-A");
    append(&mut log, 1, "acme", Kind::Admitted, "open");
    append(&mut log, 2, "acme", Kind::Admitted, "ended");
    append(&mut log, 3, "acme", Kind::Completed, "ended");
    log.commit().unwrap();
    drop(log);
    // A crash of the log alone abandons nothing.
    let (log, opened) = home.session(b"session-A");
    assert_eq!(
        opened,
        Opened {
            last_number: 3,
            abandoned: 0
        }
    );
    drop(log);
    let (mut log, opened) = home.session(b"session-B");
    assert_eq!(
        opened,
        Opened {
            last_number: 0,
            abandoned: 1
        }
    );
    append(&mut log, 1, "globex", Kind::Admitted, "open");
    log.commit().unwrap();
    drop(log);
    // B's log crashes too, then B itself: what A left is not closed again.
    let (log, opened) = home.session(b"session-B");
    assert_eq!(
        opened,
        Opened {
            last_number: 1,
            abandoned: 0
        }
    );
    drop(log);
    let (mut log, opened) = home.session(b"session-C");
    assert_eq!(
        opened,
        Opened {
            last_number: 0,
            abandoned: 1
        }
    );
    assert!(matches!(
        log.hello(b"session-A"),
        Err(LogError::Protocol(_))
    ));
    log.close().unwrap();
    let report = home.verify().unwrap();
    assert_eq!((report.requests.abandoned, report.open_requests), (2, 0));
}

#[test]
fn no_plaintext_reaches_the_folder_and_no_secret_leaves_the_keys() {
    let home = Home::new().closed();
    let wrapping = fs::read(home.options.keys_dir.join("wrapping.key")).unwrap();
    let signing = fs::read(home.options.keys_dir.join("signing.key")).unwrap();
    let mut files = 0;
    let mut folders = vec![home.options.dir.clone()];
    while let Some(folder) = folders.pop() {
        for item in fs::read_dir(folder).unwrap() {
            let path = item.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let content = fs::read(&path).unwrap();
            for secret in [b"the secret of".as_slice(), b"prompt", &wrapping, &signing] {
                assert!(
                    !content.windows(secret.len()).any(|w| w == secret),
                    "{}",
                    path.display()
                );
            }
            files += 1;
        }
    }
    assert!(
        files >= 8,
        "journal, keys, checkpoints and public key are there"
    );
}

#[test]
fn erasing_a_tenants_keys_erases_its_content_and_no_proof() {
    let home = Home::new().closed();
    let before = home.verify().unwrap();
    fs::remove_file(sealing::key_file(&home.options.dir, "acme")).unwrap();
    assert!(bodies(&home, of("acme")).iter().all(Option::is_none));
    assert!(bodies(&home, of("globex")).iter().all(Option::is_some));
    assert_eq!(home.verify().unwrap(), before);
}

#[test]
fn an_erased_tenant_of_a_running_log_gets_a_new_key_at_once() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    durable(&mut log, 1, "acme", Kind::Refused, "before").unwrap();
    fs::remove_file(sealing::key_file(&home.options.dir, "acme")).unwrap();
    durable(&mut log, 2, "acme", Kind::Refused, "after").unwrap();
    let bodies = bodies(&home, of("acme"));
    assert!(
        bodies[0].is_none()
            && bodies[1]
                .as_ref()
                .is_some_and(|body| body.contains("after"))
    );
}

#[test]
fn segments_follow_each_other_and_a_missing_one_shows() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    let body = vec![b'x'; crate::record::BODY_BYTES_MAX];
    for number in 1..8 {
        let body = body.clone().into();
        log.append(Append {
            body,
            ..record(number, "acme", Kind::Refused, "large")
        })
        .unwrap();
    }
    assert_eq!(log.commit().unwrap().len(), 7);
    drop(log);
    let (mut log, opened) = home.session(SESSION);
    assert_eq!(opened.last_number, 7);
    log.close().unwrap();
    assert!(home.verify().unwrap().segments >= 7);
    fs::remove_file(home.segment(3)).unwrap();
    assert!(matches!(
        home.verify(),
        Err(crate::verify::VerifyError::Journal(_))
    ));
}

#[test]
fn a_second_writer_foreign_keys_and_exposed_folders_are_refused() {
    let home = Home::new();
    let log = home.open();
    assert!(matches!(
        Log::open(home.options.clone()),
        Err(LogError::Locked(_))
    ));
    drop(log);
    let other = Home::new();
    let keys_dir = other.options.keys_dir.clone();
    let foreign = Options {
        keys_dir,
        ..home.options.clone()
    };
    assert!(matches!(
        Log::open(foreign),
        Err(LogError::Checkpoint { .. })
    ));
    let inside = Options {
        keys_dir: home.options.dir.join("keys"),
        ..home.options.clone()
    };
    assert!(matches!(Log::open(inside), Err(LogError::Options(_))));
    home.open();
}

#[test]
fn what_no_scheduler_may_send_is_refused() {
    let home = Home::new();
    let (mut log, _) = home.session(SESSION);
    let good = || record(1, "acme", Kind::Refused, "r");
    let long = "x".repeat(256);
    let bad = [
        Append {
            number: 0,
            ..good()
        },
        Append {
            tenant: "../../etc".into(),
            ..good()
        },
        Append {
            tenant: "_system".into(),
            ..good()
        },
        Append {
            request_id: long,
            ..good()
        },
        Append {
            request_id: String::new(),
            kind: Kind::Admitted,
            ..good()
        },
        Append {
            body: vec![0; crate::record::BODY_BYTES_MAX + 1].into(),
            ..good()
        },
    ];
    for append in bad {
        assert!(matches!(log.append(append), Err(LogError::Protocol(_))));
    }
    log.append(good()).unwrap();
    assert!(matches!(log.hello(b"short"), Err(LogError::Protocol(_))));
}
