//! A file that grows as it is fetched, hashed as it grows.
//!
//! What an earlier attempt left is hashed first and gone on from. Only what hashes to what the hub stated
//! comes out of here; anything else is deleted.

use super::{
    HubError,
    listing::{Entry, Stated},
};
use crate::models::hex;
use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, SHA256};
use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// How much is read at once, bytes.
const PIECE_BYTES: usize = 1 << 20;

/// One file on its way.
pub struct Sink<'a> {
    entry: &'a Entry,
    path: PathBuf,
    file: File,
    /// Bytes that are there.
    len: u64,
    /// Bytes that were there when it was opened.
    kept: u64,
    sha256: Context,
    git: Context,
}

impl<'a> Sink<'a> {
    /// Opens it at `path`, where a part of it may lie. Links are not followed.
    pub fn open(entry: &'a Entry, path: &Path) -> Result<Sink<'a>, HubError> {
        let failed = |source| HubError::Write {
            path: path.into(),
            source,
        };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .custom_flags(libc::O_NOFOLLOW)
            .mode(0o644)
            .open(path)
            .map_err(failed)?;
        let mut sink = Sink {
            entry,
            path: path.into(),
            file,
            len: 0,
            kept: 0,
            sha256: Context::new(&SHA256),
            git: git(entry),
        };
        sink.take_up().map_err(failed)?;
        Ok(sink)
    }

    /// Hashes what is there; nothing is kept of a file that is too long.
    fn take_up(&mut self) -> io::Result<()> {
        if self.file.metadata()?.len() > self.entry.bytes {
            self.file.set_len(0)?;
        }
        let mut piece = vec![0u8; PIECE_BYTES];
        loop {
            match self.file.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => self.count(&piece[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.kept = self.len;
        Ok(())
    }

    fn count(&mut self, piece: &[u8]) {
        self.len += piece.len() as u64;
        self.sha256.update(piece);
        self.git.update(piece);
    }

    /// Bytes that are there.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// True once it has its length.
    pub fn is_full(&self) -> bool {
        self.len == self.entry.bytes
    }

    /// Adds a piece to its end.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), HubError> {
        if piece.len() as u64 > self.entry.bytes - self.len {
            return Err(self.differs("it is longer".into()));
        }
        self.file
            .write_all(piece)
            .map_err(|source| self.failed(source))?;
        self.count(piece);
        Ok(())
    }

    /// Empties it.
    pub fn restart(&mut self) -> Result<(), HubError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|source| self.failed(source))?;
        (self.len, self.kept) = (0, 0);
        (self.sha256, self.git) = (Context::new(&SHA256), git(self.entry));
        Ok(())
    }

    /// True where all of it is what was stated.
    pub fn is_right(&self) -> bool {
        self.is_full()
            && match &self.entry.stated {
                Stated::Sha256(stated) => self.sha256() == *stated,
                Stated::GitBlob(stated) => hex(self.git.clone().finish().as_ref()) == *stated,
            }
    }

    /// True where some of it is of an earlier attempt.
    pub fn was_resumed(&self) -> bool {
        self.kept > 0
    }

    /// Writes it through to the disk, and gives its SHA-256.
    pub fn finish(self) -> Result<String, HubError> {
        if !self.is_right() {
            return Err(self.differs("its content has another hash".into()));
        }
        self.file.sync_all().map_err(|source| self.failed(source))?;
        Ok(self.sha256())
    }

    /// The refusal of this file, which is deleted: nothing of it is gone on from.
    pub fn differs(&self, what: String) -> HubError {
        let _ = std::fs::remove_file(&self.path);
        HubError::Differs {
            file: self.entry.name.clone(),
            what,
        }
    }

    fn sha256(&self) -> String {
        hex(self.sha256.clone().finish().as_ref())
    }

    fn failed(&self, source: io::Error) -> HubError {
        HubError::Write {
            path: self.path.clone(),
            source,
        }
    }
}

/// Git hashes a header with the content's length before the content.
fn git(entry: &Entry) -> Context {
    let mut context = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    context.update(format!("blob {}\0", entry.bytes).as_bytes());
    context
}
