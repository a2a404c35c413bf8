//! The direction of dependencies between our own crates.
//!
//! The boundaries are the design: a scheduler that could link the worker would end up running a
//! model in its own process one day, and an audit log that knew identities would have to trust them.

use bulkhead_tests::metadata::{self, Package};
use std::collections::BTreeSet;

const ALL: &[&str] = &[
    "bulkhead",
    "bulkhead-audit",
    "bulkhead-benches",
    "bulkhead-client",
    "bulkhead-core",
    "bulkhead-gpus",
    "bulkhead-hostile",
    "bulkhead-identity",
    "bulkhead-kernels",
    "bulkhead-policy",
    "bulkhead-proto",
    "bulkhead-search",
    "bulkhead-sim",
    "bulkhead-tests",
    "bulkhead-worker",
    "bulkhead-worker-core",
];

/// What of ours each crate may ship with. Crates that are not here may depend on what they like.
const MAY_USE: &[(&str, &[&str])] = &[
    ("bulkhead-core", &[]),
    ("bulkhead-worker-core", &[]),
    ("bulkhead-kernels", &[]),
    ("bulkhead-proto", &[]),
    ("bulkhead-search", &[]),
    ("bulkhead-sim", &["bulkhead-core"]),
    ("bulkhead-identity", &[]),
    ("bulkhead-policy", &["bulkhead-identity"]),
    ("bulkhead-audit", &["bulkhead-proto"]),
    ("bulkhead-client", &["bulkhead-proto"]),
    ("bulkhead-gpus", &["bulkhead-kernels", "bulkhead-proto"]),
    (
        "bulkhead-worker",
        &["bulkhead-worker-core", "bulkhead-kernels", "bulkhead-proto"],
    ),
    (
        "bulkhead",
        &[
            "bulkhead-audit",
            "bulkhead-client",
            "bulkhead-core",
            "bulkhead-gpus",
            "bulkhead-identity",
            "bulkhead-kernels",
            "bulkhead-policy",
            "bulkhead-proto",
        ],
    ),
];

fn ours(package: &Package, with_dev: bool) -> BTreeSet<&str> {
    let wanted = package
        .dependencies
        .iter()
        .filter(|d| with_dev || !d.is_dev());
    let names = wanted.map(|d| d.name.as_str());
    names
        .filter(|n| n.starts_with("bulkhead") && *n != package.name)
        .collect()
}

#[test]
fn every_crate_is_known_here() {
    let found: BTreeSet<_> = metadata::workspace().into_iter().map(|p| p.name).collect();
    let known: BTreeSet<_> = ALL.iter().map(|n| n.to_string()).collect();
    assert_eq!(
        found, known,
        "a crate came or went: say in MAY_USE what it may depend on"
    );
}

#[test]
fn dependencies_point_one_way() {
    let packages = metadata::workspace();
    let mut complaints = Vec::new();
    for (name, allowed) in MAY_USE {
        let package = packages.iter().find(|p| p.name == *name);
        let package = package.unwrap_or_else(|| panic!("no crate {name}"));
        for used in ours(package, false) {
            if !allowed.contains(&used) {
                complaints.push(format!("{name} depends on {used}"));
            }
        }
    }
    super::none_of(
        complaints,
        "turn the dependency round, or move what both need down",
    );
}

#[test]
fn scheduler_and_worker_never_meet_even_in_tests() {
    let scheduler = ["bulkhead", "bulkhead-core", "bulkhead-client"];
    let worker = ["bulkhead-worker", "bulkhead-worker-core"];
    let mut complaints = Vec::new();
    for package in metadata::workspace() {
        let (own, other) = match package.name.as_str() {
            n if scheduler.contains(&n) => ("scheduler", worker.as_slice()),
            n if worker.contains(&n) => ("worker", scheduler.as_slice()),
            _ => continue,
        };
        for used in ours(&package, true) {
            if other.contains(&used) {
                complaints.push(format!("{} ({own}) depends on {used}", package.name));
            }
        }
    }
    super::none_of(complaints, "let them meet on the wire, in bulkhead-proto");
}

#[test]
fn nothing_depends_on_tests_or_benches() {
    let mut complaints = Vec::new();
    for package in metadata::workspace() {
        for used in ours(&package, true) {
            if ["bulkhead-tests", "bulkhead-benches"].contains(&used) {
                complaints.push(format!("{} depends on {used}", package.name));
            }
        }
    }
    super::none_of(complaints, "move what is shared out of tests and benches");
}
