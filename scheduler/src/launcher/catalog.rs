//! The models that workers may be given: opened, hashed, and recognised again.
//!
//! Every file is hashed once, at start or when the folder is read again, and remembered by what the
//! kernel says about it (device, inode, size, times). Each spawn opens the file anew, so that every
//! worker reads from a position of its own, and refuses a file that is no longer the one that was
//! hashed. The worker hashes what it reads once more. Nothing here reads a file's content beyond
//! hashing it, follows a link, or hands a tenant's own model to anybody else, whatever the scheduler
//! asks for.

use crate::models::Manifest;
use bulkhead_proto::internal::{ModelFault, OfferedModel};
use hashing::Identity;
use nix::{
    fcntl::{AT_FDCWD, OFlag, openat},
    sys::stat::Mode,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io,
    ops::ControlFlow,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

mod hashing;
mod reload;

pub use reload::Reload;

/// Why a worker was not given its model.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The scheduler asked for what the configuration does not have. A defect, or worse.
    #[error("no model named {0:?}")]
    Unknown(String),
    /// The scheduler asked for a model that belongs to another tenant. A defect, or worse.
    #[error("model {0:?} belongs to another tenant")]
    NotTheirs(String),
    /// Nobody holds models for others to share. The operator's choice.
    #[error(
        "worker.share_weights is off, so each worker loads the model for itself: there is nothing to \
         load ahead"
    )]
    NotShared,
    /// A file is not the one that its manifest promises. The operator's to mend.
    #[error("{0}")]
    Fault(Fault),
    /// A file could not be opened. The machine may be short of something: trying again may help.
    #[error("cannot open {file}: {source}")]
    Open { file: String, source: io::Error },
}

/// What is wrong with a model's file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("model {model}: {file} {what}")]
pub struct Fault {
    pub model: String,
    /// Its name inside the model's folder.
    pub file: String,
    /// What is wrong, and what to do.
    pub what: String,
    /// What it hashes to; empty where it was not read again.
    pub found: String,
}

impl CatalogError {
    /// False where trying again may help: the machine, not the model, was short of something.
    pub fn permanent(&self) -> bool {
        !matches!(self, CatalogError::Open { .. })
    }

    /// The file that is at fault, where one is.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            CatalogError::Fault(fault) => Some(fault),
            _ => None,
        }
    }
}

impl From<&Fault> for ModelFault {
    fn from(fault: &Fault) -> ModelFault {
        ModelFault {
            model: fault.model.clone(),
            file: fault.file.clone(),
            what: fault.what.clone(),
            found_sha256: fault.found.clone(),
        }
    }
}

/// All models, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    models: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    manifest: Manifest,
    digest: String,
    /// In the manifest's order; or what is wrong with the first that is wrong.
    files: Result<Vec<Identity>, Fault>,
}

/// A model whose files are open for one worker.
#[derive(Debug)]
pub struct Opened<'a> {
    pub manifest: &'a Manifest,
    pub digest: &'a str,
    /// In the manifest's order, at offset 0.
    pub files: Vec<OwnedFd>,
}

impl Catalog {
    /// Hashes every file of every model. One that is not as its manifest says is refused when it is
    /// asked for, and does not keep the others from serving.
    pub fn new(manifests: Vec<Manifest>) -> Catalog {
        let mut reload = Reload::new(manifests, &Catalog::default());
        loop {
            match reload.advance(u64::MAX) {
                ControlFlow::Break(catalog) => return catalog,
                ControlFlow::Continue(unfinished) => reload = unfinished,
            }
        }
    }

    /// What the scheduler is told of each model.
    pub fn offered(&self) -> Vec<OfferedModel> {
        let offered = |entry: &Entry| OfferedModel {
            name: entry.manifest.name.clone(),
            format: entry.manifest.format.to_string(),
            task: entry.manifest.task.to_string(),
            owner: entry.manifest.owner.clone().unwrap_or_default(),
            sha256: entry.digest.clone(),
            refused: entry.files.is_err(),
            weights_bytes: entry.manifest.weights_bytes.unwrap_or(0),
        };
        self.models.values().map(offered).collect()
    }

    /// The digest of a model, if there is one of this name.
    pub fn digest(&self, name: &str) -> Option<&str> {
        self.models.get(name).map(|entry| entry.digest.as_str())
    }

    /// What was wrong with models when their files were hashed.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.models.values().filter_map(|e| e.files.as_ref().err())
    }

    /// Opens the files of the model that `name` names, for a worker that will serve `tenant`.
    pub fn open(&self, name: &str, tenant: &str) -> Result<Opened<'_>, CatalogError> {
        let entry = self.entry(name)?;
        if !entry.manifest.is_for(tenant) {
            return Err(CatalogError::NotTheirs(short(name)));
        }
        entry.open()
    }

    /// Opens the files of the model that `name` names, for a process that serves nobody.
    pub fn open_for_nobody(&self, name: &str) -> Result<Opened<'_>, CatalogError> {
        self.entry(name)?.open()
    }

    fn entry(&self, name: &str) -> Result<&Entry, CatalogError> {
        let entry = self.models.get(name);
        entry.ok_or_else(|| CatalogError::Unknown(short(name)))
    }
}

/// As much of a name as an error repeats.
fn short(name: &str) -> String {
    name.chars().take(64).collect()
}

impl Entry {
    fn open(&self) -> Result<Opened<'_>, CatalogError> {
        let identities = self.files.as_ref();
        let identities = identities.map_err(|fault| CatalogError::Fault(fault.clone()))?;
        let mut files = Vec::with_capacity(identities.len());
        for (file, identity) in self.manifest.files.iter().zip(identities) {
            files.push(again(&self.manifest, &file.name, identity)?.into());
        }
        Ok(Opened {
            manifest: &self.manifest,
            digest: &self.digest,
            files,
        })
    }
}

/// Opens a file that was hashed before, if it is still the same.
fn again(manifest: &Manifest, name: &str, identity: &Identity) -> Result<File, CatalogError> {
    let fault = |what: &str| {
        CatalogError::Fault(Fault {
            model: manifest.name.clone(),
            file: name.into(),
            what: what.into(),
            found: String::new(),
        })
    };
    match open_inside(&manifest.dir, name) {
        Ok((file, now)) if now == *identity => Ok(file),
        Ok(_) => Err(fault(
            "has changed since it was hashed; `bulkhead models verify` says whether it is still what \
             was installed, and `bulkhead models reload` takes it if so",
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(fault(
            "is gone; put it back, or install the model again, and run `bulkhead models reload`",
        )),
        Err(source) => Err(CatalogError::Open {
            file: name.into(),
            source,
        }),
    }
}

/// Opens a regular file of a model's folder for reading, waiting for nobody. No component of `name`
/// may be a link: each folder is opened by itself, and what follows is looked for in it alone.
fn open_inside(dir: &Path, name: &str) -> io::Result<(File, Identity)> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let folder = OFlag::O_PATH | OFlag::O_DIRECTORY | flags;
    // The models' own folder is the operator's: it may well be reached by a link.
    let mut at = openat(AT_FDCWD, dir, folder & !OFlag::O_NOFOLLOW, Mode::empty())?;
    let mut rest = name;
    while let Some((part, behind)) = rest.split_once('/') {
        at = openat(at.as_fd(), part, folder, Mode::empty())?;
        rest = behind;
    }
    let file = openat(at.as_fd(), rest, OFlag::O_RDONLY | flags, Mode::empty())?;
    let file = File::from(file);
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

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
