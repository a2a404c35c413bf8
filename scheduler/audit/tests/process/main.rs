//! The real process: starts, ends, crashes, and what the scheduler sees of them.

mod disk;
mod support;

use bulkhead_proto::internal::{AppendBatch, from_audit::Message, to_audit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::Write as _;
use std::process::Command;
use std::thread;
use std::time::Instant;
use support::{Audit, BINARY, Home, Sender, record};

const SESSION: &[u8] = b"session-of-16-by";

fn pid(audit: &Audit) -> Pid {
    Pid::from_raw(audit.child.id().try_into().unwrap())
}

#[test]
fn the_end_of_the_connection_is_an_orderly_end() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    assert_eq!(audit.hello(SESSION).last_number, 0);
    // Not waiting for the answer: what came before the end counts.
    audit.append(
        (1..=6)
            .map(|number| record(number, b"{}".to_vec()))
            .collect(),
    );
    let (status, said) = audit.hang_up();
    assert!(status.success(), "{said}");
    let report = home.verify();
    assert!(report.closed);
    assert_eq!(
        (
            report.requests.admitted,
            report.requests.completed,
            report.open_requests
        ),
        (3, 3, 0)
    );
    assert_eq!(home.recorded(SESSION).len(), 6);
}

#[test]
fn a_seal_is_answered_and_nothing_may_follow_it() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    audit.append(vec![record(1, b"{}".to_vec()), record(2, b"{}".to_vec())]);
    audit.seal();
    assert!(matches!(audit.hear(), Some(Message::Durable(batch)) if batch.durable.len() == 2));
    assert!(matches!(audit.hear(), Some(Message::Sealed(_))));
    assert!(home.verify().closed);
    audit.append(vec![record(3, b"{}".to_vec())]);
    let (status, said) = audit.hang_up();
    assert!(
        !status.success() && said.contains("after the seal"),
        "{said}"
    );
    assert!(home.verify().closed);
}

#[test]
fn killed_under_load_again_and_again_it_loses_nothing_that_it_acknowledged() {
    const TOTAL: u64 = 4_000;
    const KILLS: u64 = 5;
    let home = Home::new();
    let mut sender = Sender::new(TOTAL, 100);
    for round in 1..=KILLS {
        let mut audit = home.start(&[]);
        let open = audit.hello(SESSION);
        assert_eq!(open.abandoned, 0, "the session lives");
        sender.check_last(open.last_number);
        let target = pid(&audit);
        let mut out = Audit {
            socket: audit.socket.try_clone().unwrap(),
            child: audit.child,
        };
        let waiting = sender.waiting();
        let load = thread::spawn(move || {
            for number in waiting {
                let appends = vec![record(number, vec![b'x'; 100])];
                if out
                    .try_say(to_audit::Message::Append(AppendBatch { appends }))
                    .is_err()
                {
                    break;
                }
            }
            out
        });
        // Killed with more on its way in both directions.
        while (sender.acknowledged.len() as u64) < TOTAL * round / (KILLS + 1) {
            sender.hear_durable(&mut audit.socket).expect("alive");
        }
        kill(target, Signal::SIGKILL).unwrap();
        while sender.hear_durable(&mut audit.socket).is_some() {}
        let mut out = load.join().unwrap();
        assert!(!out.child.wait().unwrap().success());
    }
    let mut audit = home.start(&[]);
    sender.check_last(audit.hello(SESSION).last_number);
    // Recorded ones whose answer was lost are among those sent again.
    for number in sender.waiting() {
        audit.append(vec![record(number, vec![b'x'; 100])]);
    }
    while !sender.waiting().is_empty() {
        sender.hear_durable(&mut audit.socket).expect("alive");
    }
    assert!(audit.hang_up().0.success());
    let recorded = home.recorded(SESSION);
    assert!(
        recorded.keys().copied().eq(1..=TOTAL),
        "each once, in order"
    );
    for (number, position) in &sender.acknowledged {
        assert_eq!(recorded[number].leaf, *position);
    }
    let report = home.verify();
    assert_eq!(
        (report.requests.admitted, report.open_requests),
        (TOTAL / 2, 0)
    );
}

#[test]
fn a_dead_schedulers_requests_are_abandoned_once() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    audit.append(vec![
        record(1, b"{}".to_vec()),
        record(2, b"{}".to_vec()),
        record(3, b"{}".to_vec()),
    ]);
    assert!(audit.hang_up().0.success());
    assert_eq!(home.verify().open_requests, 1);
    for (session, abandoned) in [(b"second-scheduler", 1), (b"third--scheduler", 0)] {
        let mut audit = home.start(&[]);
        let open = audit.hello(session);
        assert_eq!((open.last_number, open.abandoned), (0, abandoned));
        assert!(audit.hang_up().0.success());
    }
    let report = home.verify();
    assert_eq!((report.open_requests, report.requests.abandoned), (0, 1));
}

