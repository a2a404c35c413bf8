//! The worker's protocol, spoken with the real binary over a real socket pair, on the null model.

mod support;

use bulkhead_proto::internal::to_worker::Message as To;
use bulkhead_proto::internal::{
    Assign, Cancel, Finished, Outcome, Step, from_worker::Message as From,
};
use std::io::Write;
use std::time::Duration;
use support::{Worker, model_file, null_load};

fn finished(steps: &[Step]) -> Vec<&Finished> {
    steps.iter().flat_map(|step| &step.finished).collect()
}

fn assign() -> To {
    To::Assign(Assign {
        tenant: "acme".to_owned(),
        quota_bytes: 1 << 20,
        ..Assign::default()
    })
}

#[test]
fn a_life_from_load_to_release_with_evidence_for_each_job() {
    let (mut worker, ready) = Worker::assigned(null_load());
    for layer in [
        "no_new_privs",
        "non_dumpable",
        "closed_fds",
        "rlimits",
        "seccomp",
        "no_network",
    ] {
        assert!(
            ready.seal.iter().any(|name| name == layer),
            "{layer} in {:?}",
            ready.seal
        );
    }
    worker.generate(11, "first prompt", 3);
    worker.generate(12, "second prompt", 5);
    worker.grant(7);
    let (steps, released) = worker.until_released();
    assert!(steps.iter().all(|step| step.lease == 7 && step.step_ns > 0));
    let finished = finished(&steps);
    assert_eq!(finished.len(), 2);
    for one in finished {
        assert_eq!(one.outcome(), Outcome::Ok, "{one:?}");
        let scrub = one.scrub.as_ref().expect("evidence with each result");
        assert!(
            scrub.bytes_zeroed > 0 && scrub.bytes_verified == scrub.bytes_zeroed,
            "{scrub:?}"
        );
        assert_eq!(scrub.residue_bytes, 0);
    }
    assert!(released.dry && released.lease == 7);
    assert!(
        steps.last().is_some_and(|step| !step.finished.is_empty()) && released.scrub.is_none(),
        "what the last step cleaned is not cleaned again"
    );
}

/// The key is drawn under the seal, where no file can be opened for it.
#[test]
fn a_sealed_worker_can_draw_the_key_of_its_prefix_cache() {
    let mut worker = Worker::load(null_load(), &[]);
    assert!(matches!(worker.receive(), Some(From::Ready(_))));
    worker.send(To::Assign(Assign {
        tenant: "acme".to_owned(),
        step_limit_ns: 25_000_000,
        prefix_cache: true,
        ..Assign::default()
    }));
    worker.generate(1, "hello", 2);
    worker.grant(1);
    assert_eq!(finished(&worker.until_released().0).len(), 1);
}

#[test]
fn nothing_runs_without_a_lease() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.generate(1, "patience", 2);
    assert!(worker.is_silent_for(Duration::from_millis(300)));
    worker.grant(5);
    let (steps, _) = worker.until_released();
    assert!(
        steps.iter().all(|step| step.lease == 5),
        "every step names the lease that it ran under"
    );
    assert_eq!(finished(&steps).len(), 1);
}

#[test]
fn a_yield_takes_effect_between_two_steps_and_the_work_goes_on_under_the_next_lease() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.generate(1, "a long one", 200);
    worker.grant(1);
    assert!(matches!(worker.receive(), Some(From::Step(_))));
    worker.yield_(1);
    let (before, released) = worker.until_released();
    assert!(!released.dry && released.lease == 1 && finished(&before).is_empty());
    assert!(
        worker.is_silent_for(Duration::from_millis(200)),
        "no step after the release"
    );
    worker.yield_(1);
    worker.grant(2);
    let (after, released) = worker.until_released();
    assert!(released.dry && released.lease == 2);
    assert_eq!(finished(&after)[0].output_tokens, 200);
    assert!(after.len() > 1);
}

#[test]
fn a_lease_with_nothing_to_do_comes_back_at_once_and_dry() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.grant(3);
    let (steps, released) = worker.until_released();
    assert!(steps.is_empty() && released.dry && released.lease == 3);
}

#[test]
fn a_cancelled_request_ends_at_the_next_step_and_others_go_on() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.generate(1, "to be dropped", 1000);
    worker.generate(2, "to be kept", 20);
    worker.grant(1);
    assert!(matches!(worker.receive(), Some(From::Step(_))));
    worker.send(To::Cancel(Cancel { request: 1 }));
    worker.send(To::Cancel(Cancel { request: 99 }));
    let (steps, released) = worker.until_released();
    assert!(released.dry);
    let mut ends: Vec<_> = finished(&steps)
        .iter()
        .map(|one| (one.request, one.outcome()))
        .collect();
    ends.sort_unstable_by_key(|end| end.0);
    assert_eq!(ends, [(1, Outcome::Cancelled), (2, Outcome::Ok)]);
}

/// The worker's own counters say that it stopped computing, not only its stream.
#[test]
fn after_a_cancel_nothing_more_is_computed_for_it_and_no_memory_is_held() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.generate(1, "a very long one", 1_000_000);
    worker.grant(1);
    assert!(matches!(worker.receive(), Some(From::Step(_))));
    worker.send(To::Cancel(Cancel { request: 1 }));
    let (steps, released) = worker.until_released();
    assert!(released.dry);
    let last = steps.last().expect("it was answered");
    assert_eq!(finished(&steps)[0].outcome(), Outcome::Cancelled);
    let before = steps.iter().rev().nth(1).and_then(|step| step.counters);
    let at_end = last.counters.expect("every step counts");
    assert_eq!((at_end.sequences_cancelled, last.kv_bytes), (1, 0));
    if let Some(before) = before {
        assert_eq!(at_end.tokens_computed, before.tokens_computed);
    }
    worker.generate(2, "another", 3);
    worker.grant(2);
    let (steps, _) = worker.until_released();
    let now = steps.last().and_then(|step| step.counters);
    let now = now.expect("every step counts");
    // One for the null model's tokens of its answer each, and none for the one that is gone.
    assert_eq!(now.tokens_computed - at_end.tokens_computed, 3);
}

