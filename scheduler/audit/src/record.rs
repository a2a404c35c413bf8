//! A record as it is stored: a header in the clear, then the encrypted body. These bytes are what a
//! tenant's tree hashes, so nothing in them can change unseen.
//!
//! The header says whose it is and where it stands; what was asked and answered is in the body alone.

use crate::codec::{Cursor, Short, put_short_bytes};
use crate::sealing::KeyId;
use crate::tree::Hash;
use bulkhead_proto::internal::RecordKind;

/// The longest body that is recorded, bytes. A sender has to shorten what is longer.
pub const BODY_BYTES_MAX: usize = 1 << 20;
/// The longest request id, bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 255;
/// The longest name of a scheduler's session, bytes.
pub const SESSION_BYTES_MAX: usize = 64;
/// The longest tenant name, bytes.
pub(crate) const TENANT_BYTES_MAX: usize = 63;
/// What encryption adds to a body: the commitment's salt before it, the tag after it.
pub(crate) const SALT_BYTES: usize = 32;
pub(crate) const TAG_BYTES: usize = 16;
/// More than any header takes, bytes.
pub(crate) const HEADER_BYTES_MAX: usize = 640;

const VERSION: u8 = 1;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Kind {
    /// A request was accepted.
    Admitted = 1,
    /// An accepted request ended.
    Completed = 2,
    /// A known agent was refused.
    Refused = 3,
    /// An operator's act.
    Admin = 4,
    /// Counts of what is not recorded one by one.
    Aggregate = 5,
    /// An accepted request of a scheduler that died.
    Abandoned = 6,
    /// A start, an orderly end, a new session.
    System = 7,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [
            Kind::Admitted,
            Kind::Completed,
            Kind::Refused,
            Kind::Admin,
            Kind::Aggregate,
            Kind::Abandoned,
            Kind::System,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// The kind that a scheduler may append; `None` for those that the log alone writes.
    pub(crate) fn from_wire(kind: i32) -> Option<Self> {
        match RecordKind::try_from(kind).ok()? {
            RecordKind::Admitted => Some(Kind::Admitted),
            RecordKind::Completed => Some(Kind::Completed),
            RecordKind::Refused => Some(Kind::Refused),
            RecordKind::Admin => Some(Kind::Admin),
            RecordKind::Aggregate => Some(Kind::Aggregate),
            RecordKind::System => Some(Kind::System),
            RecordKind::Unspecified | RecordKind::Abandoned => None,
        }
    }

    /// Whether it closes an admitted request.
    pub fn is_end(self) -> bool {
        matches!(self, Kind::Completed | Kind::Abandoned)
    }
}

/// Whether a log takes records for a tenant of this name: 1 to 63 of `A-Z a-z 0-9 - _`, the first a
/// letter or digit. Names become file names, so nothing else is let in.
pub fn tenant_name_valid(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() <= TENANT_BYTES_MAX
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// What stands in the clear before the encrypted body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub kind: Kind,
    /// Empty for the system's own records.
    pub tenant: String,
    /// The scheduler's session that it belongs to; empty for the log's own.
    pub session: Vec<u8>,
    /// Empty where no request is meant.
    pub request_id: String,
    /// Place among all records, from 0.
    pub sequence: u64,
    /// Place in the tenant's tree, from 0.
    pub leaf: u64,
    /// The session's own number for it, from 1; 0 for what the log itself wrote.
    pub number: u64,
    pub time_unix_ns: u64,
    pub key_id: KeyId,
    /// `SHA-256(salt || plaintext)`; the salt is inside the ciphertext.
    pub commitment: Hash,
}

/// Why bytes are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error(transparent)]
    Short(#[from] Short),
    #[error("version {0} is not known here")]
    Version(u8),
    #[error("a field of the header is not valid: {0}")]
    Field(&'static str),
}

impl Header {
    /// The header's bytes, with the length of the ciphertext that follows.
    pub fn encode(&self, ciphertext_bytes: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES_MAX);
        out.extend_from_slice(&[VERSION, self.kind as u8]);
        put_short_bytes(&mut out, self.tenant.as_bytes());
        put_short_bytes(&mut out, &self.session);
        put_short_bytes(&mut out, self.request_id.as_bytes());
        for field in [self.sequence, self.leaf, self.number, self.time_unix_ns] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.key_id);
        out.extend_from_slice(&self.commitment);
        let length = u32::try_from(ciphertext_bytes).expect("bodies are bounded");
        out.extend_from_slice(&length.to_le_bytes());
        out
    }

    /// Takes a record apart: the header, its bytes, the ciphertext.
    pub fn parse(bytes: &[u8]) -> Result<(Header, &[u8], &[u8]), RecordError> {
        let mut cursor = Cursor::new(bytes);
        let version = cursor.u8()?;
        if version != VERSION {
            return Err(RecordError::Version(version));
        }
        let kind = Kind::from_byte(cursor.u8()?).ok_or(RecordError::Field("kind"))?;
        let tenant = text(cursor.short_bytes()?, "tenant")?;
        if !tenant.is_empty() && !tenant_name_valid(&tenant) {
            return Err(RecordError::Field("tenant"));
        }
        let session = cursor.short_bytes()?.to_vec();
        if session.len() > SESSION_BYTES_MAX {
            return Err(RecordError::Field("session"));
        }
        let header = Header {
            kind,
            tenant,
            session,
            request_id: text(cursor.short_bytes()?, "request id")?,
            sequence: cursor.u64()?,
            leaf: cursor.u64()?,
            number: cursor.u64()?,
            time_unix_ns: cursor.u64()?,
            key_id: cursor.array()?,
            commitment: cursor.array()?,
        };
        let length = cursor.u32()? as usize;
        if length != cursor.left() {
            return Err(RecordError::Field("length"));
        }
        let (clear, ciphertext) = bytes.split_at(cursor.at());
        Ok((header, clear, ciphertext))
    }
}

fn text(bytes: &[u8], field: &'static str) -> Result<String, RecordError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| RecordError::Field(field))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header() -> Header {
        Header {
            kind: Kind::Admitted,
            tenant: "acme".into(),
            session: vec![7; 16],
            request_id: "req_1".into(),
            sequence: 4,
            leaf: 2,
            number: 3,
            time_unix_ns: 5,
            key_id: [9; 16],
            commitment: [8; 32],
        }
    }

    #[test]
    fn a_record_survives_its_bytes_and_no_shorter_ones() {
        let bytes = [header().encode(4), b"body".to_vec()].concat();
        let (parsed, clear, ciphertext) = Header::parse(&bytes).unwrap();
        assert_eq!((parsed, ciphertext), (header(), b"body".as_slice()));
        assert_eq!(clear.len() + 4, bytes.len());
        for cut in 0..bytes.len() {
            assert!(Header::parse(&bytes[..cut]).is_err());
        }
        assert!(Header::parse(&[bytes.as_slice(), b"x"].concat()).is_err());
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "_system",
            "-a",
            "a.b",
            "ä",
            &"a".repeat(64),
        ] {
            assert!(!tenant_name_valid(bad), "{bad}");
        }
        for good in ["a", "acme-2", "A_b", "0"] {
            assert!(tenant_name_valid(good), "{good}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_parse_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::parse(&bytes);
        }
    }
}
