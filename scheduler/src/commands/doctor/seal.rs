//! The seal: which of its layers this machine grants, asked of the worker program itself, and of the kernel for those that
//! the launcher applies.

use super::Check;
use crate::launcher::{
    groups,
    probe::{self, Layer},
    programs,
};
use std::collections::BTreeMap;

const GROUP: &str = "seal";

/// A layer of the launcher's, in a worker's words.
fn of_launcher((name, granted): (&'static str, groups::Granted)) -> Layer {
    let available = granted.is_ok();
    let (Ok(detail) | Err(detail)) = granted;
    Layer {
        name: name.to_owned(),
        available,
        detail,
    }
}

/// One check a layer; a required one that the worker does not know is missing.
pub fn checks(required: &[String]) -> Vec<Check> {
    let layers = match probe() {
        Ok(layers) => groups::look()
            .into_iter()
            .map(of_launcher)
            .chain(layers)
            .collect::<Vec<_>>(),
        Err(what) => {
            let none = Check::found(GROUP, "worker program", what);
            return std::iter::once(none.required().lacking())
                .chain(required.iter().map(|name| unknown(name)))
                .collect();
        }
    };
    let known: BTreeMap<_, _> = (layers.iter()).map(|l| (l.name.as_str(), l)).collect();
    let missing = required.iter().filter(|r| !known.contains_key(r.as_str()));
    let found = layers.iter().map(|layer| {
        let check = Check {
            required: required.contains(&layer.name),
            ..Check::found(GROUP, &layer.name, &layer.detail)
        };
        match layer.available {
            true => check,
            false => Check {
                detail: format!("{}; without it {}", layer.detail, loss(&layer.name)),
                ..check.lacking()
            },
        }
    });
    found.chain(missing.map(|name| unknown(name))).collect()
}

fn probe() -> Result<Vec<Layer>, String> {
    let program = programs::find("bulkhead-worker", "BULKHEAD_WORKER");
    probe::layers(&program.map_err(|e| e.to_string())?)
}

fn unknown(name: &str) -> Check {
    let check = Check::found(
        GROUP,
        name,
        "required, and not a layer that can be tried here",
    );
    check.required().lacking()
}

/// What a worker that was taken over could do without this layer.
fn loss(layer: &str) -> &'static str {
    match layer {
        "cgroup_memory" => {
            "limits of a process alone bound a worker, which do not count what it copies of its model; and nothing bounds a process that reads a model"
        }
        "cgroup_pids" => {
            "a process that reads a model's files could fill the machine with processes"
        }
        "oom_score" => "other processes could be ended for the memory that a worker took",
        "no_new_privs" => "a set-uid program could give a worker privileges",
        "no_capabilities" => "a worker started by root would keep root's powers",
        "non_dumpable" => "processes of the same user could read a worker's memory",
        "closed_fds" => "a worker could hold descriptors that were not meant for it",
        "rlimits" => "a worker could dump core, open files and start processes",
        "landlock" => "a worker could open files of its user",
        "landlock_net" => "a worker could open TCP connections, if seccomp failed too",
        "landlock_scope" => "a worker could signal other processes, if seccomp failed too",
        "netns" => "a worker would see the host's network, which seccomp alone then denies it",
        "userns" => "a worker that gained a capability would have it for the whole machine",
        "ipcns" => "a worker would see shared memory of others, if seccomp failed too",
        "utsns" => "a worker could rename the host, had it the power to",
        "mntns" => "a worker would see the machine's files, which Landlock alone then denies it",
        "own_uid" => "a worker is the launcher's user, or its template's, like other workers",
        "pidns" => "a worker would see other processes' numbers, if seccomp failed too",
        "reach" => {
            "whoever made a model's files could change limits of processes of the same user, and type into a terminal"
        }
        "no_network" => "a worker could reach the network",
        "seccomp" => "a worker could make any system call",
        _ => "the seal is weaker",
    }
}
