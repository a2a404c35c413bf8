//! From what a scheduler sends to a durable group: validation, numbering, encryption, commit.

use super::{Durable, Log, LogError, protocol};
use crate::entry::{self, ENTRY_HEADER_BYTES};
use crate::record::{
    BODY_BYTES_MAX, HEADER_BYTES_MAX, Header, Kind, REQUEST_ID_BYTES_MAX, SALT_BYTES, TAG_BYTES,
    tenant_name_valid,
};
use crate::sealing::Plain;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};
use zeroize::Zeroizing;

/// A record that a scheduler wants kept.
pub struct Append {
    /// 1, 2, 3… within its session.
    pub number: u64,
    /// Whose it is; empty for the system's own.
    pub tenant: String,
    /// What it is about.
    pub kind: Kind,
    /// The request that it is about, or empty.
    pub request_id: String,
    /// The plaintext; zeroed when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The next commit makes it durable.
    Staged,
    /// It was recorded before; nothing is written again.
    Already(Durable),
    /// A record before it is missing: it has to be sent again after that one.
    Ahead,
}

/// A record before it has its place.
pub(super) struct Draft<'a> {
    pub kind: Kind,
    pub tenant: &'a str,
    pub session: &'a [u8],
    pub request_id: &'a str,
    pub number: u64,
    pub body: &'a [u8],
}

/// Entries on their way into a group, and what they will add to the state.
#[derive(Default)]
pub(super) struct Staged {
    payload: Vec<u8>,
    entries: u32,
    records: u64,
    leaves: HashMap<String, u64>,
    durable: Vec<Durable>,
}

impl Log {
    /// Takes a record of the current session. Records come in the order of their numbers; one that
    /// is recorded already is answered with its place.
    pub fn append(&mut self, append: Append) -> Result<Appended, LogError> {
        validate(&append)?;
        let number = append.number;
        let staged = self.staged.durable.len() as u64;
        let session = &self.replay.session;
        if number <= session.last_number {
            let position = session.position(number).ok_or_else(|| {
                protocol(format!(
                    "number {number} was recorded too long ago to be sent again"
                ))
            })?;
            return Ok(Appended::Already(Durable { number, position }));
        }
        match number - session.last_number {
            ahead if ahead <= staged => return Ok(Appended::Staged),
            ahead if ahead > staged + 1 => return Ok(Appended::Ahead),
            _ => {}
        }
        let session = session.id.clone();
        let Append {
            tenant,
            kind,
            request_id,
            body,
            ..
        } = &append;
        self.stage(Draft {
            kind: *kind,
            tenant,
            session: &session,
            request_id,
            number,
            body,
        })?;
        Ok(Appended::Staged)
    }

    /// Bytes that the next commit writes.
    pub fn staged_bytes(&self) -> usize {
        self.staged.payload.len()
    }

    pub(super) fn stage(&mut self, draft: Draft<'_>) -> Result<(), LogError> {
        let staged = self.encrypt_into_stage(&draft);
        if staged.is_err() {
            self.drop_staged();
        }
        staged
    }

    fn encrypt_into_stage(&mut self, draft: &Draft<'_>) -> Result<(), LogError> {
        let most =
            ENTRY_HEADER_BYTES + HEADER_BYTES_MAX + SALT_BYTES + draft.body.len() + TAG_BYTES;
        self.flush_unless_fits(most)?;
        let tenant = draft.tenant.to_owned();
        let leaf = self
            .staged
            .leaves
            .get(&tenant)
            .copied()
            .unwrap_or(self.replay.size(&tenant));
        let plain = Plain::new(draft.body)?;
        let (key_id, key) =
            self.data_keys
                .get(&self.keys, &self.options.dir, &self.log_id, draft.tenant)?;
        let header = Header {
            kind: draft.kind,
            tenant,
            session: draft.session.to_vec(),
            request_id: draft.request_id.to_owned(),
            sequence: self.replay.records + self.staged.records,
            leaf,
            number: draft.number,
            time_unix_ns: now_unix_ns(),
            key_id: *key_id,
            commitment: plain.commitment(),
        };
        let clear = header.encode(plain.ciphertext_bytes());
        let ciphertext = plain.seal(key, header.sequence, &clear)?;
        entry::put_record(&mut self.staged.payload, &clear, &ciphertext);
        self.staged.entries += 1;
        self.staged.records += 1;
        self.staged.leaves.insert(header.tenant, leaf + 1);
        if draft.number > 0 {
            self.staged.durable.push(Durable {
                number: draft.number,
                position: leaf,
            });
        }
        Ok(())
    }

    /// Stages an entry of the log's own that is no record.
    pub(super) fn stage_entry(&mut self, put: impl FnOnce(&mut Vec<u8>)) -> Result<(), LogError> {
        self.flush_unless_fits(HEADER_BYTES_MAX)?;
        put(&mut self.staged.payload);
        self.staged.entries += 1;
        Ok(())
    }

    fn flush_unless_fits(&mut self, bytes: usize) -> Result<(), LogError> {
        let full = self.staged.payload.len() + bytes > self.journal.payload_bytes_max();
        if full { self.flush() } else { Ok(()) }
    }

    /// Writes and syncs what is staged; only then is it part of the state.
    pub(super) fn flush(&mut self) -> Result<(), LogError> {
        if self.staged.entries == 0 {
            return Ok(());
        }
        if let Err(error) = self
            .journal
            .append(self.staged.entries, &self.staged.payload)
        {
            self.drop_staged();
            return Err(error.into());
        }
        let staged = std::mem::take(&mut self.staged);
        let mut rest = staged.payload.as_slice();
        while !rest.is_empty() {
            let (whole, after) = entry::split(rest).expect("these entries were encoded just now");
            self.replay
                .apply(whole)
                .expect("these entries were numbered to follow the state");
            rest = after;
        }
        self.done.extend(staged.durable);
        Ok(())
    }

    fn drop_staged(&mut self) {
        self.staged = Staged::default();
        // The same sequence numbers will be given again: see `sealing`.
        self.data_keys.forget();
    }
}

fn validate(append: &Append) -> Result<(), LogError> {
    let Append {
        number,
        tenant,
        request_id,
        body,
        kind,
    } = append;
    if *number == 0 {
        return Err(protocol("records are numbered from 1".into()));
    }
    if !tenant.is_empty() && !tenant_name_valid(tenant) {
        return Err(protocol(format!(
            "record {number}: {tenant:?} is no tenant's name"
        )));
    }
    if request_id.len() > REQUEST_ID_BYTES_MAX {
        return Err(protocol(format!(
            "record {number}: its request id is over {REQUEST_ID_BYTES_MAX} bytes"
        )));
    }
    if body.len() > BODY_BYTES_MAX {
        return Err(protocol(format!(
            "record {number}: its body is over {BODY_BYTES_MAX} bytes"
        )));
    }
    if (*kind == Kind::Admitted || kind.is_end()) && request_id.is_empty() {
        return Err(protocol(format!(
            "record {number}: admitted and completed need a request id"
        )));
    }
    Ok(())
}

/// Nanoseconds since 1970, by the machine's clock.
pub(super) fn now_unix_ns() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
