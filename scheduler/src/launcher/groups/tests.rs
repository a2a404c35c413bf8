//! Groups on this machine, where it grants any, with real processes in them; and of the second kind on a folder that
//! stands for the kernel's.

use super::*;
use crate::launcher::{
    spawn::Spawn,
    sys::{self, Ended},
};
use std::{
    os::fd::AsFd,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Takes this many bytes of memory, a pipe's worth at a time, and ends.
const TAKES: &str = "x=$(head -c 100000000 /dev/zero | tr '\\0' a); exit 0";
/// Has eight children at once, which end when the descriptor does; a shell that cannot fork ends with 2.
const FORKS: &str = "for i in 1 2 3 4 5 6 7 8; do cat <&3 & done; exit 0";

/// What limits nothing that the tests do.
const WIDE: Limits = Limits {
    memory_bytes: Some(1 << 30),
    tasks: 1000,
};

/// A process has one launcher, and that one folder for its groups.
static ONE: Mutex<()> = Mutex::new(());

/// Groups, where the machine grants those of this controller. The lock comes first: what is bound last goes first, and
/// groups that go after it take the next test's folders along.
fn granted(controller: Controller) -> Option<(MutexGuard<'static, ()>, Groups)> {
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (groups, told) = Groups::set_up();
    let told = told
        .into_iter()
        .find(|(name, _)| *name == layer(controller));
    match told {
        Some((_, Ok(_))) => Some((one, groups)),
        other => {
            println!("not run: {other:?}");
            None
        }
    }
}

/// Runs a shell in a group with these limits; how it ended, and whether for memory.
fn run(groups: &mut Groups, limits: Limits, script: &str) -> (Ended, bool) {
    let group = groups.make(limits).expect("a group");
    let (theirs, ours) = std::io::pipe().expect("a pipe");
    let doors = group.doors().expect("doors");
    let fds = [theirs.as_fd()];
    let shell = Spawn::new(Path::new("/bin/sh"), &fds).arguments(&["-c", script]);
    let pid = shell
        .and_then(|shell| shell.doors(doors).start())
        .expect("a shell");
    groups.joined(pid, group);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    let ended = sys::ended_by(pid, deadline)
        .expect("a child")
        .expect("it ends");
    drop(ours);
    (ended, groups.ran_out(pid))
}

#[test]
fn who_takes_more_memory_than_its_group_may_have_ends_and_it_is_known_why() {
    let Some((_one, mut groups)) = granted(Controller::Memory) else {
        return;
    };
    let narrow = Limits {
        // And what every group may have beside.
        memory_bytes: Some(1 << 20),
        ..WIDE
    };
    let (ended, for_memory) = run(&mut groups, WIDE, TAKES);
    assert_eq!((ended, for_memory), (Ended::Code(0), false));
    let (ended, for_memory) = run(&mut groups, narrow, TAKES);
    assert_ne!(ended, Ended::Code(0));
    assert!(for_memory, "{ended}");
}

#[test]
fn who_has_as_many_processes_as_its_group_may_gets_no_more() {
    let Some((_one, mut groups)) = granted(Controller::Tasks) else {
        return;
    };
    let narrow = Limits { tasks: 4, ..WIDE };
    assert_eq!(run(&mut groups, WIDE, FORKS).0, Ended::Code(0));
    assert_eq!(run(&mut groups, narrow, FORKS).0, Ended::Code(2));
}

#[test]
fn a_process_is_moved_whole_and_its_group_goes_after_it() {
    let Some((_one, mut groups)) = granted(Controller::Memory) else {
        return;
    };
    let (theirs, ours) = std::io::pipe().expect("a pipe");
    let fds = [theirs.as_fd()];
    let cat = Spawn::new(Path::new("/bin/cat"), &fds).arguments(&["/proc/self/fd/3"]);
    let pid = cat.and_then(Spawn::start).expect("cat");
    groups.enclose(pid, WIDE).expect("a group");
    let folders = groups.members[&pid].folders.clone();
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it is there");
    assert!(own.contains(&format!("{OURS}{}/1", getpid())), "{own}");
    groups.sweep(|_| true);
    assert!(folders.iter().all(|folder| folder.exists()));
    drop(ours);
    sys::kill_and_wait(pid);
    groups.sweep(|_| false);
    assert!(folders.iter().all(|folder| !folder.exists()), "{folders:?}");
    let folder = groups.trees[0].folder.clone();
    drop(groups);
    assert!(!folder.exists());
}

#[test]
fn what_a_launcher_left_that_is_gone_is_removed_and_nothing_else() {
    let own = tempfile::tempdir().expect("a folder");
    let gone = own.path().join(format!("{OURS}{}", i32::MAX));
    let aside = own.path().join(format!("{OURS}{}{SELF}", i32::MAX));
    let ours = own.path().join(format!("{OURS}{}", getpid()));
    let others = own.path().join("bulkhead-7x");
    for folder in [&gone, &aside, &ours, &others] {
        fs::create_dir_all(folder.join("1")).expect("room");
    }
    remove_stale(own.path());
    let left = [gone, aside, ours, others].map(|folder| folder.exists());
    assert_eq!(left, [false, false, true, true]);
}

/// The kernel's files, of the second kind, are ordinary ones here.
#[test]
fn of_the_second_kind_the_launcher_steps_aside_and_limits_are_said_in_its_words() {
    let own = tempfile::tempdir().expect("a folder");
    let launcher = Pid::from_raw(7);
    let trees =
        Controller::ALL.map(|one| second(one, own.path(), launcher, false).expect("ordinary"));
    let read = |path: &str| fs::read_to_string(own.path().join(path)).expect(path);
    assert_eq!(read("bulkhead-7-launcher/cgroup.procs"), "7");
    assert_eq!(read("bulkhead-7/cgroup.subtree_control"), "+pids");
    assert_eq!(read("cgroup.subtree_control"), "+pids");
    let mut groups = Groups::of(trees.into());
    let limits = Limits {
        memory_bytes: Some(1 << 20),
        tasks: 5,
    };
    groups.enclose(Pid::from_raw(9), limits).expect("ordinary");
    assert_eq!(read("bulkhead-7/1/cgroup.procs"), "9");
    assert_eq!(read("bulkhead-7/1/memory.max"), (65 << 20).to_string());
    assert_eq!(read("bulkhead-7/1/memory.swap.max"), "0");
    assert_eq!(read("bulkhead-7/1/pids.max"), "5");
    assert!(!groups.ran_out(Pid::from_raw(9)));
    // Again: the same group, with other limits.
    let wider = Limits { tasks: 6, ..limits };
    groups.enclose(Pid::from_raw(9), wider).expect("ordinary");
    assert_eq!(
        (read("bulkhead-7/1/pids.max"), groups.made),
        ("6".to_owned(), 1)
    );
    let events = own.path().join("bulkhead-7/1/memory.events");
    fs::write(events, "low 0\noom 1\noom_kill 1\n").expect("ordinary");
    assert!(groups.ran_out(Pid::from_raw(9)));
    assert!(!groups.ran_out(Pid::from_raw(8)));
}

#[test]
fn of_the_second_kind_a_launcher_that_cannot_have_groups_is_where_it_was() {
    let own = tempfile::tempdir().expect("a folder");
    // As the kernel answers where other processes are in the group: it cannot be written to.
    fs::create_dir(own.path().join(PASSED_ON)).expect("room");
    let why = second(Controller::Memory, own.path(), Pid::from_raw(7), false).expect_err("busy");
    assert!(why.contains("Delegate=yes"), "{why}");
    let back = fs::read_to_string(own.path().join(MEMBERS));
    assert_eq!(back.expect("written"), "7");
}
