//! A log in a temporary folder, for this crate's own tests, and a forger who knows the journal's format
//! and rewrites it with correct checksums, but has no keys.

use crate::entry;
use crate::journal::{
    GroupHeader, SECTOR, SEGMENT_BYTES_MIN, SegmentHeader, Walk, padded, segment_path,
};
use crate::log::{Append, Appended, Durable, Log, LogError, Opened, Options};
use crate::note::VerifierKey;
use crate::record::Kind;
use crate::verify::{Report, VerifyError, verify};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

pub const SESSION: &[u8] = b"session-1";

pub struct Home {
    _folder: TempDir,
    pub options: Options,
}

impl Home {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("log"), folder.path().join("keys"));
        options.segment_bytes = SEGMENT_BYTES_MIN;
        Home {
            _folder: folder,
            options,
        }
    }

    pub fn open(&self) -> Log {
        let mut log = Log::open(self.options.clone()).unwrap();
        log.start().unwrap();
        log
    }

    /// Opened, with a session.
    pub fn session(&self, name: &[u8]) -> (Log, Opened) {
        let mut log = self.open();
        let opened = log.hello(name).unwrap();
        (log, opened)
    }

    pub fn key(&self) -> VerifierKey {
        VerifierKey::parse(&fs::read_to_string(self.options.dir.join("public.key")).unwrap())
            .unwrap()
    }

    pub fn verify(&self) -> Result<Report, VerifyError> {
        verify(&self.options.dir, &self.key(), &[])
    }

    pub fn verify_against(&self, earlier: &str) -> Result<Report, VerifyError> {
        verify(&self.options.dir, &self.key(), &[earlier.to_owned()])
    }

    pub fn checkpoint(&self) -> String {
        fs::read_to_string(self.options.dir.join("checkpoint")).unwrap()
    }

    pub fn segment(&self, number: u64) -> PathBuf {
        segment_path(&self.options.dir, number)
    }

    /// A closed log of two tenants: eight requests, a checkpoint after each second one.
    pub fn closed(self) -> Self {
        let (mut log, _) = self.session(SESSION);
        for request in 0..8 {
            let tenant = if request % 3 == 0 { "globex" } else { "acme" };
            let id = format!("req-{request}");
            append(&mut log, request * 2 + 1, tenant, Kind::Admitted, &id);
            append(&mut log, request * 2 + 2, tenant, Kind::Completed, &id);
            log.commit().unwrap();
            if request % 2 == 0 {
                log.checkpoint().unwrap();
            }
        }
        log.close().unwrap();
        self
    }

    /// All entries of the journal, group by group.
    pub fn groups(&self) -> Vec<Vec<Vec<u8>>> {
        let mut walk = Walk::begin(&self.options.dir).unwrap().unwrap();
        let mut groups = Vec::new();
        while let Some((_, _, payload)) = walk.next().unwrap() {
            let (mut rest, mut group) = (payload.as_slice(), Vec::new());
            while !rest.is_empty() {
                let (whole, after) = entry::split(rest).unwrap();
                group.push(whole.to_vec());
                rest = after;
            }
            groups.push(group);
        }
        groups
    }

    /// Writes the journal anew, in one segment, every checksum correct.
    pub fn forge(&self, groups: &[Vec<Vec<u8>>]) {
        let log_id = Walk::begin(&self.options.dir)
            .unwrap()
            .unwrap()
            .end()
            .log_id;
        let segment_bytes = SEGMENT_BYTES_MIN;
        let header = SegmentHeader {
            log_id,
            number: 1,
            segment_bytes,
            group: 0,
            previous: [0; 32],
        };
        let mut bytes = header.encode().to_vec();
        let mut previous = [0; 32];
        for (number, group) in groups.iter().enumerate() {
            let header = GroupHeader {
                number: number as u64,
                entries: group.len() as u32,
                previous,
            };
            let (encoded, sum) = header.encode(&group.concat());
            bytes.extend_from_slice(&encoded);
            previous = sum;
        }
        assert_eq!(
            bytes.len(),
            padded(bytes.len()),
            "whole sectors of {SECTOR} bytes"
        );
        bytes.resize(segment_bytes as usize, 0);
        fs::write(self.segment(1), bytes).unwrap();
    }
}

pub fn record(number: u64, tenant: &str, kind: Kind, request_id: &str) -> Append {
    let body = format!(r#"{{"prompt":"the secret of {request_id}"}}"#).into_bytes();
    Append {
        number,
        tenant: tenant.into(),
        kind,
        request_id: request_id.into(),
        body: body.into(),
    }
}

pub fn append(log: &mut Log, number: u64, tenant: &str, kind: Kind, request_id: &str) {
    assert_eq!(
        log.append(record(number, tenant, kind, request_id))
            .unwrap(),
        Appended::Staged
    );
}

/// Appends, as `append`, and commits.
pub fn durable(
    log: &mut Log,
    number: u64,
    tenant: &str,
    kind: Kind,
    request_id: &str,
) -> Result<Vec<Durable>, LogError> {
    log.append(record(number, tenant, kind, request_id))?;
    log.commit()
}
