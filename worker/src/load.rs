//! Load: the first frame, the model's files from their descriptors, their hashes.
//!
//! The launcher opened and hashed the files; the worker hashes what it really read, so that what is
//! served is what was promised even if a file changed in between. No path is ever opened here.

use crate::models::{self, On};
use crate::process::{self, FILE_FD_MIN, STACK_BYTES, take_file};
use aws_lc_rs::digest;
use bulkhead_proto::internal::{Load, ModelFile, Progress, Refused};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::RawFd;
use std::thread;

/// Model files that one worker takes.
pub const FILES_MAX: usize = 64;

/// What a process that loads is doing, for operators: reading files and hashing them, and making of
/// them what is computed with.
const READING: &str = "reading";
pub const PACKING: &str = "packing";

/// Read and hashed at a time, bytes: less than a processor's cache.
const PIECE_BYTES: u64 = 1 << 20;

/// Why a model could not be loaded. All of these are the operator's or the installation's fault.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The list itself is wrong.
    #[error("the list of model files is wrong: {0}")]
    List(&'static str),
    /// A file could not be read.
    #[error("the model's file {name} could not be read: {source}")]
    Read {
        /// The file's name.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not the one that was promised.
    #[error(
        "the model's file {name} has SHA-256 {found}, not {promised}: it was changed or cut short; \
         fetch the model again"
    )]
    Hash {
        /// The file's name.
        name: String,
        /// Hex.
        found: String,
        /// Hex.
        promised: String,
    },
}

/// Why there is no model in memory.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The installation's fault.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The model's fault, or that of a version that does not know its kind.
    #[error("the model could not be opened: {0}")]
    Model(#[from] models::LoadError),
    /// The machine has no room for a thread.
    #[error("no thread could be started: {0}")]
    Thread(io::Error),
}

impl FileError {
    /// What to say of it. A file that cannot be read may be readable again, and memory free again.
    pub fn refusal(&self) -> Refused {
        let (file, found_sha256) = match self {
            FileError::Hash { name, found, .. } => (name.clone(), found.clone()),
            FileError::List(_) | FileError::Read { .. } => Default::default(),
        };
        Refused {
            reason: self.to_string(),
            permanent: !matches!(self, FileError::Read { .. }),
            file,
            found_sha256,
        }
    }
}

impl ModelError {
    /// What to say of it.
    pub fn refusal(&self) -> Refused {
        let permanent = match self {
            ModelError::Files(error) => return error.refusal(),
            ModelError::Model(error) => error.permanent(),
            ModelError::Thread(_) => false,
        };
        Refused {
            reason: self.to_string(),
            permanent,
            ..Refused::default()
        }
    }
}

