//! A template that may not fork: who needs a new worker is told so and may try again, who has one is
//! served, and the template lives on.
//!
//! The kernel refuses the fork, by a limit on processes that is set on the running template from outside.
//! Such limits do not bind root, so where the tests are root the worker's program gives that up first.

use bulkhead_tests::{agent::reason, options::Options, programs, server::Server, wait::eventually};
use nix::unistd::geteuid;
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tonic::Code;
use tonic_types::StatusExt as _;

/// A user that owns nothing here.
const NOBODY: u32 = 65_534;

/// The worker's program, run by a user whom limits bind.
fn bound_by_limits(dir: &Path) -> PathBuf {
    let worker = programs::path("bulkhead-worker");
    if !geteuid().is_root() {
        return worker.to_owned();
    }
    let may_run = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755));
    let (copy, program) = (dir.join("bulkhead-worker"), dir.join("worker"));
    fs::copy(worker, &copy).expect("a copy where others may reach it");
    let text = format!(
        "#!/bin/sh\nexec /usr/bin/setpriv --reuid={NOBODY} --clear-groups {} \"$@\"\n",
        copy.display()
    );
    fs::write(&program, text).expect("a script");
    for path in [dir, &copy, &program] {
        may_run(path).expect("it is ours");
    }
    program
}

/// How many processes its owner may have before this one may make no more. Said by its owner, who may.
fn limit_processes(pid: i32, most: &str) {
    let mut command = match geteuid().is_root() {
        false => Command::new("prlimit"),
        true => {
            let mut command = Command::new("setpriv");
            let user = format!("--reuid={NOBODY}");
            command.args([&user, "--clear-groups", "prlimit"]);
            command
        }
    };
    let limit = format!("--nproc={most}:");
    let status = command.args(["--pid", &pid.to_string(), &limit]).status();
    assert!(status.expect("prlimit runs").success(), "it is ours");
}

fn processes_max(pid: i32) -> String {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it runs");
    let mut lines = limits.lines();
    let line = lines.find_map(|line| line.strip_prefix("Max processes"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    soft.expect("a limit").to_owned()
}

#[tokio::test]
async fn a_template_that_may_not_fork_costs_nobody_else_anything() {
    let dir = tempfile::tempdir().expect("a folder");
    let options = Options::null(1_000).with_worker(&bound_by_limits(dir.path()));
    let server = Server::start(options).await;
    let healthy = server.agent("globex", "g").await.client().await;
    let served = async || {
        let answer = healthy.embed("null", &["a text"]).await;
        answer.expect("who has a worker is served");
    };
    served().await;
    let template = server.processes("bulkhead-model")[0].pid;
    let before = processes_max(template);
    limit_processes(template, "0");

    let late = server.agent("acme", "a").await.client().await;
    let status = late
        .embed("null", &["a text"])
        .await
        .expect_err("no worker");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(reason(&status), "WORKER_UNAVAILABLE", "{status}");
    assert!(status.get_details_retry_info().is_some(), "{status}");
    served().await;
    assert!(server.log().contains("the template cannot fork"), "and why");

    limit_processes(template, &before);
    eventually(
        Duration::from_secs(60),
        "the next try is good",
        async || late.embed("null", &["a text"]).await.ok(),
    )
    .await;
    served().await;
    assert_eq!(server.processes("bulkhead-model")[0].pid, template);
}
