//! The log itself: recovery, appending, checkpoints, closing. One owner, no threads, no sockets.
//!
//! What is staged becomes part of the log's state only when its group is durable. After an error the
//! staged part is gone and the state is as it was, so that the sender can send it again.

mod error;
#[cfg(test)]
mod full_tests;
pub(crate) mod publish;
mod stage;
#[cfg(test)]
mod tests;

use crate::entry;
use crate::fsutil;
use crate::journal::{self, Journal, Limits, SEGMENT_BYTES, Walk};
use crate::keys::{self, KeyError, Keys};
use crate::note::VerifierKey;
use crate::record::{Kind, SESSION_BYTES_MAX};
use crate::replay::{OpenRequest, Replay, Violation};
use crate::sealing::{self, DataKeys};
use publish::Published;
use stage::{Draft, Staged};
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};

pub use error::LogError;
pub use stage::{Append, Appended};

/// Where the log is and how large it may become.
#[derive(Clone, Debug)]
pub struct Options {
    /// The log's folder.
    pub dir: PathBuf,
    /// The keys' folder; not inside the log's.
    pub keys_dir: PathBuf,
    /// Bytes of each new segment.
    pub segment_bytes: u64,
    /// Bytes that the log's folder may take. `None`: what the disk gives.
    pub bytes_max: Option<u64>,
}

impl Options {
    /// The defaults for these folders.
    pub fn new(dir: impl Into<PathBuf>, keys_dir: impl Into<PathBuf>) -> Self {
        let (dir, keys_dir) = (dir.into(), keys_dir.into());
        Options {
            dir,
            keys_dir,
            segment_bytes: SEGMENT_BYTES,
            bytes_max: None,
        }
    }
}

/// Answer to a scheduler that says hello.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Greatest number recorded of its session.
    pub last_number: u64,
    /// Requests of dead sessions that were closed for it.
    pub abandoned: u64,
}

/// A record that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// The session's number for it.
    pub number: u64,
    /// Leaf index in its tenant's tree.
    pub position: u64,
}

/// An open log.
pub struct Log {
    options: Options,
    keys: Keys,
    key: VerifierKey,
    log_id: [u8; 16],
    data_keys: DataKeys,
    journal: Journal,
    replay: Replay,
    staged: Staged,
    done: Vec<Durable>,
    published: Published,
    /// Bytes of an unfinished group that the last recovery dropped, until that is recorded.
    torn_bytes: u64,
    started: bool,
    /// Its last record is written.
    end_recorded: bool,
    _lock: File,
}