/// Reads and packs a model, at low priority. That takes a thread, since a priority that was lowered
/// cannot be raised again; it has ended when this returns, and the process has as many as before.
/// `tell` hears how far it has come, a hundred times or so.
pub fn apart(
    load: &Load,
    on: On,
    mut tell: impl FnMut(Progress) + Send,
) -> Result<models::Loaded, ModelError> {
    let work = || -> Result<_, ModelError> {
        process::lower_priority();
        let files = read_files(load, &mut tell)?;
        tell(Progress {
            phase: PACKING.to_owned(),
            ..Progress::default()
        });
        Ok(models::load(load, on, files)?)
    };
    let loader = thread::Builder::new().name("loader".to_owned());
    let loader = loader.stack_size(STACK_BYTES);
    thread::scope(|scope| {
        let loading = loader.spawn_scoped(scope, work);
        let loaded = loading.map_err(ModelError::Thread)?.join();
        loaded.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A model's file, read and checked.
#[derive(Debug)]
pub struct FileBytes {
    /// Its name inside the model's folder.
    pub name: String,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// The descriptors that a load needs, checked: each from 4 on, and each named once.
pub fn descriptors(load: &Load) -> Result<Vec<RawFd>, FileError> {
    if load.files.len() > FILES_MAX {
        return Err(FileError::List("there are more than 64"));
    }
    let shared = load.shared_weights.iter();
    let shared = shared.flat_map(|shared| [shared.table_fd, shared.memory_fd]);
    let all: Vec<RawFd> = load
        .files
        .iter()
        .map(|file| file.fd)
        .chain(shared)
        .collect();
    let unique: BTreeSet<RawFd> = all.iter().copied().collect();
    if unique.len() != all.len() {
        return Err(FileError::List("two have the same descriptor"));
    }
    if unique.first().is_some_and(|fd| *fd < FILE_FD_MIN) {
        return Err(FileError::List("a descriptor is below 4"));
    }
    Ok(unique.into_iter().collect())
}

/// Reads, checks and closes every file of a load whose [`descriptors`] were found good. `tell` hears
/// how far that has come.
pub fn read_files(
    load: &Load,
    tell: &mut dyn FnMut(Progress),
) -> Result<Vec<FileBytes>, FileError> {
    let open = |file: &ModelFile| {
        let opened = take_file(file.fd).and_then(|open| Ok((open.metadata()?.len(), open)));
        opened.map_err(|source| unread(file, source))
    };
    let opened: Vec<(u64, File)> = load.files.iter().map(open).collect::<Result<_, _>>()?;
    let lengths = opened.iter().map(|(length, _)| *length);
    let mut meter = Meter {
        done: 0,
        total: lengths.fold(0, u64::saturating_add),
        told: None,
        tell,
    };
    (load.files.iter().zip(opened))
        .map(|(file, (length, open))| read_file(file, open, length, &mut meter))
        .collect()
}

/// Bytes that were read of all that there are, told at each hundredth.
struct Meter<'a> {
    done: u64,
    total: u64,
    told: Option<u64>,
    tell: &'a mut dyn FnMut(Progress),
}

impl Meter<'_> {
    fn read(&mut self, bytes: usize) {
        self.done = self.done.saturating_add(bytes as u64);
        let hundredths = self.done.saturating_mul(100).checked_div(self.total);
        if self.told != hundredths {
            self.told = hundredths;
            (self.tell)(Progress {
                phase: READING.to_owned(),
                done_bytes: self.done,
                total_bytes: self.total,
            });
        }
    }
}

fn unread(file: &ModelFile, source: io::Error) -> FileError {
    FileError::Read {
        name: file.name.clone(),
        source,
    }
}

fn read_file(
    file: &ModelFile,
    open: File,
    length: u64,
    meter: &mut Meter<'_>,
) -> Result<FileBytes, FileError> {
    let (bytes, found) = read_all(open, length, meter).map_err(|source| unread(file, source))?;
    if !found.eq_ignore_ascii_case(&file.sha256) {
        let promised = file.sha256.clone();
        return Err(FileError::Hash {
            name: file.name.clone(),
            found,
            promised,
        });
    }
    Ok(FileBytes {
        name: file.name.clone(),
        bytes,
    })
}

/// The whole file and its hash, in hex. In one allocation, however large it is: growing would copy it.
/// Each piece is hashed while it is still in the processor's cache.
fn read_all(file: File, length: u64, meter: &mut Meter<'_>) -> io::Result<(Vec<u8>, String)> {
    let length =
        usize::try_from(length).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let mut bytes = Vec::new();
    bytes
        .try_reserve_exact(length)
        .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
    let mut hash = digest::Context::new(&digest::SHA256);
    loop {
        let before = bytes.len();
        let read = (&file).take(PIECE_BYTES).read_to_end(&mut bytes)?;
        if read == 0 {
            return Ok((bytes, hex(hash.finish().as_ref())));
        }
        hash.update(&bytes[before..]);
        meter.read(read);
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::fcntl::{FcntlArg, fcntl};
    use std::io::{Seek, Write};

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn file(fd: RawFd, sha256: &str) -> ModelFile {
        ModelFile {
            name: "weights".to_owned(),
            fd,
            sha256: sha256.to_owned(),
        }
    }

    fn abc() -> RawFd {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(b"abc").expect("room");
        file.rewind().expect("a file");
        // High enough not to be one of those that have owners.
        fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(10)).expect("a free descriptor")
    }

    #[test]
    fn a_file_with_the_promised_hash_is_taken_and_another_is_not() {
        let good = Load {
            files: vec![file(abc(), ABC)],
            ..Load::default()
        };
        let mut heard = Vec::new();
        let read = read_files(&good, &mut |progress| heard.push(progress));
        assert_eq!(read.expect("as promised")[0].bytes, b"abc");
        let last = heard.pop().expect("it was told");
        assert_eq!((last.done_bytes, last.total_bytes), (3, 3));
        let bad = Load {
            files: vec![file(abc(), &"0".repeat(64))],
            ..Load::default()
        };
        let error = read_files(&bad, &mut |_| {});
        let error = error.expect_err("not as promised").to_string();
        assert!(
            error.contains(ABC) && error.contains("fetch the model again"),
            "{error}"
        );
    }

    #[test]
    fn however_large_the_files_progress_is_told_about_a_hundred_times() {
        let mut heard = 0;
        let mut tell = |_| heard += 1;
        let mut meter = Meter {
            done: 0,
            total: 1 << 40,
            told: None,
            tell: &mut tell,
        };
        for _ in 0..1 << 20 {
            meter.read(1 << 20);
        }
        // Of an empty model there is nothing to tell.
        assert_eq!(heard, 101);
    }

    #[test]
    fn what_another_hash_means_is_said_in_full_and_a_failed_read_is_not_for_good() {
        let read = |file| {
            let files = vec![file];
            let load = Load {
                files,
                ..Load::default()
            };
            read_files(&load, &mut |_| {}).expect_err("not as promised")
        };
        let refused = ModelError::from(read(file(abc(), &"0".repeat(64)))).refusal();
        assert!(refused.permanent && refused.reason.contains("SHA-256"));
        let named = (refused.file.as_str(), refused.found_sha256.as_str());
        assert_eq!(named, ("weights", ABC));
        let refused = read(file(500, ABC)).refusal();
        assert!(!refused.permanent && refused.file.is_empty(), "{refused:?}");
        let thread = ModelError::Thread(io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(!thread.refusal().permanent);
    }

    #[test]
    fn lists_that_would_share_or_steal_a_descriptor_are_refused() {
        for fds in [vec![3], vec![7, 7], vec![0], (4..100).collect()] {
            let files = fds.into_iter().map(|fd| file(fd, ABC)).collect();
            assert!(
                descriptors(&Load {
                    files,
                    ..Load::default()
                })
                .is_err()
            );
        }
        let files = vec![file(9, ABC), file(4, ABC)];
        assert_eq!(
            descriptors(&Load {
                files,
                ..Load::default()
            })
            .expect("good"),
            [4, 9]
        );
    }
}
