//! The pure crates name no clock, no input or output, no async, no log and no chance.
//!
//! A decision that depends on such a thing cannot be replayed: the simulator, the property tests and
//! the server would no longer drive the same code. Iterating a hash map counts as chance.

use bulkhead_tests::source::{names, rust_files};

const PURE: &[&str] = &[
    "scheduler/core/src",
    "scheduler/gpus/src/health",
    "scheduler/sim/src",
    "worker/core/src",
];

const FORBIDDEN: &[&str] = &[
    "Instant",
    "SystemTime",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::os",
    "std::process",
    "std::sync",
    "std::thread",
    "thread_local",
    "async",
    "await",
    "tokio",
    "futures",
    "log",
    "tracing",
    "metrics",
    "print",
    "println",
    "eprint",
    "eprintln",
    "rand",
    "RandomState",
    "HashMap",
    "HashSet",
    "unsafe",
];

/// Makes of the standard library's map one whose places follow from its keys alone.
const ID_MAP: &str = "scheduler/core/src/map.rs";

#[test]
fn pure_crates_name_nothing_impure() {
    let mut complaints = Vec::new();
    let files = PURE.iter().flat_map(|folder| rust_files(folder));
    for file in files.filter(|file| file.path != ID_MAP) {
        let code = file.shipped_code();
        for name in FORBIDDEN.iter().filter(|name| names(&code, name)) {
            complaints.push(format!("{} names {name}", file.path));
        }
    }
    super::none_of(
        complaints,
        "take it as an argument; collections are ordered ones",
    );
}

/// Time, bytes and tokens are integers there: floating point would make two machines disagree.
#[test]
fn scheduling_is_done_in_integers() {
    let mut complaints = Vec::new();
    for file in rust_files("scheduler/core/src") {
        let code = file.shipped_code();
        for name in ["f32", "f64"] {
            if names(&code, name) {
                complaints.push(format!("{} names {name}", file.path));
            }
        }
    }
    super::none_of(
        complaints,
        "count in nanoseconds, bytes, tokens or fixed point",
    );
}

/// What the rule is for cannot be seen if the folders moved.
#[test]
fn the_pure_crates_are_where_this_looks() {
    for folder in PURE {
        assert!(
            rust_files(folder).len() > 3,
            "{folder} holds the pure crate"
        );
    }
}
