//! A template and its children, spoken with over real sockets, on the null model.

mod support;

use bulkhead_proto::internal::to_worker::Message as To;
use bulkhead_proto::internal::{
    GenerateJob, Grant, Load, Outcome, Work, WorkItem, from_template::Message as Told,
    from_worker::Message as From, to_template::Message as Ask, work_item::Job,
};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use std::os::unix::net::UnixStream;
use support::template::{Forked, Template};
use support::{Worker, model_file, null_load, until_released};

/// A field of a process's status, by the kernel.
fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = text.lines();
    let value = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    value.expect("a known field").trim().to_owned()
}

/// Has a worker do one small job.
fn works(worker: &mut Forked) {
    let job = GenerateJob {
        prompt: "hello".to_owned(),
        max_tokens: 2,
        ..GenerateJob::default()
    };
    let item = WorkItem {
        request: 1,
        job: Some(Job::Generate(job)),
        ..WorkItem::default()
    };
    worker.send(To::Work(Work { items: vec![item] }));
    worker.send(To::Grant(Grant { lease: 1 }));
    let (steps, released) = until_released(|| worker.receive());
    let ends: Vec<_> = steps.into_iter().flat_map(|step| step.finished).collect();
    assert_eq!((ends.len(), ends[0].outcome()), (1, Outcome::Ok));
    assert!(released.dry && ends[0].scrub.is_some());
}

#[test]
fn forked_workers_are_sealed_as_others_are_and_children_of_the_launcher() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let (_alone, ready_alone) = Worker::assigned(null_load());
    let mut workers = [template.fork(), template.fork()];
    for worker in &mut workers {
        let mut seal = worker.ready().seal;
        // No process can enter that by itself.
        seal.retain(|layer| layer != "pidns");
        assert_eq!(seal, ready_alone.seal);
        worker.assign("acme");
        works(worker);
        let pid = worker.pid.as_raw();
        assert_eq!(status(pid, "PPid"), std::process::id().to_string());
        assert_eq!(status(pid, "Seccomp"), "2");
        assert_eq!(status(pid, "Name"), "bulkhead-worker");
    }
    let template = template.child.id() as i32;
    assert_eq!(status(template, "Threads"), "1");
    assert_eq!(status(template, "Name"), "bulkhead-model");
    let group = |pid| nix::unistd::getpgid(Some(pid)).unwrap();
    assert!(workers.iter().all(|worker| group(worker.pid) == worker.pid));
}

#[test]
fn a_templates_death_is_no_workers() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let mut worker = template.fork();
    worker.ready();
    drop(template);
    worker.assign("acme");
    works(&mut worker);
}

#[test]
fn a_workers_death_is_neither_its_templates_nor_its_siblings() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let (mut one, mut other) = (template.fork(), template.fork());
    one.ready();
    other.ready();
    kill(one.pid, Signal::SIGKILL).unwrap();
    let end = waitpid(one.pid, None).unwrap();
    assert_eq!(end, WaitStatus::Signaled(one.pid, Signal::SIGKILL, false));
    other.assign("acme");
    works(&mut other);
    template.fork().ready();
}

/// Each newborn that still held its sibling's socket would keep the end of it from being seen.
#[test]
fn nobody_holds_a_workers_socket_but_itself() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let (mut one, mut other) = (template.fork(), template.fork());
    one.ready();
    other.ready();
    kill(one.pid, Signal::SIGKILL).unwrap();
    assert_eq!(one.receive(), None, "its connection has ended");
    works_after_assignment(&mut other);
}

fn works_after_assignment(worker: &mut Forked) {
    worker.assign("globex");
    works(worker);
}

#[test]
fn a_template_ends_with_its_launchers_connection_and_workers_with_theirs() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let mut worker = template.fork();
    worker.ready();
    nix::sys::socket::shutdown(
        std::os::fd::AsRawFd::as_raw_fd(&template.control),
        nix::sys::socket::Shutdown::Both,
    )
    .unwrap();
    assert_eq!(template.end().code(), Some(0));
    worker.assign("acme");
    works(&mut worker);
    worker.socket.shutdown(std::net::Shutdown::Write).unwrap();
    let end = waitpid(worker.pid, None).unwrap();
    assert_eq!(end, WaitStatus::Exited(worker.pid, 0));
}

#[test]
fn a_model_that_is_not_what_was_promised_is_refused_with_the_reason() {
    let (entry, file) = model_file("weights", b"tampered with", &"0".repeat(64), 4);
    let load = Load {
        files: vec![entry],
        ..null_load()
    };
    let template = Template::load(load, &[file]);
    match template.hear() {
        Some((Told::Refused(refused), _)) => {
            assert!(refused.reason.contains("weights") && refused.reason.contains("SHA-256"));
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(template.end().code(), Some(1));
}

/// The seal is the child's own, and so is the refusal where it lacks a layer.
#[test]
fn a_required_layer_that_is_missing_is_told_by_the_child() {
    let load = Load {
        required_layers: vec!["moat".to_owned()],
        ..null_load()
    };
    let (template, _) = Template::loaded(load, &[]);
    let mut worker = template.fork();
    match worker.receive() {
        Some(From::Refused(refused)) => assert!(refused.reason.contains("moat")),
        other => panic!("not refused: {other:?}"),
    }
    let end = waitpid(worker.pid, None).unwrap();
    assert_eq!(end, WaitStatus::Exited(worker.pid, 1));
}

#[test]
fn a_launcher_that_breaks_the_protocol_loses_the_template() {
    let (template, _) = Template::loaded(null_load(), &[]);
    template.ask(Ask::Load(null_load()), None);
    assert_eq!(template.end().code(), Some(2));
    let (template, _) = Template::loaded(null_load(), &[]);
    let (_ours, theirs) = UnixStream::pair().unwrap();
    template.ask(Ask::Load(null_load()), Some(&theirs));
    assert_eq!(template.end().code(), Some(2));
}

/// Printed, not judged: figures of a machine that others use too.
#[test]
fn what_a_start_takes_forked_and_alone() {
    let (template, _) = Template::loaded(null_load(), &[]);
    let least = |start: &mut dyn FnMut()| {
        let time = |()| {
            let began = std::time::Instant::now();
            start();
            began.elapsed()
        };
        std::iter::repeat_n((), 5).map(time).min().unwrap()
    };
    let forked = least(&mut || {
        template.fork().ready();
    });
    let alone = least(&mut || {
        Worker::assigned(null_load());
    });
    println!("from the request to Ready, null model: forked {forked:?}, alone {alone:?}");
}
