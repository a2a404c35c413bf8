//! Reading records back in the clear, for the operator who holds the keys.
//!
//! The log may be live. A body whose keys were erased reads as such; nothing is verified here beyond
//! each body's own encryption and commitment: that is what `verify` is for.

use crate::entry::{self, Entry, Record as Stored};
use crate::journal::{JournalError, Place, Walk};
use crate::keys::{self, KeyError, Keys};
use crate::record::Kind;
use crate::sealing::{self, KeyId};
use aws_lc_rs::aead::LessSafeKey;
use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// There is no journal.
    #[error("{0} holds no audit log: give the folder that the audit process writes")]
    NoLog(PathBuf),
    /// What is at this place is not what was written: run the verifier.
    #[error(
        "the log is damaged at {place}: {what}. Run the verifier to see how much of it is sound"
    )]
    Damaged {
        /// Where.
        place: Place,
        /// What is wrong there.
        what: String,
    },
}

/// Which records are wanted. All fields that are set have to match.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this tenant; `Some("")` for the system's own.
    pub tenant: Option<String>,
    /// About this request.
    pub request_id: Option<String>,
    /// Of these kinds; empty for all.
    pub kinds: Vec<Kind>,
    /// Not before this time.
    pub since_unix_ns: Option<u64>,
    /// From this sequence number on.
    pub from_sequence: u64,
}

impl Filter {
    fn wants(&self, record: &Stored<'_>) -> bool {
        let header = &record.header;
        self.tenant
            .as_ref()
            .is_none_or(|tenant| *tenant == header.tenant)
            && self
                .request_id
                .as_ref()
                .is_none_or(|id| *id == header.request_id)
            && (self.kinds.is_empty() || self.kinds.contains(&header.kind))
            && self
                .since_unix_ns
                .is_none_or(|since| header.time_unix_ns >= since)
            && header.sequence >= self.from_sequence
    }
}

/// What a record said.
#[derive(Clone, PartialEq, Eq)]
pub enum Body {
    /// The plaintext, as it was sent: JSON. Zeroed when dropped.
    Plain(Zeroizing<Vec<u8>>),
    /// The tenant's keys were erased, and with them the content.
    Erased,
}

/// A record, decrypted.
#[derive(Clone)]
pub struct Record {
    /// Place among all records, from 0.
    pub sequence: u64,
    /// Whose it is; empty for the system's own.
    pub tenant: String,
    /// Place in the tenant's tree, from 0.
    pub leaf: u64,
    /// What it is about.
    pub kind: Kind,
    /// The scheduler's session; empty for what the log wrote for itself.
    pub session: Vec<u8>,
    /// The session's number for it; 0 for what the log wrote for itself.
    pub number: u64,
    /// When it was recorded, nanoseconds since 1970.
    pub time_unix_ns: u64,
    /// The request that it is about, or empty.
    pub request_id: String,
    /// What it says.
    pub body: Body,
}

/// The records of a log, in the order in which they were written.
pub struct Records {
    walk: Walk,
    log_dir: PathBuf,
    keys: Keys,
    filter: Filter,
    /// `None` for keys that are gone. A key is stored before its first record, so none comes later.
    data_keys: HashMap<(String, KeyId), Option<LessSafeKey>>,
    ready: VecDeque<Record>,
    failed: bool,
}

/// Begins to read a log.
pub fn records(log_dir: &Path, keys_dir: &Path, filter: Filter) -> Result<Records, ReadError> {
    let walk = Walk::begin(log_dir)?.ok_or_else(|| ReadError::NoLog(log_dir.to_owned()))?;
    Ok(Records {
        walk,
        log_dir: log_dir.to_owned(),
        keys: keys::load(keys_dir)?,
        filter,
        data_keys: HashMap::new(),
        ready: VecDeque::new(),
        failed: false,
    })
}

impl Iterator for Records {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.ready.is_empty() && !self.failed {
            match self.read_group() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.failed = true;
                    self.ready.clear();
                    return Some(Err(error));
                }
            }
        }
        self.ready.pop_front().map(Ok)
    }
}

impl Records {
    fn read_group(&mut self) -> Result<bool, ReadError> {
        let Some((place, _, payload)) = self.walk.next()? else {
            return Ok(false);
        };
        let damaged = |what: String| ReadError::Damaged { place, what };
        let mut rest = payload.as_slice();
        while !rest.is_empty() {
            let (whole, after) = entry::split(rest).map_err(|e| damaged(e.to_string()))?;
            if let Entry::Record(record) =
                Entry::parse(whole).map_err(|e| damaged(e.to_string()))?
                && self.filter.wants(&record)
            {
                let record = self.decrypt(*record)?.ok_or_else(|| {
                    damaged("a body does not fit its key or its commitment".into())
                })?;
                self.ready.push_back(record);
            }
            rest = after;
        }
        Ok(true)
    }

    /// `None` if the key is there and the body does not fit it.
    fn decrypt(&mut self, record: Stored<'_>) -> Result<Option<Record>, ReadError> {
        let header = record.header;
        let name = (header.tenant.clone(), header.key_id);
        if !self.data_keys.contains_key(&name) {
            let log_id = self.walk.end().log_id;
            let stored = sealing::stored_keys(&self.keys, &self.log_dir, &log_id, &header.tenant)?;
            let named = stored
                .into_iter()
                .map(|(id, key)| ((header.tenant.clone(), id), Some(key)));
            self.data_keys.extend(named);
            self.data_keys.entry(name.clone()).or_default();
        }
        let body = match &self.data_keys[&name] {
            None => Body::Erased,
            Some(key) => {
                let (clear, sealed) = (record.clear, record.ciphertext);
                match sealing::open(key, header.sequence, clear, sealed, &header.commitment) {
                    Some(plain) => Body::Plain(plain),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(Record {
            sequence: header.sequence,
            tenant: header.tenant,
            leaf: header.leaf,
            kind: header.kind,
            session: header.session,
            number: header.number,
            time_unix_ns: header.time_unix_ns,
            request_id: header.request_id,
            body,
        }))
    }
}
