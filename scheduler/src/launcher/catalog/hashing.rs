//! Hashing the files of one model, a piece at a time, so that whoever does it can do other things in
//! between: the launcher has one thread, and a model may be of many gigabytes.
//!
//! A file is opened once, without following a link, and what the kernel says about it before and after
//! it was read has to be the same.

use super::{Fault, open_inside};
use crate::models::{File as Listed, Hasher, Manifest};
use std::{
    fs::{File, Metadata},
    io::{self, Read},
    ops::ControlFlow::{self, Break, Continue},
    os::unix::fs::MetadataExt,
};

/// What makes a file the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub fn of(meta: &Metadata) -> Identity {
        Identity {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The hashing of one model's files.
#[derive(Debug)]
pub struct Hashing {
    manifest: Manifest,
    /// Of the files that are done.
    found: Vec<Identity>,
    /// The file that is being read.
    reading: Option<Reading>,
    /// Bytes of all files that were read.
    done_bytes: u64,
    total_bytes: u64,
}

#[derive(Debug)]
struct Reading {
    file: File,
    before: Identity,
    hasher: Hasher,
}

/// What came of it: the manifest, and its files' identities in its order, or the first fault.
pub type Hashed = (Manifest, Result<Vec<Identity>, Fault>);

impl Hashing {
    pub fn new(manifest: Manifest) -> Hashing {
        Hashing {
            total_bytes: manifest.bytes(),
            manifest,
            found: Vec::new(),
            reading: None,
            done_bytes: 0,
        }
    }

    /// The model's name, bytes read and bytes that there are.
    pub fn progress(&self) -> (&str, u64, u64) {
        (&self.manifest.name, self.done_bytes, self.total_bytes)
    }

    /// Goes on until all is done, or about `bytes_max` more were read: then it comes back as it is.
    pub fn advance(mut self, bytes_max: u64) -> ControlFlow<Hashed, Hashing> {
        let until = self.done_bytes.saturating_add(bytes_max);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let Some(file) = self.manifest.files.get(self.found.len()).cloned() else {
                return Break((self.manifest, Ok(self.found)));
            };
            if self.done_bytes >= until {
                return Continue(self);
            }
            match self.read_on(&file, &mut buffer) {
                Ok(Some(identity)) => self.found.push(identity),
                Ok(None) => {}
                Err(fault) => return Break((self.manifest, Err(fault))),
            }
        }
    }

    /// Reads one buffer of a file; at its end, what it is.
    fn read_on(&mut self, file: &Listed, buffer: &mut [u8]) -> Result<Option<Identity>, Fault> {
        let model = self.manifest.name.clone();
        let fault = |what: String, found: String| Fault {
            model: model.clone(),
            file: file.name.clone(),
            what,
            found,
        };
        let unreadable = |e: io::Error| fault(format!("cannot be read: {e}"), String::new());
        let mut reading = match self.reading.take() {
            Some(reading) => reading,
            None => {
                let opened = open_inside(&self.manifest.dir, &file.name);
                let (file, before) = opened.map_err(unreadable)?;
                let hasher = Hasher::default();
                Reading {
                    file,
                    before,
                    hasher,
                }
            }
        };
        match reading.file.read(buffer) {
            Ok(0) => {}
            Ok(read) => {
                reading.hasher.update(&buffer[..read]);
                self.done_bytes = self.done_bytes.saturating_add(read as u64);
                self.reading = Some(reading);
                return Ok(None);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.reading = Some(reading);
                return Ok(None);
            }
            Err(e) => return Err(unreadable(e)),
        }
        let found = reading.hasher.finish();
        let after = Identity::of(&reading.file.metadata().map_err(unreadable)?);
        if reading.before != after {
            return Err(fault("changed while it was read".into(), found));
        }
        if found != file.sha256 {
            let what = "is not the file that was installed: its SHA-256 is another; install the \
                        model again, and have the server take it with `bulkhead models reload`";
            return Err(fault(what.into(), found));
        }
        Ok(Some(after))
    }
}
