//! What a group of the journal holds: records, checkpoints of tenants' trees, and the mark of an
//! orderly end. Checkpoints and marks are the leaves of the tree over all checkpoints, so its signed
//! root covers them all.

use crate::codec::{Cursor, Short, put_short_bytes};
use crate::record::{Header, RecordError, tenant_name_valid};
use crate::tree::{Hash, leaf_hash};

const RECORD: u8 = 1;
const CHECKPOINT: u8 = 2;
const CLOSED: u8 = 3;

/// Bytes before an entry's content: its type and its length.
pub(crate) const ENTRY_HEADER_BYTES: usize = 5;

/// One entry, taken apart.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    Record(Box<Record<'a>>),
    /// A tenant's tree had this size and root.
    Checkpoint {
        tenant: String,
        size: u64,
        root: Hash,
    },
    /// The log was closed in good order after this many records.
    Closed {
        records: u64,
    },
}

#[derive(Debug)]
pub(crate) struct Record<'a> {
    pub header: Header,
    /// The header's bytes.
    pub clear: &'a [u8],
    pub ciphertext: &'a [u8],
    pub leaf_hash: Hash,
}

/// Why bytes are no entry.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum EntryError {
    #[error("an entry is cut: {0}")]
    Short(#[from] Short),
    #[error("an entry has the unknown type {0}")]
    Type(u8),
    #[error("a record cannot be read: {0}")]
    Record(#[from] RecordError),
    #[error("a checkpoint or mark is malformed")]
    Malformed,
}

/// Appends a record's entry.
pub(crate) fn put_record(out: &mut Vec<u8>, clear: &[u8], ciphertext: &[u8]) {
    put(out, RECORD, &[clear, ciphertext]);
}

/// Appends a checkpoint of a tenant's tree.
pub(crate) fn put_checkpoint(out: &mut Vec<u8>, time: u64, tenant: &str, size: u64, root: &Hash) {
    let mut body = time.to_le_bytes().to_vec();
    put_short_bytes(&mut body, tenant.as_bytes());
    body.extend_from_slice(&size.to_le_bytes());
    body.extend_from_slice(root);
    put(out, CHECKPOINT, &[&body]);
}

/// Appends the mark of an orderly end.
pub(crate) fn put_closed(out: &mut Vec<u8>, time: u64, records: u64) {
    put(out, CLOSED, &[&time.to_le_bytes(), &records.to_le_bytes()]);
}

fn put(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let length = parts.iter().map(|part| part.len()).sum::<usize>();
    out.push(kind);
    out.extend_from_slice(
        &u32::try_from(length)
            .expect("entries are bounded")
            .to_le_bytes(),
    );
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The whole bytes of the first entry in a payload, and what follows them.
pub(crate) fn split(payload: &[u8]) -> Result<(&[u8], &[u8]), EntryError> {
    let mut cursor = Cursor::new(payload);
    cursor.u8()?;
    let length = cursor.u32()? as usize;
    cursor.take(length)?;
    Ok(payload.split_at(cursor.at()))
}

impl<'a> Entry<'a> {
    /// Takes the whole bytes of one entry apart.
    pub fn parse(whole: &'a [u8]) -> Result<Self, EntryError> {
        let kind = *whole.first().ok_or(Short)?;
        let body = whole.get(ENTRY_HEADER_BYTES..).ok_or(Short)?;
        match kind {
            RECORD => {
                let (header, clear, ciphertext) = Header::parse(body)?;
                let leaf_hash = leaf_hash(body);
                Ok(Entry::Record(Box::new(Record {
                    header,
                    clear,
                    ciphertext,
                    leaf_hash,
                })))
            }
            CHECKPOINT => parse_checkpoint(body),
            CLOSED => {
                let mut cursor = Cursor::new(body);
                cursor.u64()?;
                let records = cursor.u64()?;
                if cursor.left() > 0 {
                    return Err(EntryError::Malformed);
                }
                Ok(Entry::Closed { records })
            }
            other => Err(EntryError::Type(other)),
        }
    }
}

fn parse_checkpoint(body: &[u8]) -> Result<Entry<'_>, EntryError> {
    let mut cursor = Cursor::new(body);
    cursor.u64()?;
    let tenant = std::str::from_utf8(cursor.short_bytes()?).map_err(|_| EntryError::Malformed)?;
    let (size, root) = (cursor.u64()?, cursor.array()?);
    if cursor.left() > 0 || !(tenant.is_empty() || tenant_name_valid(tenant)) {
        return Err(EntryError::Malformed);
    }
    Ok(Entry::Checkpoint {
        tenant: tenant.to_owned(),
        size,
        root,
    })
}