#[test]
fn a_full_log_refuses_and_goes_on_by_itself_when_there_is_room() {
    let home = Home::new();
    fs::create_dir(&home.log).unwrap();
    let filler = home.log.join("filler");
    fs::write(&filler, vec![1; 8 << 20]).unwrap();
    let mut audit = home.start(&["--max-bytes", &(12 << 20).to_string()]);
    let mut sender = Sender::new(4, 1 << 20);
    let last = audit.hello(SESSION).last_number;
    sender.drive(&mut audit, last, || {
        let _ = fs::remove_file(&filler);
    });
    assert!(sender.refusals > 0, "it was full");
    assert!(audit.hang_up().0.success());
    assert!(home.recorded(SESSION).keys().copied().eq(1..=4));
    assert!(home.verify().closed);
}

#[test]
fn a_log_that_is_full_at_its_start_says_so_and_opens_later() {
    let home = Home::new();
    fs::create_dir(&home.log).unwrap();
    let filler = home.log.join("filler");
    fs::write(&filler, vec![1; 4 << 20]).unwrap();
    let mut audit = home.start(&["--max-bytes", &(5 << 20).to_string()]);
    audit.say(to_audit::Message::Hello(bulkhead_proto::internal::Hello {
        session: SESSION.to_vec(),
    }));
    assert!(matches!(audit.hear(), Some(Message::Unavailable(_))));
    fs::remove_file(&filler).unwrap();
    while !matches!(audit.hear().unwrap(), Message::Open(open) if open.last_number == 0) {}
    assert!(audit.hang_up().0.success());
    assert!(home.verify().closed);
}

#[test]
fn termination_waits_for_the_scheduler_but_not_for_ever() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    kill(pid(&audit), Signal::SIGINT).unwrap();
    kill(pid(&audit), Signal::SIGTERM).unwrap();
    // It still takes what the scheduler has to say.
    audit.append(vec![record(1, b"{}".to_vec()), record(2, b"{}".to_vec())]);
    assert!(matches!(audit.hear(), Some(Message::Durable(_))));
    let since = Instant::now();
    let (status, said) = audit.wait();
    assert!(status.success(), "{said}");
    assert!(since.elapsed().as_secs() >= 3, "the scheduler had its time");
    assert!(home.verify().closed);
}

#[test]
fn it_gives_up_privileges_and_core_dumps() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    let proc =
        |file: &str| fs::read_to_string(format!("/proc/{}/{file}", audit.child.id())).unwrap();
    assert!(proc("status").contains("NoNewPrivs:\t1"));
    let limits = proc("limits");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"));
    assert!(audit.hang_up().0.success());
}

#[test]
fn a_second_process_and_a_broken_protocol_end_with_a_reason() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    let (status, said) = home.start(&[]).wait();
    assert!(
        !status.success() && said.contains("in use by another"),
        "{said}"
    );
    audit.append(vec![record(2, b"{}".to_vec())]);
    let (status, said) = audit.wait();
    assert!(
        !status.success() && said.contains("one before it is missing"),
        "{said}"
    );

    let mut audit = home.start(&[]);
    audit.append(vec![record(1, b"{}".to_vec())]);
    let (status, said) = audit.wait();
    assert!(
        !status.success() && said.contains("hello has to come first"),
        "{said}"
    );

    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    audit.append(vec![record(1, b"{}".to_vec())]);
    audit.socket.write_all(&[255; 8]).unwrap();
    let (status, said) = audit.wait();
    assert!(
        !status.success() && said.contains("over the limit"),
        "{said}"
    );
    assert!(
        home.verify().closed,
        "what came before was kept, and the log closed"
    );
    assert_eq!(home.recorded(SESSION).len(), 1);
}

#[test]
fn an_outsider_verifies_with_the_binary_and_the_public_key() {
    let home = Home::new();
    let mut audit = home.start(&[]);
    audit.hello(SESSION);
    audit.append(vec![record(1, b"{}".to_vec()), record(2, b"{}".to_vec())]);
    assert!(audit.hang_up().0.success());
    let kept = home.log.join("../kept");
    fs::copy(home.log.join("checkpoint"), &kept).unwrap();
    let verify = |key: &str| {
        let mut command = Command::new(BINARY);
        command
            .arg("verify")
            .arg("--dir")
            .arg(&home.log)
            .arg("--key")
            .arg(key);
        command
            .arg("--checkpoint")
            .arg(&kept)
            .arg("--json")
            .output()
            .unwrap()
    };
    let key = home.key().to_string();
    let output = verify(&key);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&report["closed"], &report["requests"]["admitted"]),
        (&true.into(), &1.into())
    );
    let segment = home.log.join("journal/0000000001.seg");
    let mut bytes = fs::read(&segment).unwrap();
    bytes[700] ^= 1;
    fs::write(&segment, bytes).unwrap();
    let output = verify(&key);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("segment 1 offset 512"),
        "{said}"
    );
    assert!(!verify("nonsense").status.success());
}
