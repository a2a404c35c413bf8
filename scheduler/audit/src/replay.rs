//! What the journal's entries add up to: trees, open requests, sessions. The log applies to it what it
//! has made durable, recovery and the verifier what they read, so all three agree by construction.
//!
//! Nothing here does I/O. An entry that contradicts those before it is refused and changes nothing
//! that matters: whoever gets such an error stops.

use crate::checkpoint::tree_name;
use crate::entry::{Entry, EntryError, Record};
use crate::record::Kind;
use crate::tree::{Frontier, leaf_hash};
use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

/// How many of a session's latest positions are kept to answer records that are sent again. A sender
/// has far fewer waiting for their answer.
pub(crate) const POSITIONS_KEPT: usize = 1 << 20;

/// A request that was admitted and has not ended: tenant, session, request id.
pub(crate) type OpenRequest = (String, Vec<u8>, String);

/// How an entry contradicts those before it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Bytes that are no entry.
    #[error("{0}")]
    Unreadable(String),
    /// A record is missing, repeated or out of order.
    #[error(
        "record {found} stands where record {expected} belongs: one is missing, swapped or repeated"
    )]
    Sequence {
        /// The sequence number that belongs here.
        expected: u64,
        /// The one that is here.
        found: u64,
    },
    /// The same within one tenant's tree.
    #[error("tenant {tenant:?}: leaf {found} stands where leaf {expected} belongs")]
    Leaf {
        /// Whose tree.
        tenant: String,
        /// The leaf that belongs here.
        expected: u64,
        /// The one that is here.
        found: u64,
    },
    /// A session's numbers have a gap.
    #[error("record {sequence} has number {found} of its session where {expected} belongs")]
    Number {
        /// The record.
        sequence: u64,
        /// The number that belongs here.
        expected: u64,
        /// The one that is here.
        found: u64,
    },
    /// The records of a tenant are not those that a checkpoint was made over.
    #[error(
        "tenant {tenant:?}: the first {size} records do not add up to the root of their checkpoint"
    )]
    Root {
        /// Whose tree.
        tenant: String,
        /// The checkpoint's size.
        size: u64,
    },
    /// The mark of an orderly end does not fit what is before it.
    #[error("the mark of an orderly end stands after {found} records but speaks of {stated}")]
    Closed {
        /// Records before it.
        found: u64,
        /// Records that it speaks of.
        stated: u64,
    },
}

impl From<EntryError> for Violation {
    fn from(error: EntryError) -> Self {
        Violation::Unreadable(error.to_string())
    }
}

/// The current session of a scheduler.
#[derive(Debug, Default)]
pub(crate) struct Session {
    pub id: Vec<u8>,
    /// Greatest number recorded; 0 if none.
    pub last_number: u64,
    /// Leaf indexes of the latest numbers, that of `last_number` at the back.
    positions: VecDeque<u64>,
}

impl Session {
    /// The leaf index that a recorded number got; `None` if it is not recorded or too long ago.
    pub fn position(&self, number: u64) -> Option<u64> {
        let back = usize::try_from(self.last_number.checked_sub(number)?).ok()?;
        let at = self.positions.len().checked_sub(back + 1)?;
        self.positions.get(at).copied()
    }

    fn record(&mut self, leaf: u64) {
        self.last_number += 1;
        self.positions.push_back(leaf);
        if self.positions.len() > POSITIONS_KEPT {
            self.positions.pop_front();
        }
    }
}

/// Counts of what was recorded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Requests accepted.
    pub admitted: u64,
    /// Of which the scheduler recorded the end.
    pub completed: u64,
    /// Of which the log recorded that their scheduler died.
    pub abandoned: u64,
    /// Ends without an open request, and requests admitted twice: 0 in an honest log.
    pub unmatched: u64,
}

/// The state after the entries so far.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Records so far; the next one's sequence number.
    pub records: u64,
    pub tenants: BTreeMap<String, Frontier>,
    /// The tree over all checkpoints.
    pub global: Frontier,
    /// Tenants whose trees have grown since their last checkpoint.
    pub uncovered: BTreeSet<String>,
    /// Records at the time of the last checkpoint that left nothing uncovered.
    pub covered_records: u64,
    /// The last entry marks an orderly end.
    pub closed: bool,
    pub open: BTreeSet<OpenRequest>,
    pub session: Session,
    sessions: HashSet<Vec<u8>>,
    pub counts: Counts,
    /// The first record whose request does not add up.
    pub first_unmatched: Option<(String, u64)>,
}