#[test]
fn the_end_of_the_connection_ends_the_worker() {
    let (mut worker, _) = Worker::assigned(null_load());
    worker.generate(1, "never to be finished", 1_000_000);
    worker.grant(1);
    assert!(matches!(worker.receive(), Some(From::Step(_))));
    worker.socket.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(worker.end().code(), Some(0));
}

#[test]
fn a_model_that_is_not_what_was_promised_is_refused() {
    let (entry, file) = model_file("weights", b"tampered with", &"0".repeat(64), 4);
    let load = bulkhead_proto::internal::Load {
        files: vec![entry],
        ..null_load()
    };
    let mut worker = Worker::load(load, &[file]);
    match worker.receive() {
        Some(From::Refused(refused)) => {
            assert!(refused.reason.contains("weights") && refused.reason.contains("SHA-256"));
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(worker.end().code(), Some(1));
}

#[test]
fn a_format_that_it_does_not_know_is_refused() {
    let load = bulkhead_proto::internal::Load {
        format: "abacus".to_owned(),
        ..null_load()
    };
    let mut worker = Worker::load(load, &[]);
    assert!(matches!(worker.receive(), Some(From::Refused(_))));
    assert_eq!(worker.end().code(), Some(1));
}

#[test]
fn a_required_layer_that_is_missing_is_named_and_nothing_is_served() {
    let required_layers = vec!["seccomp".to_owned(), "moat".to_owned()];
    let load = bulkhead_proto::internal::Load {
        required_layers,
        ..null_load()
    };
    let mut worker = Worker::load(load, &[]);
    match worker.receive() {
        Some(From::Refused(refused)) => {
            assert!(refused.reason.contains("moat") && !refused.reason.contains("seccomp"));
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(worker.end().code(), Some(1));
}

/// Under the seal a log file takes no byte more, and the scheduler hangs up on whoever refuses.
#[test]
fn a_refusal_ends_with_its_code_whatever_stderr_is_and_whoever_hangs_up_first() {
    let load = bulkhead_proto::internal::Load {
        required_layers: vec!["moat".to_owned()],
        ..null_load()
    };
    for round in 0..8 {
        let log = tempfile::tempfile().unwrap();
        let mut worker = Worker::spawn_speaking_to(log.into(), &[]);
        worker.send(To::Load(load.clone()));
        assert!(matches!(worker.receive(), Some(From::Refused(_))));
        worker.socket.shutdown(std::net::Shutdown::Both).unwrap();
        let status = worker.child.wait().unwrap();
        assert_eq!(status.code(), Some(1), "round {round}: {status}");
    }
}

/// What breaks the protocol.
type Break<'a> = &'a dyn Fn(&mut Worker);

#[test]
fn whoever_breaks_the_protocol_loses_the_worker() {
    let second_assignment = |worker: &mut Worker| worker.send(assign());
    let second_load = |worker: &mut Worker| worker.send(To::Load(null_load()));
    let second_lease = |worker: &mut Worker| {
        worker.generate(1, "busy", 100_000);
        worker.grant(1);
        worker.grant(2);
    };
    let oversize = |worker: &mut Worker| worker.socket.write_all(&u32::MAX.to_le_bytes()).unwrap();
    let garbage = |worker: &mut Worker| {
        worker
            .socket
            .write_all(&[3, 0, 0, 0, 0xFF, 0xFF, 0xFF])
            .unwrap();
    };
    let cases: [(&str, Break<'_>); 5] = [
        ("second assignment", &second_assignment),
        ("second load", &second_load),
        ("second lease", &second_lease),
        ("oversize", &oversize),
        ("garbage", &garbage),
    ];
    for (name, break_it) in cases {
        let (mut worker, _) = Worker::assigned(null_load());
        break_it(&mut worker);
        assert_eq!(worker.end().code(), Some(2), "{name}");
    }
}

/// The scheduler would have to be wrong. Fails where nobody asks a second time.
#[test]
fn a_worker_serves_no_tenant_outside_its_regions() {
    for (region, serves) in [("eu-west", true), ("us-east", false), ("", false)] {
        let mut worker = Worker::load(null_load(), &[]);
        assert!(matches!(worker.receive(), Some(From::Ready(_))));
        worker.send(To::Assign(Assign {
            tenant: "acme".to_owned(),
            quota_bytes: 1 << 20,
            region: region.to_owned(),
            residency: vec!["eu-central".to_owned(), "eu-west".to_owned()],
            ..Assign::default()
        }));
        if serves {
            worker.generate(1, "a prompt", 1);
            worker.grant(1);
            let (steps, _) = worker.until_released();
            assert!(!steps.is_empty());
        } else {
            assert!(worker.receive().is_none(), "{region:?}: it waits for work");
            assert_eq!(worker.end().code(), Some(2), "{region:?}");
        }
    }
}

#[test]
fn work_before_the_assignment_is_a_broken_protocol() {
    let mut worker = Worker::load(null_load(), &[]);
    assert!(matches!(worker.receive(), Some(From::Ready(_))));
    worker.generate(1, "too early", 1);
    assert_eq!(worker.end().code(), Some(2));
}

#[test]
fn a_first_frame_that_is_no_load_is_refused() {
    let mut worker = Worker::spawn(&[]);
    worker.send(assign());
    assert!(matches!(worker.receive(), Some(From::Refused(_))));
    assert_eq!(worker.end().code(), Some(1));
}
