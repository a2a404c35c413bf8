//! GPUs that something could run on: what becomes of work on one that goes bad.

use crate::server::driver::case::{Case, PROMPT, end_of, given};
use bulkhead_core::{End, Outcome};
use bulkhead_proto::internal::to_launcher;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_a_bad_gpu_held_runs_on_another_and_what_it_says_of_it_is_not_heard() {
    let mut case = Case::new();
    let mut told = case.submit(1);
    let (first, device, mut socket) = case.start();
    assert_eq!(device, "cuda:0", "it has the most places");
    let (prompts, lease) = given(&mut socket);
    assert_eq!(prompts, [PROMPT]);
    // Our own process's memory is no stranger's.
    case.happens("process cuda:0 4711 85899345920");
    case.happens("xid cuda:0 31");
    assert!(
        case.asked().is_empty(),
        "an application's error takes no device"
    );

    // Two tokens of which nothing may go out yet, as where a stop string has begun.
    case.tokens(first, lease, 2);
    case.happens("xid cuda:0 79");
    let (second, device, mut socket) = case.start();
    assert_eq!(device, "cuda:1");
    let (prompts, next) = given(&mut socket);
    assert_eq!(prompts, [PROMPT], "all of it again");
    case.steps(first, lease, Some(1), Some(1));
    assert!(end_of(&mut told).is_none());
    // Fails where it is held to what the first one told.
    case.steps(second, next, Some(1), Some(1));
    let ended = end_of(&mut told).expect("it is done");
    assert_eq!(
        (ended.end, ended.worker),
        (End::Worker(Outcome::Ok), Some(second))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_answer_that_had_begun_on_a_gpu_that_goes_bad_ends() {
    let mut case = Case::new();
    let mut told = case.submit(1);
    let (worker, _, mut socket) = case.start();
    let (_, lease) = given(&mut socket);
    case.steps(worker, lease, Some(1), None);
    case.happens("unplug cuda:0");
    let killed = |one: &to_launcher::Message| matches!(one, to_launcher::Message::Kill(kill) if kill.worker == worker.0);
    assert!(case.asked().iter().any(killed));
    assert_eq!(end_of(&mut told).expect("it ends").end, End::DeviceLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn where_strangers_have_the_memory_nothing_is_started() {
    let mut case = Case::new();
    case.happens("process cuda:0 1 85899345920");
    case.happens("process cuda:1 1 84825604096");
    let _told = case.submit(1);
    assert_eq!(case.start().1, "cuda:1", "there is room for one");

    let mut case = Case::new();
    for gpu in ["cuda:0", "cuda:1"] {
        case.happens(&format!("process {gpu} 1 85899345920"));
    }
    let _told = case.submit(1);
    assert_eq!(case.start().1, "cpu", "there is no room");
}