impl Replay {
    /// Leaves in a tenant's tree.
    pub fn size(&self, tenant: &str) -> u64 {
        self.tenants.get(tenant).map_or(0, Frontier::size)
    }

    /// Whether a session was seen before the current one.
    pub fn superseded(&self, session: &[u8]) -> bool {
        self.session.id != session && self.sessions.contains(session)
    }

    /// Takes the whole bytes of one entry, and says which record it was, if it was one.
    pub fn apply<'a>(&mut self, whole: &'a [u8]) -> Result<Option<Box<Record<'a>>>, Violation> {
        match Entry::parse(whole)? {
            Entry::Record(record) => {
                self.apply_record(&record)?;
                self.closed = false;
                return Ok(Some(record));
            }
            Entry::Checkpoint { tenant, size, root } => {
                let tree = self.tenants.get(&tenant);
                if tree.is_none_or(|tree| tree.size() != size || tree.root() != root) {
                    return Err(Violation::Root {
                        tenant: tree_name(&tenant).to_owned(),
                        size,
                    });
                }
                self.uncovered.remove(&tenant);
                self.closed = false;
            }
            Entry::Closed { records } => {
                if records != self.records || !self.uncovered.is_empty() {
                    return Err(Violation::Closed {
                        found: self.records,
                        stated: records,
                    });
                }
                self.closed = true;
            }
        }
        if self.uncovered.is_empty() {
            self.covered_records = self.records;
        }
        self.global.push(leaf_hash(whole));
        Ok(None)
    }

    fn apply_record(&mut self, record: &Record<'_>) -> Result<(), Violation> {
        let header = &record.header;
        if header.sequence != self.records {
            return Err(Violation::Sequence {
                expected: self.records,
                found: header.sequence,
            });
        }
        let expected = self.size(&header.tenant);
        if header.leaf != expected {
            let tenant = tree_name(&header.tenant).to_owned();
            return Err(Violation::Leaf {
                tenant,
                expected,
                found: header.leaf,
            });
        }
        self.apply_session(record)?;
        self.tenants
            .entry(header.tenant.clone())
            .or_default()
            .push(record.leaf_hash);
        self.uncovered.insert(header.tenant.clone());
        self.records += 1;
        self.account(record);
        Ok(())
    }

    fn apply_session(&mut self, record: &Record<'_>) -> Result<(), Violation> {
        let header = &record.header;
        // An abandoned record bears the dead session's name and changes nothing about the current one.
        if header.kind == Kind::Abandoned || header.session.is_empty() {
            return Ok(());
        }
        if self.session.id != header.session {
            self.sessions.insert(header.session.clone());
            self.session = Session {
                id: header.session.clone(),
                ..Session::default()
            };
        }
        if header.number == 0 {
            return Ok(());
        }
        let expected = self.session.last_number + 1;
        if header.number != expected {
            let (sequence, found) = (header.sequence, header.number);
            return Err(Violation::Number {
                sequence,
                expected,
                found,
            });
        }
        self.session.record(header.leaf);
        Ok(())
    }

    fn account(&mut self, record: &Record<'_>) {
        let header = &record.header;
        if header.kind != Kind::Admitted && !header.kind.is_end() {
            return;
        }
        let request = (
            header.tenant.clone(),
            header.session.clone(),
            header.request_id.clone(),
        );
        let matched = match header.kind {
            Kind::Admitted => self.open.insert(request),
            _ => self.open.remove(&request),
        };
        match header.kind {
            Kind::Admitted => self.counts.admitted += 1,
            Kind::Completed => self.counts.completed += 1,
            _ => self.counts.abandoned += 1,
        }
        if !matched {
            self.counts.unmatched += 1;
            let place = || (tree_name(&header.tenant).to_owned(), header.leaf);
            self.first_unmatched.get_or_insert_with(place);
        }
    }
}
