//! Bytes of segments and groups. Only encoding and checking; no files here.

use crate::codec::Cursor;
use crate::tree::{Hash, sha256};

/// Bytes of a segment unless the operator says otherwise.
pub const SEGMENT_BYTES: u64 = 16 << 20;
/// The smallest segment: the largest group fits.
pub const SEGMENT_BYTES_MIN: u64 = 2 << 20;
/// The largest segment. A reader holds one in memory.
pub const SEGMENT_BYTES_MAX: u64 = 256 << 20;

/// What a disk is trusted to write whole, bytes. Segments' headers and groups begin on multiples.
pub(crate) const SECTOR: usize = 512;
/// The most that a group carries, bytes.
const PAYLOAD_BYTES_MAX: usize = 4 << 20;

const SEGMENT_MAGIC: [u8; 8] = *b"BHSEGMT1";
const GROUP_MAGIC: [u8; 8] = *b"BHGROUP1";
const SEGMENT_SUMMED: usize = 8 + 16 + 8 + 8 + 8 + 32;
const GROUP_SUMMED: usize = 8 + 4 + 4 + 8 + 32;

/// Bytes of a group's header.
pub(crate) const GROUP_HEADER_BYTES: usize = GROUP_SUMMED + 32;

/// The most that a group carries in a segment of this size, bytes.
pub(crate) fn payload_bytes_max(segment_bytes: u64) -> usize {
    let room = usize::try_from(segment_bytes)
        .unwrap_or(usize::MAX)
        .saturating_sub(2 * SECTOR);
    room.min(PAYLOAD_BYTES_MAX)
}

/// A length rounded up to whole sectors.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(SECTOR)
}

/// What the first sector of a segment says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    pub log_id: [u8; 16],
    /// From 1.
    pub number: u64,
    /// Bytes of this segment's file.
    pub segment_bytes: u64,
    /// Number of the first group in it.
    pub group: u64,
    /// Checksum of the group before; zeros before the first.
    pub previous: Hash,
}

impl SegmentHeader {
    pub fn encode(&self) -> [u8; SECTOR] {
        let mut summed = Vec::with_capacity(SECTOR);
        summed.extend_from_slice(&SEGMENT_MAGIC);
        summed.extend_from_slice(&self.log_id);
        for field in [self.number, self.segment_bytes, self.group] {
            summed.extend_from_slice(&field.to_le_bytes());
        }
        summed.extend_from_slice(&self.previous);
        let mut out = [0; SECTOR];
        out[..SEGMENT_SUMMED].copy_from_slice(&summed);
        out[SEGMENT_SUMMED..SEGMENT_SUMMED + 32].copy_from_slice(&sha256(&[&summed]));
        out
    }

    /// The header, if every byte of the sector is as it was written.
    pub fn parse(sector: &[u8]) -> Option<Self> {
        let mut cursor = Cursor::new(sector);
        let magic: [u8; 8] = cursor.array().ok()?;
        let header = SegmentHeader {
            log_id: cursor.array().ok()?,
            number: cursor.u64().ok()?,
            segment_bytes: cursor.u64().ok()?,
            group: cursor.u64().ok()?,
            previous: cursor.array().ok()?,
        };
        (magic == SEGMENT_MAGIC && sector == header.encode()).then_some(header)
    }
}

/// What stands before a group's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupHeader {
    /// From 0, through all segments.
    pub number: u64,
    pub entries: u32,
    /// Checksum of the group before; zeros before the first.
    pub previous: Hash,
}

impl GroupHeader {
    /// The group's bytes, whole sectors, and its checksum.
    pub fn encode(&self, payload: &[u8]) -> (Vec<u8>, Hash) {
        let mut out = Vec::with_capacity(padded(GROUP_HEADER_BYTES + payload.len()));
        out.extend_from_slice(&GROUP_MAGIC);
        out.extend_from_slice(
            &u32::try_from(payload.len())
                .expect("groups are bounded")
                .to_le_bytes(),
        );
        out.extend_from_slice(&self.entries.to_le_bytes());
        out.extend_from_slice(&self.number.to_le_bytes());
        out.extend_from_slice(&self.previous);
        let sum = sha256(&[&out, payload]);
        out.extend_from_slice(&sum);
        out.extend_from_slice(payload);
        out.resize(padded(out.len()), 0);
        (out, sum)
    }
}

/// A group found whole.
#[derive(Debug)]
pub(crate) struct Group<'a> {
    pub header: GroupHeader,
    pub sum: Hash,
    pub payload: &'a [u8],
    /// Bytes with header and padding.
    pub bytes: usize,
}

impl<'a> Group<'a> {
    /// The group at the beginning of `data`, if it is whole and every byte of it, padding too, is as
    /// it was written.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(data);
        if cursor.array::<8>().ok()? != GROUP_MAGIC {
            return None;
        }
        let length = cursor.u32().ok()? as usize;
        let (entries, number) = (cursor.u32().ok()?, cursor.u64().ok()?);
        let header = GroupHeader {
            number,
            entries,
            previous: cursor.array().ok()?,
        };
        let sum: Hash = cursor.array().ok()?;
        let payload = cursor.take(length).ok()?;
        let bytes = padded(GROUP_HEADER_BYTES + length);
        let padding = data.get(GROUP_HEADER_BYTES + length..bytes)?;
        let fits =
            sum == sha256(&[&data[..GROUP_SUMMED], payload]) && padding.iter().all(|b| *b == 0);
        fits.then_some(Group {
            header,
            sum,
            payload,
            bytes,
        })
    }
}
