//! What the audit log says, read back with its keys, and whether it adds up.

use crate::server::Server;
use bulkhead_audit::{
    Kind,
    read::{Body, Filter, Record, records},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// All records of a server, live or ended.
pub fn all(server: &Server) -> Vec<Record> {
    let (log, keys) = (
        server.data().join("audit"),
        server.data().join("keys/audit"),
    );
    let records = records(&log, &keys, Filter::default()).expect("there is a log");
    records
        .map(|record| record.expect("the log is sound"))
        .collect()
}

/// What a record says.
pub fn body(record: &Record) -> Value {
    match &record.body {
        Body::Plain(text) => serde_json::from_slice(text).expect("bodies are JSON"),
        Body::Erased => panic!("nothing was erased"),
    }
}

/// The records of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    pub admitted: usize,
    pub completed: usize,
    pub abandoned: usize,
}

/// Records of requests by request.
pub fn by_request(records: &[Record]) -> BTreeMap<String, Entry> {
    let mut requests: BTreeMap<String, Entry> = BTreeMap::new();
    for record in records {
        let entry = match record.kind {
            Kind::Admitted | Kind::Completed | Kind::Abandoned => {
                requests.entry(record.request_id.clone()).or_default()
            }
            _ => continue,
        };
        match record.kind {
            Kind::Admitted => entry.admitted += 1,
            Kind::Completed => entry.completed += 1,
            _ => entry.abandoned += 1,
        }
    }
    requests
}

/// Promise 6 on a log at rest: each request was admitted once and ended once, each that a client saw
/// end well was completed, and there are no more than were sent.
pub fn assert_adds_up(records: &[Record], seen_ok: &[String], sent: usize) {
    let requests = by_request(records);
    for (id, entry) in &requests {
        let ends = entry.completed + entry.abandoned;
        assert!(entry.admitted == 1 && ends == 1, "{id}: {entry:?}");
    }
    for id in seen_ok {
        let entry = requests
            .get(id)
            .unwrap_or_else(|| panic!("{id} is not on record"));
        assert_eq!(
            entry.completed, 1,
            "{id} was answered, so it is completed: {entry:?}"
        );
    }
    let (recorded, ok) = (requests.len(), seen_ok.len());
    assert!(
        ok <= recorded && recorded <= sent,
        "{ok} answered, {recorded} recorded, {sent} sent"
    );
}
