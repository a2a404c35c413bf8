//! Reading the journal from its first group to its last, one segment in memory at a time.
//!
//! Reading never changes anything, and works while the log is being written: what the writer has not
//! finished looks like the torn tail of a crash, and is left out the same way.

use super::format::{GROUP_HEADER_BYTES, Group, SECTOR, SegmentHeader, padded, payload_bytes_max};
use super::{JournalError, Place, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN, journal_dir, segment_path};
use crate::fsutil;
use crate::tree::Hash;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where a walk ended: where the next group belongs.
#[derive(Clone, Debug)]
pub(crate) struct End {
    pub log_id: [u8; 16],
    pub segment: u64,
    pub segment_bytes: u64,
    pub offset: u64,
    /// Number of the next group.
    pub group: u64,
    /// Checksum of the last group.
    pub previous: Hash,
    /// Bytes after the last whole group up to the last that is not zero: a group that was never
    /// finished.
    pub tail_bytes: u64,
}

/// A walk through all groups.
pub(crate) struct Walk {
    log_dir: PathBuf,
    last_segment: u64,
    data: Vec<u8>,
    end: End,
}

impl Walk {
    /// Begins at the first segment; `None` if there is no journal yet.
    pub fn begin(log_dir: &Path) -> Result<Option<Self>, JournalError> {
        let last_segment = last_segment(log_dir)?;
        if last_segment == 0 {
            return Ok(None);
        }
        let (data, header) = load(log_dir, 1)?;
        let end = End {
            log_id: header.log_id,
            segment: 1,
            segment_bytes: header.segment_bytes,
            offset: SECTOR as u64,
            group: 0,
            previous: [0; 32],
            tail_bytes: 0,
        };
        let walk = Walk {
            log_dir: log_dir.to_owned(),
            last_segment,
            data,
            end,
        };
        walk.check_segment(&header)?;
        Ok(Some(walk))
    }

    /// Where the walk stands, and in the end where the next group belongs.
    pub fn end(&self) -> &End {
        &self.end
    }

    /// The payload of the next group and the number of entries that its header states; `None` after
    /// the last.
    pub fn next(&mut self) -> Result<Option<(Place, u32, Vec<u8>)>, JournalError> {
        let mut read_again = false;
        loop {
            let place = self.place();
            let offset = self.end.offset as usize;
            if let Some(group) = Group::parse(&self.data[offset..]) {
                if group.header.number != self.end.group
                    || group.header.previous != self.end.previous
                {
                    return Err(damaged(
                        place,
                        "a group is missing, swapped or repeated before this one",
                    ));
                }
                self.end.offset += group.bytes as u64;
                self.end.group += 1;
                self.end.previous = group.sum;
                return Ok(Some((place, group.header.entries, group.payload.to_vec())));
            }
            let tail = used(&self.data[offset..]);
            if tail == 0 && self.end.segment == self.last_segment {
                return Ok(None);
            } else if tail == 0 {
                self.next_segment()?;
            } else if self.end.segment < self.last_segment {
                return Err(damaged(place, "a group's bytes do not match its checksum"));
            } else if self.tail_is_damage(tail) {
                // A writer at work may have put two groups there while we read: look once more.
                if read_again {
                    return Err(damaged(place, "a group's bytes do not match its checksum"));
                }
                read_again = true;
                self.data = load(&self.log_dir, self.end.segment)?.0;
            } else {
                self.end.tail_bytes = tail as u64;
                return Ok(None);
            }
        }
    }

    fn place(&self) -> Place {
        Place {
            segment: self.end.segment,
            offset: self.end.offset,
        }
    }

    /// Whether what follows cannot be one unfinished group: it is too long for one, or a whole group
    /// comes after it, which is written only when all before it is durable.
    fn tail_is_damage(&self, tail: usize) -> bool {
        let group_max = padded(GROUP_HEADER_BYTES + payload_bytes_max(self.end.segment_bytes));
        let after = &self.data[self.end.offset as usize..][..tail.next_multiple_of(SECTOR)];
        tail > group_max
            || (SECTOR..after.len())
                .step_by(SECTOR)
                .any(|at| Group::parse(&self.data[self.end.offset as usize + at..]).is_some())
    }

    fn next_segment(&mut self) -> Result<(), JournalError> {
        let (data, header) = load(&self.log_dir, self.end.segment + 1)?;
        self.data = data;
        self.end.segment += 1;
        self.end.segment_bytes = header.segment_bytes;
        self.end.offset = SECTOR as u64;
        self.check_segment(&header)
    }

    fn check_segment(&self, header: &SegmentHeader) -> Result<(), JournalError> {
        let place = Place {
            segment: self.end.segment,
            offset: 0,
        };
        let fits = header.log_id == self.end.log_id
            && header.number == self.end.segment
            && header.group == self.end.group
            && header.previous == self.end.previous;
        if fits {
            Ok(())
        } else {
            Err(damaged(
                place,
                "this segment does not continue the one before",
            ))
        }
    }
}

fn damaged(place: Place, what: &str) -> JournalError {
    JournalError::Damaged {
        place,
        what: what.to_owned(),
    }
}

/// Bytes up to the last that is not zero.
fn used(data: &[u8]) -> usize {
    // By blocks first: nearly all of a fresh segment is zeros.
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut blocks = data.chunks(ZEROS.len());
    let Some(block) = blocks.rposition(|block| *block != ZEROS[..block.len()]) else {
        return 0;
    };
    let start = block * ZEROS.len();
    let block = &data[start..data.len().min(start + ZEROS.len())];
    block
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(start, |at| start + at + 1)
}

/// The greatest number of a segment; 0 if there is none. All below it must be there too, which loading
/// them finds out.
fn last_segment(log_dir: &Path) -> Result<u64, JournalError> {
    let dir = journal_dir(log_dir);
    let read = |source| JournalError::Read {
        path: dir.clone(),
        source,
    };
    let items = match fs::read_dir(&dir) {
        Ok(items) => items,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(read(e)),
    };
    let mut last = 0;
    for item in items {
        let name = item.map_err(read)?.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_suffix(".seg")?.parse().ok());
        last = last.max(number.unwrap_or(0));
    }
    Ok(last)
}

/// A whole segment and its header.
fn load(log_dir: &Path, number: u64) -> Result<(Vec<u8>, SegmentHeader), JournalError> {
    let path = segment_path(log_dir, number);
    let place = Place {
        segment: number,
        offset: 0,
    };
    let data = fsutil::read_bounded(&path, SEGMENT_BYTES_MAX)
        .map_err(|source| JournalError::Read { path, source })?
        .ok_or_else(|| damaged(place, "the segment is missing"))?;
    let header = data
        .get(..SECTOR)
        .and_then(SegmentHeader::parse)
        .ok_or_else(|| damaged(place, "the segment's header does not match its checksum"))?;
    let sizes = SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX;
    if header.segment_bytes != data.len() as u64 || !sizes.contains(&header.segment_bytes) {
        return Err(damaged(
            place,
            "the segment's file is longer or shorter than it was made",
        ));
    }
    Ok((data, header))
}
