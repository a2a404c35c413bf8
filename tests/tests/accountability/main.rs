//! Promise 6, and the part of promise 3 that shows when something dies: what a client was told is on
//! record, whatever is killed, and who can rewrite the log cannot do so unseen.

mod changed;
mod drain;
mod faults;
mod frozen;
mod full;
mod load;
mod tampering;

use bulkhead_tests::{
    records::{self, Entry},
    server::Server,
};
use load::Report;
use std::collections::BTreeMap;

/// Stops the server, and demands that its log is closed in good order, verifies, and adds up with what
/// the clients saw. The records of each request.
async fn accounts_for(mut server: Server, reports: &[&Report]) -> BTreeMap<String, Entry> {
    assert_eq!(server.stop().await, Some(0), "an orderly end");
    let said = server
        .command(&["audit", "verify", "--json"])
        .expect("the log verifies");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(report["closed"], true, "{report}");
    assert_eq!(report["open_requests"], 0, "{report}");

    let seen: Vec<String> = reports.iter().flat_map(|r| r.ok.iter().cloned()).collect();
    let sent = reports.iter().map(|r| r.sent).sum();
    let records = records::all(&server);
    records::assert_adds_up(&records, &seen, sent);
    records::by_request(&records)
}
