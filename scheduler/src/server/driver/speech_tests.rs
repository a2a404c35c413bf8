//! What a worker may not say or do, and what nobody hears of it then.

use super::super::Update;
use super::super::case::{Case, PROMPT, end_of, given};
use bulkhead_core::{End, WorkerId};
use bulkhead_proto::SILENT_STEPS_MAX;
use bulkhead_proto::internal::{
    Finished, Outcome, Piece, Released, ScrubReport, Step, from_worker, to_launcher,
};
use tokio::sync::mpsc::UnboundedReceiver;

fn killed(case: &mut Case, worker: WorkerId) -> bool {
    let of_it = |one: &to_launcher::Message| matches!(one, to_launcher::Message::Kill(kill) if kill.worker == worker.0);
    case.asked().iter().any(of_it)
}

fn said(request: u64) -> (Piece, Finished) {
    let piece = Piece {
        request,
        text: "so far".into(),
        output_tokens: 1,
        ..Piece::default()
    };
    let finished = Finished {
        request,
        outcome: Outcome::Ok.into(),
        ..Finished::default()
    };
    (piece, finished)
}

/// Neither text nor an end that a worker said.
fn nothing_came(told: [&mut UnboundedReceiver<Update>; 2]) {
    for told in told {
        let heard: Vec<_> = std::iter::from_fn(|| told.try_recv().ok()).collect();
        let none = !heard.iter().any(|one| match one {
            Update::Piece(_) => true,
            Update::Ended(ended) => ended.end == End::Worker(bulkhead_core::Outcome::Ok),
            _ => false,
        });
        assert!(none, "{heard:?}");
    }
}

/// In any part of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_of_a_frame_counts_whose_memory_was_not_clean() {
    let dirty = Some(ScrubReport {
        residue_bytes: 1,
        ..ScrubReport::default()
    });
    for in_release in [false, true] {
        let mut case = Case::new();
        let mut told = case.submit(1);
        let mut other = case.submit(2);
        let (worker, _, mut socket) = case.start();
        let (prompts, lease) = given(&mut socket);
        assert_eq!(prompts.len(), 2);
        let ((piece, first), (_, mut second)) = (said(1), said(2));
        let mut released = Released {
            lease,
            dry: true,
            scrub: None,
        };
        match in_release {
            true => released.scrub = dirty,
            false => second.scrub = dirty,
        }
        let step = Step {
            lease,
            pieces: vec![piece],
            finished: vec![first, second],
            released: Some(released),
            ..Step::default()
        };
        case.says(worker, from_worker::Message::Step(step));
        assert!(killed(&mut case, worker));
        nothing_came([&mut told, &mut other]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_number_that_it_was_not_given_names_nothing() {
    // Another request's number in the scheduler is none of a worker's.
    for number in [0, 2, 77] {
        let mut case = Case::new();
        let mut told = case.submit(77);
        let (worker, _, mut socket) = case.start();
        let (_, lease) = given(&mut socket);
        assert_eq!(lease, 1, "its own first");
        case.steps(worker, lease, None, Some(number));
        assert!(killed(&mut case, worker), "{number}");
        assert!(end_of(&mut told).is_none_or(|ended| ended.end == End::WorkerLost));
    }
}

/// It answers for requests that it has not read, and would have ever more waiting for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn one_that_does_not_read_fills_no_memory() {
    const MIB: usize = 1 << 20;
    let mut case = Case::new();
    let _first = case.submit(1);
    let (worker, _, mut socket) = case.start();
    let (prompts, lease) = given(&mut socket);
    assert_eq!(prompts, [PROMPT]);
    let prompt = "x".repeat(MIB);
    let mut told = Vec::new();
    let ended = (1..200).find(|nth| {
        told.push(case.submit_prompt(nth + 1, &prompt));
        case.steps(worker, lease, None, Some(*nth));
        killed(&mut case, worker)
    });
    let mib = ended.expect("it is ended");
    assert!((30..40).contains(&mib), "after {mib} MiB");
}

/// Fails where what is said of an answer is counted for as long as somebody waits for it: each piece takes a part of
/// everybody's time.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_more_is_heard_of_an_answer_that_nobody_waits_for() {
    let mut case = Case::new();
    let _told = case.submit(1);
    let (worker, _, mut socket) = case.start();
    let (_, lease) = given(&mut socket);
    case.hang_up(1);
    for tokens in 1..=10 {
        case.tokens(worker, lease, tokens);
        assert!(!killed(&mut case, worker), "as many as its tokens");
    }
    // There may be one more than tokens.
    case.tokens(worker, lease, 10);
    assert!(!killed(&mut case, worker));
    case.tokens(worker, lease, 10);
    assert!(killed(&mut case, worker));
}