impl Log {
    /// Opens a log, or makes a new one, and recovers it. Refuses one that does not add up.
    pub fn open(options: Options) -> Result<Self, LogError> {
        check(&options)?;
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| LogError::File { path, source }
        };
        for dir in [
            &options.dir,
            &journal::journal_dir(&options.dir),
            &sealing::keys_dir(&options.dir),
        ] {
            fsutil::create_private_dir(dir).map_err(at(dir))?;
        }
        let lock = lock(&options.dir)?;
        let keys = keys::init(&options.keys_dir)?;
        let limits = Limits {
            segment_bytes: options.segment_bytes,
            log_bytes_max: options.bytes_max,
        };
        let mut replay = Replay::default();
        let (journal, log_id, torn_bytes) = match Walk::begin(&options.dir)? {
            None => {
                let mut log_id = [0; 16];
                aws_lc_rs::rand::fill(&mut log_id).map_err(|_| KeyError::Crypto)?;
                (Journal::create(&options.dir, limits, log_id)?, log_id, 0)
            }
            Some(mut walk) => {
                recover(&mut walk, &mut replay)?;
                let end = walk.end().clone();
                let (log_id, torn) = (end.log_id, end.tail_bytes);
                publish::check_not_behind(&options.dir, &keys, &log_id, &replay)?;
                (Journal::resume(&options.dir, limits, end)?, log_id, torn)
            }
        };
        let key = publish::verifier_key(&keys, &log_id);
        publish::public_key(&options.dir, &key)?;
        Ok(Log {
            options,
            keys,
            key,
            log_id,
            data_keys: DataKeys::default(),
            journal,
            replay,
            staged: Staged::default(),
            done: Vec::new(),
            published: Published::default(),
            torn_bytes,
            started: false,
            end_recorded: false,
            _lock: lock,
        })
    }

    /// The key that outsiders verify with.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.key
    }

    /// Records the start, once, and signs a checkpoint, so that a log is never without one.
    pub fn start(&mut self) -> Result<(), LogError> {
        if !self.started {
            let version = env!("CARGO_PKG_VERSION");
            let torn = self.torn_bytes;
            self.system(
                &[],
                &format!(r#"{{"event":"audit-start","version":"{version}","torn_bytes":{torn}}}"#),
            )?;
            self.commit()?;
            self.started = true;
        }
        self.checkpoint()
    }

    /// Takes a scheduler's session. A new one closes what older ones left open; the current one, after
    /// a reconnect, goes on where it was. May be called again after an error.
    pub fn hello(&mut self, session: &[u8]) -> Result<Opened, LogError> {
        if session.len() < 8 || session.len() > SESSION_BYTES_MAX {
            let length = session.len();
            return Err(protocol(format!(
                "a session's name has 8 to {SESSION_BYTES_MAX} bytes, not {length}"
            )));
        }
        if self.replay.superseded(session) {
            return Err(protocol(
                "this session has ended: another one came after it".into(),
            ));
        }
        let dead: Vec<OpenRequest> = self
            .replay
            .open
            .iter()
            .filter(|(_, owner, _)| owner != session)
            .cloned()
            .collect();
        for (tenant, owner, request_id) in &dead {
            self.stage(Draft {
                kind: Kind::Abandoned,
                tenant,
                session: owner,
                request_id,
                number: 0,
                body: br#"{"event":"abandoned","reason":"its scheduler ended before it did"}"#,
            })?;
        }
        if self.replay.session.id != session {
            let abandoned = dead.len();
            self.system(
                session,
                &format!(r#"{{"event":"session-start","abandoned":{abandoned}}}"#),
            )?;
        }
        self.commit()?;
        Ok(Opened {
            last_number: self.replay.session.last_number,
            abandoned: dead.len() as u64,
        })
    }

    /// Makes all that is staged durable, and says which of the session's records that were.
    pub fn commit(&mut self) -> Result<Vec<Durable>, LogError> {
        self.flush()?;
        Ok(self.take_done())
    }

    /// Records that became durable and were not yet handed out, also when a later step failed.
    pub fn take_done(&mut self) -> Vec<Durable> {
        std::mem::take(&mut self.done)
    }

    /// After an error that asks for no recovery: whether there is room again for any group.
    pub fn probe(&mut self) -> Result<(), LogError> {
        Ok(self.journal.make_room(self.journal.payload_bytes_max())?)
    }

    /// Signs checkpoints of all trees that grew, if any, and publishes them.
    pub fn checkpoint(&mut self) -> Result<(), LogError> {
        self.commit_checkpoints()?;
        self.publish()
    }

    /// Records an orderly end, signs the last records' checkpoint, and then the end itself. The log takes no records
    /// afterwards. It counts as closed only once its end is signed: whoever is killed on the way there leaves a log that
    /// was interrupted, and whole. May be called again after an error.
    pub fn close(&mut self) -> Result<(), LogError> {
        self.flush()?;
        if self.replay.closed {
            return self.publish();
        }
        if !self.end_recorded {
            self.system(&[], r#"{"event":"audit-end"}"#)?;
            self.flush()?;
            self.end_recorded = true;
        }
        self.checkpoint()?;
        let (time, records) = (stage::now_unix_ns(), self.replay.records);
        self.stage_entry(|out| entry::put_closed(out, time, records))?;
        self.flush()?;
        self.publish()
    }

    fn commit_checkpoints(&mut self) -> Result<(), LogError> {
        let time = stage::now_unix_ns();
        let grown: BTreeSet<String> = self.replay.uncovered.clone();
        for tenant in &grown {
            let tree = &self.replay.tenants[tenant];
            let (size, root) = (tree.size(), tree.root());
            self.stage_entry(|out| entry::put_checkpoint(out, time, tenant, size, &root))?;
        }
        self.flush()?;
        self.published.outdated(grown);
        Ok(())
    }

    fn publish(&mut self) -> Result<(), LogError> {
        let Log {
            options,
            keys,
            key,
            replay,
            published,
            ..
        } = self;
        published.write(&options.dir, key, &keys.signer, replay)
    }

    fn system(&mut self, session: &[u8], body: &str) -> Result<(), LogError> {
        let body = body.as_bytes();
        self.stage(Draft {
            kind: Kind::System,
            tenant: "",
            session,
            request_id: "",
            number: 0,
            body,
        })
    }
}

fn protocol(why: String) -> LogError {
    LogError::Protocol(why)
}

fn check(options: &Options) -> Result<(), LogError> {
    let sizes = journal::SEGMENT_BYTES_MIN..=journal::SEGMENT_BYTES_MAX;
    let bytes = options.segment_bytes;
    if !sizes.contains(&bytes) {
        let (min, max) = sizes.into_inner();
        return Err(LogError::Options(format!(
            "segments have {min} to {max} bytes, not {bytes}"
        )));
    }
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if whole(&options.keys_dir).starts_with(whole(&options.dir)) {
        return Err(LogError::Options(
            "the keys' folder lies inside the log's, so every backup of the log would hold the keys: \
             choose another"
                .into(),
        ));
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let at = |source| LogError::File {
        path: dir.to_owned(),
        source,
    };
    let file = File::open(dir).map_err(at)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(LogError::Locked(dir.to_owned())),
        Err(std::fs::TryLockError::Error(e)) => Err(at(e)),
    }
}

fn recover(walk: &mut Walk, replay: &mut Replay) -> Result<(), LogError> {
    while let Some((place, entries, payload)) = walk.next()? {
        let altered = |violation| LogError::Altered { place, violation };
        let mut rest = payload.as_slice();
        for _ in 0..entries {
            let (whole, after) = entry::split(rest).map_err(|e| altered(e.into()))?;
            replay.apply(whole).map_err(altered)?;
            rest = after;
        }
        if !rest.is_empty() {
            return Err(altered(Violation::Unreadable(
                "a group holds more than it states".into(),
            )));
        }
    }
    Ok(())
}
