//! No room: what is kept, what is refused, and how it goes on.

use super::*;
use crate::entry::Entry;
use crate::journal::JournalError;
use crate::testing::{Home, SESSION, record};
use std::collections::HashSet;
use std::fs;

#[test]
fn a_full_log_keeps_what_it_has_and_goes_on_when_there_is_room() {
    let mut home = Home::new();
    home.options.bytes_max = Some(2 * home.options.segment_bytes - 1);
    let (mut log, _) = home.session(SESSION);
    let large = |number| Append {
        body: vec![b'x'; crate::record::BODY_BYTES_MAX].into(),
        ..record(number, "acme", Kind::Refused, "large")
    };
    log.append(large(1)).unwrap();
    log.commit().unwrap();
    log.append(large(2)).unwrap();
    let error = log.commit().unwrap_err();
    assert!(
        matches!(error, LogError::Journal(JournalError::Full(_))),
        "{error}"
    );
    assert!(error.temporary() && !error.needs_recovery());
    assert!(log.probe().is_err(), "still full");
    assert_eq!(log.replay.session.last_number, 1);
    drop(log);
    home.verify().unwrap();
    home.options.bytes_max = None;
    let (mut log, opened) = home.session(SESSION);
    assert_eq!(opened.last_number, 1);
    log.append(large(2)).unwrap();
    assert_eq!(
        log.commit().unwrap(),
        [Durable {
            number: 2,
            position: 1
        }]
    );
    log.close().unwrap();
    home.verify().unwrap();
}

#[test]
fn no_key_sees_a_sequence_number_twice_after_a_failed_write() {
    let mut home = Home::new();
    home.options.bytes_max = Some(4 * home.options.segment_bytes);
    let filler = home.options.dir.join("filler");
    let (mut log, _) = home.session(SESSION);
    let large = |number, byte| Append {
        body: vec![byte; crate::record::BODY_BYTES_MAX].into(),
        ..record(number, "acme", Kind::Refused, "large")
    };
    log.append(large(1, b'x')).unwrap();
    log.commit().unwrap();
    fs::write(&filler, vec![1; 3 * home.options.segment_bytes as usize]).unwrap();
    log.append(large(2, b'y')).unwrap();
    let lost = log
        .data_keys
        .get(&log.keys, &log.options.dir, &log.log_id, "acme")
        .unwrap()
        .0;
    assert!(log.commit().is_err());
    fs::remove_file(&filler).unwrap();
    log.append(large(2, b'z')).unwrap();
    log.commit().unwrap();
    log.close().unwrap();
    let mut used = HashSet::new();
    for whole in home.groups().concat() {
        if let Entry::Record(record) = Entry::parse(&whole).unwrap() {
            let crate::record::Header {
                tenant,
                sequence,
                key_id,
                ..
            } = record.header;
            assert!(used.insert((key_id, sequence)));
            assert!(
                tenant != "acme" || sequence < 3 || key_id != lost,
                "the number was given again"
            );
        }
    }
}