fn pieces(lease: u64, pieces: Vec<Piece>) -> from_worker::Message {
    from_worker::Message::Step(Step {
        lease,
        tokens: 1,
        pieces,
        ..Step::default()
    })
}

/// Each takes a part of everybody's time. Fails where there may be as many in one frame as an answer may have tokens.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_step_has_no_more_pieces_than_an_honest_one_has() {
    for (count, ends) in [(2, false), (3, true)] {
        let mut case = Case::new();
        let _told = case.submit(1);
        let (worker, _, mut socket) = case.start();
        let (_, lease) = given(&mut socket);
        let (piece, _) = said(1);
        case.says(worker, pieces(lease, vec![piece; count]));
        assert_eq!(killed(&mut case, worker), ends, "{count}");
    }
}

/// Whoever waits for its lane waits no longer than so many steps for a word of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_worker_keeps_no_more_steps_to_itself_than_it_may() {
    for (silent_steps, ends) in [(SILENT_STEPS_MAX, false), (SILENT_STEPS_MAX + 1, true)] {
        let mut case = Case::new();
        let _told = case.submit(1);
        let (worker, _, mut socket) = case.start();
        let (_, lease) = given(&mut socket);
        let step = Step {
            lease,
            step_ns: u64::MAX,
            silent_steps,
            longest_step_ns: u64::MAX,
            ..Step::default()
        };
        case.says(worker, from_worker::Message::Step(step));
        assert_eq!(killed(&mut case, worker), ends, "{silent_steps}");
    }
}

/// A number that it does not have, an end that is said twice, another lease given back. Fails where what comes before it in
/// the same frame is passed on: its agent would have what nobody counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_of_a_frame_counts_of_which_a_part_may_not_be_said() {
    let released = Released {
        lease: 999,
        dry: false,
        scrub: None,
    };
    let (piece, finished) = said(1);
    let steps = [
        (vec![piece.clone(), said(77).0], vec![], None),
        (
            vec![piece.clone()],
            vec![finished.clone(), finished.clone()],
            None,
        ),
        (vec![piece], vec![finished], Some(released)),
    ];
    for (pieces, finished, released) in steps {
        let mut case = Case::new();
        let mut told = case.submit(1);
        let mut other = case.submit(2);
        let (worker, _, mut socket) = case.start();
        let (_, lease) = given(&mut socket);
        let step = Step {
            lease,
            tokens: 1,
            pieces,
            finished,
            released,
            ..Step::default()
        };
        case.says(worker, from_worker::Message::Step(step));
        assert!(killed(&mut case, worker));
        nothing_came([&mut told, &mut other]);
    }
}

/// Fails where it is a worker's word alone: records would say anything.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_request_has_no_more_tokens_than_it_could_be() {
    let mut case = Case::new();
    let mut told = case.submit(1);
    let (worker, _, mut socket) = case.start();
    let (_, lease) = given(&mut socket);
    let (_, mut finished) = said(1);
    (finished.input_tokens, finished.output_tokens) = (u32::MAX, u32::MAX);
    let step = Step {
        lease,
        finished: vec![finished],
        ..Step::default()
    };
    case.says(worker, from_worker::Message::Step(step));
    let usage = end_of(&mut told).expect("it has ended").usage;
    assert_eq!((usage.input_tokens, usage.output_tokens), (100, 10));
}
