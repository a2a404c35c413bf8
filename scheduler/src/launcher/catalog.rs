//! The models that workers may be given: opened, hashed, and recognised again.
//!
//! Every file is hashed once, at start, and remembered by what the kernel says about it (device,
//! inode, size, times). Each spawn opens the file anew, so that every worker reads from a position
//! of its own, and refuses a file that is no longer the one that was hashed. The worker hashes what
//! it reads once more. Nothing here reads a file's content beyond hashing it.

use crate::models::{Manifest, sha256};
use nix::{
    fcntl::{OFlag, open},
    sys::stat::Mode,
};
use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
};

/// Why a worker was not given its model.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The scheduler asked for what the configuration does not have. A defect, or worse.
    #[error("no model named {0:?}")]
    Unknown(String),
    /// A file was not what its manifest says when the server started. The operator's to mend.
    #[error("{0}")]
    Broken(String),
    /// A file is not the one that was hashed when the server started.
    #[error("{0} has changed since the server started; restart the server to take the new file")]
    Changed(PathBuf),
    /// A file could not be opened.
    #[error("cannot open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
}

impl CatalogError {
    /// False where trying again may help: the machine, not the model, was short of something.
    pub fn permanent(&self) -> bool {
        match self {
            CatalogError::Open { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => true,
        }
    }
}

/// All models, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    manifest: Manifest,
    digest: String,
    /// In the manifest's order; or what is wrong with them.
    files: Result<Vec<Identity>, String>,
}

/// A model whose files are open for one worker.
pub struct Opened<'a> {
    pub manifest: &'a Manifest,
    pub digest: &'a str,
    /// In the manifest's order, at offset 0.
    pub files: Vec<OwnedFd>,
}

/// What makes a file the same file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    fn of(meta: &Metadata) -> Identity {
        Identity {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Catalog {
    /// Hashes every file of every model. One that is not as its manifest says is refused when it is
    /// asked for, and does not keep the others from serving.
    pub fn new(manifests: Vec<Manifest>) -> Catalog {
        let entry = |manifest: Manifest| {
            let files: Result<Vec<_>, _> = (manifest.files.iter())
                .map(|f| check(&manifest.dir.join(&f.name), &f.sha256))
                .collect();
            if let Err(what) = &files {
                tracing::error!(model = manifest.name, "model cannot be served: {what}");
            }
            let digest = manifest.digest();
            (
                manifest.name.clone(),
                Entry {
                    manifest,
                    digest,
                    files,
                },
            )
        };
        Catalog {
            models: manifests.into_iter().map(entry).collect(),
        }
    }

    /// Opens the files of the model that `name` names, for one worker.
    pub fn open(&self, name: &str) -> Result<Opened<'_>, CatalogError> {
        let unknown = || CatalogError::Unknown(name.chars().take(64).collect());
        let entry = self.models.get(name).ok_or_else(unknown)?;
        let identities =
            (entry.files.as_ref()).map_err(|what| CatalogError::Broken(what.clone()))?;
        let mut files = Vec::with_capacity(identities.len());
        for (file, identity) in entry.manifest.files.iter().zip(identities) {
            let path = entry.manifest.dir.join(&file.name);
            let opened = open_plain(&path);
            let (file, now) = opened.map_err(|source| CatalogError::Open {
                path: path.clone(),
                source,
            })?;
            if now != *identity {
                return Err(CatalogError::Changed(path));
            }
            files.push(file.into());
        }
        Ok(Opened {
            manifest: &entry.manifest,
            digest: &entry.digest,
            files,
        })
    }
}

/// Opens a regular file for reading, following no link in its last part and waiting for nobody.
fn open_plain(path: &Path) -> io::Result<(File, Identity)> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let file = File::from(open(path, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        ));
    }
    let identity = Identity::of(&meta);
    Ok((file, identity))
}

/// The identity of a file whose hash is `expected`, or what is wrong with it.
fn check(path: &Path, expected: &str) -> Result<Identity, String> {
    let say = |e: io::Error| format!("cannot read {}: {e}", path.display());
    let (mut file, before) = open_plain(path).map_err(say)?;
    let found = sha256(&mut file, |_| {}).map_err(say)?;
    let after = Identity::of(&file.metadata().map_err(say)?);
    if before != after {
        return Err(format!("{} changed while it was read", path.display()));
    }
    if found != expected {
        return Err(format!(
            "{} has SHA-256 {found}, and its manifest says {expected}; fetch the model again",
            path.display()
        ));
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{self, Format, Task};
    use std::io::Read;

    fn model(dir: &Path, content: &str) -> Manifest {
        std::fs::write(dir.join("model.gguf"), content).unwrap();
        Manifest {
            name: "m".into(),
            format: Format::Gguf,
            task: Task::Generate,
            owner: None,
            source: None,
            files: vec![models::File {
                name: "model.gguf".into(),
                sha256: sha256(&mut content.as_bytes(), |_| {}).unwrap(),
            }],
            dir: dir.into(),
        }
    }

    #[test]
    fn each_opening_reads_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(vec![model(dir.path(), "weights")]);
        for _ in 0..2 {
            let opened = catalog.open("m").unwrap();
            let mut text = String::new();
            let mut file = File::from(opened.files.into_iter().next().unwrap());
            file.read_to_string(&mut text).unwrap();
            assert_eq!(text, "weights");
        }
    }

    #[test]
    fn a_changed_file_is_named_and_final() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = Catalog::new(vec![model(dir.path(), "weights")]);
        std::fs::write(dir.path().join("other"), "weightS").unwrap();
        std::fs::rename(dir.path().join("other"), dir.path().join("model.gguf")).unwrap();
        let error = catalog.open("m").err().expect("refused");
        assert!(matches!(error, CatalogError::Changed(_)), "{error}");
        assert!(error.to_string().contains("model.gguf") && error.permanent());

        std::fs::remove_file(dir.path().join("model.gguf")).unwrap();
        assert!(catalog.open("m").err().expect("refused").permanent());
    }

    #[test]
    fn a_file_that_hashes_to_something_else_is_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = model(dir.path(), "weights");
        std::fs::write(dir.path().join("model.gguf"), "weight!").unwrap();
        let broken = Catalog::new(vec![manifest.clone()]);
        let error = broken.open("m").err().expect("refused").to_string();
        assert!(error.contains("fetch the model again"), "{error}");

        manifest.files[0].name = "link.gguf".into();
        std::os::unix::fs::symlink("model.gguf", dir.path().join("link.gguf")).unwrap();
        assert!(Catalog::new(vec![manifest]).open("m").is_err(), "no links");
    }

    #[test]
    fn an_unknown_name_is_cut_short_in_the_answer() {
        let catalog = Catalog::default();
        let error = catalog.open(&"x".repeat(60_000));
        let error = error.err().expect("refused");
        assert!(error.permanent() && error.to_string().len() < 100);
    }
}
