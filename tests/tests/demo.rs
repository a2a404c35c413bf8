//! `bulkhead demo`, as a newcomer runs it: real models, and exit 0.

use bulkhead_tests::{
    models::{self, turn},
    programs,
};
use std::time::{Duration, Instant};

/// Promised: under 90 s after the build and the download, on two cores.
const DEMO_MAX: Duration = Duration::from_secs(90);

#[test]
fn the_demo_shows_what_it_promises_and_ends_well() {
    let _turns = [turn("models"), turn("load")];
    let dir = models::dir();
    let began = Instant::now();
    let output = programs::bulkhead()
        .args(["demo", "--json", "--models"])
        .arg(dir)
        .output()
        .expect("the program runs");
    let took = began.elapsed();
    let (said, shown) = (
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout),
    );
    assert!(
        output.status.success(),
        "{}\n{said}\n{shown}",
        output.status
    );
    assert!(took < DEMO_MAX, "it took {took:?}");
    let result: serde_json::Value = serde_json::from_str(&shown).expect("one JSON object");
    assert!(result.is_object(), "{result}");
}
