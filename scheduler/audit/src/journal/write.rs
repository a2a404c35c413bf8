//! Appending groups: one write and one fdatasync each, into space that was allocated before.

use super::format::{
    GROUP_HEADER_BYTES, GroupHeader, SECTOR, SegmentHeader, padded, payload_bytes_max,
};
use super::{End, JournalError, journal_dir, segment_path};
use crate::fsutil;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// How large segments are and how large the log may become.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub segment_bytes: u64,
    /// Bytes that the log's whole folder may take; a segment that would exceed it is not made.
    pub log_bytes_max: Option<u64>,
}

/// The writing end of a journal.
pub(crate) struct Journal {
    log_dir: PathBuf,
    limits: Limits,
    file: File,
    path: PathBuf,
    end: End,
}

impl Journal {
    /// Makes the first segment of a new log.
    pub fn create(log_dir: &Path, limits: Limits, log_id: [u8; 16]) -> Result<Self, JournalError> {
        let end = End {
            log_id,
            segment: 1,
            segment_bytes: limits.segment_bytes,
            offset: SECTOR as u64,
            group: 0,
            previous: [0; 32],
            tail_bytes: 0,
        };
        let (file, path) = allocate(log_dir, limits, &end)?;
        Ok(Journal {
            log_dir: log_dir.to_owned(),
            limits,
            file,
            path,
            end,
        })
    }

    /// Continues where a walk ended; an unfinished group there is overwritten with zeros first.
    pub fn resume(log_dir: &Path, limits: Limits, mut end: End) -> Result<Self, JournalError> {
        let path = segment_path(log_dir, end.segment);
        let fail = |source| JournalError::Write {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new().write(true).open(&path).map_err(fail)?;
        if end.tail_bytes > 0 {
            let zeros = vec![0; padded(end.tail_bytes as usize)];
            file.write_all_at(&zeros, end.offset).map_err(fail)?;
            file.sync_data().map_err(fail)?;
            end.tail_bytes = 0;
        }
        Ok(Journal {
            log_dir: log_dir.to_owned(),
            limits,
            file,
            path,
            end,
        })
    }

    /// The most that one group may carry, bytes. It fits every segment, this one or the next.
    pub fn payload_bytes_max(&self) -> usize {
        payload_bytes_max(self.end.segment_bytes.min(self.limits.segment_bytes))
    }

    /// Makes sure that a group with so much payload fits, with a new segment if need be.
    pub fn make_room(&mut self, payload_bytes: usize) -> Result<(), JournalError> {
        let needed = padded(GROUP_HEADER_BYTES + payload_bytes) as u64;
        if self.end.offset + needed <= self.end.segment_bytes {
            return Ok(());
        }
        let mut end = self.end.clone();
        end.segment += 1;
        end.segment_bytes = self.limits.segment_bytes;
        end.offset = SECTOR as u64;
        (self.file, self.path) = allocate(&self.log_dir, self.limits, &end)?;
        self.end = end;
        Ok(())
    }

    /// Writes one group and waits until it is durable. After an error of kind `Write` nobody knows
    /// what is on the disk: the journal has to be walked again before it is used.
    pub fn append(&mut self, entries: u32, payload: &[u8]) -> Result<(), JournalError> {
        self.make_room(payload.len())?;
        let header = GroupHeader {
            number: self.end.group,
            entries,
            previous: self.end.previous,
        };
        let (bytes, sum) = header.encode(payload);
        let written = self.file.write_all_at(&bytes, self.end.offset);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(|source| JournalError::Write {
                path: self.path.clone(),
                source,
            })?;
        self.end.offset += bytes.len() as u64;
        self.end.group += 1;
        self.end.previous = sum;
        Ok(())
    }
}

/// Puts a segment in place: allocated, its header durable, then named. Failing leaves no trace.
fn allocate(log_dir: &Path, limits: Limits, end: &End) -> Result<(File, PathBuf), JournalError> {
    let path = segment_path(log_dir, end.segment);
    let staged = path.with_extension("new");
    let made = allowed(log_dir, limits).and_then(|()| fill(&staged, end));
    let file = made.map_err(|source| {
        let _ = fs::remove_file(&staged);
        JournalError::Full(source.to_string())
    })?;
    let fail = |source| JournalError::Write {
        path: path.clone(),
        source,
    };
    fs::rename(&staged, &path).map_err(fail)?;
    fsutil::sync_dir(&journal_dir(log_dir)).map_err(fail)?;
    Ok((file, path))
}

fn allowed(log_dir: &Path, limits: Limits) -> io::Result<()> {
    let Some(max) = limits.log_bytes_max else {
        return Ok(());
    };
    let taken = fsutil::bytes_under(log_dir)?;
    if taken.saturating_add(limits.segment_bytes) <= max {
        return Ok(());
    }
    let segment = limits.segment_bytes;
    Err(io::Error::other(format!(
        "{taken} bytes are taken, {segment} more would exceed the limit of {max}"
    )))
}

fn fill(staged: &Path, end: &End) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let file = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o640)
        .open(staged)?;
    let bytes = i64::try_from(end.segment_bytes).map_err(io::Error::other)?;
    nix::fcntl::posix_fallocate(&file, 0, bytes)?;
    let header = SegmentHeader {
        log_id: end.log_id,
        number: end.segment,
        segment_bytes: end.segment_bytes,
        group: end.group,
        previous: end.previous,
    };
    file.write_all_at(&header.encode(), 0)?;
    file.sync_all()?;
    Ok(file)
}
