//! The models that workers may be given: opened, hashed, and recognised again.
//!
//! Every file is hashed once, at start, and remembered by what the kernel says about it (device,
//! inode, size, times). Each spawn opens the file anew, so that every worker reads from a position
//! of its own, and refuses a file that is no longer the one that was hashed. The worker hashes what
//! it reads once more. Nothing here reads a file's content beyond hashing it, follows a link, or
//! hands a tenant's own model to anybody else, whatever the scheduler asks for.

use crate::models::{Manifest, sha256};
use bulkhead_proto::internal::ModelFault;
use nix::{
    fcntl::{AT_FDCWD, OFlag, openat},
    sys::stat::Mode,
};
use std::{
    collections::BTreeMap,
    fs::{File, Metadata},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

/// Why a worker was not given its model.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// The scheduler asked for what the configuration does not have. A defect, or worse.
    #[error("no model named {0:?}")]
    Unknown(String),
    /// The scheduler asked for a model that belongs to another tenant. A defect, or worse.
    #[error("model {0:?} belongs to another tenant")]
    NotTheirs(String),
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

#[derive(Debug)]
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
                .map(|file| check(&manifest, file))
                .collect();
            if let Err(fault) = &files {
                tracing::error!("cannot be served: {fault}");
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

    /// What was wrong with models when their files were hashed.
    pub fn faults(&self) -> impl Iterator<Item = &Fault> {
        self.models.values().filter_map(|e| e.files.as_ref().err())
    }

    /// Opens the files of the model that `name` names, for a worker that will serve `tenant`.
    pub fn open(&self, name: &str, tenant: &str) -> Result<Opened<'_>, CatalogError> {
        let short = |name: &str| name.chars().take(64).collect();
        let entry = self.models.get(name);
        let entry = entry.ok_or_else(|| CatalogError::Unknown(short(name)))?;
        if !entry.manifest.is_for(tenant) {
            return Err(CatalogError::NotTheirs(short(name)));
        }
        let identities = entry.files.as_ref();
        let identities = identities.map_err(|fault| CatalogError::Fault(fault.clone()))?;
        let mut files = Vec::with_capacity(identities.len());
        for (file, identity) in entry.manifest.files.iter().zip(identities) {
            files.push(again(&entry.manifest, &file.name, identity)?.into());
        }
        Ok(Opened {
            manifest: &entry.manifest,
            digest: &entry.digest,
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
            "has changed since the server started; `bulkhead models verify` says whether it is \
             still what was installed, and a restart takes it if so",
        )),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(fault(
            "is gone; put it back, or install the model again, and restart the server",
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

/// The identity of a model's file if it hashes to what its manifest says, or what is wrong with it.
fn check(manifest: &Manifest, file: &crate::models::File) -> Result<Identity, Fault> {
    let fault = |what: String, found: String| Fault {
        model: manifest.name.clone(),
        file: file.name.clone(),
        what,
        found,
    };
    let unreadable = |e: io::Error| fault(format!("cannot be read: {e}"), String::new());
    let (mut open, before) = open_inside(&manifest.dir, &file.name).map_err(unreadable)?;
    let found = sha256(&mut open, |_| {}).map_err(unreadable)?;
    let after = Identity::of(&open.metadata().map_err(unreadable)?);
    if before != after {
        return Err(fault("changed while it was read".into(), found));
    }
    if found != file.sha256 {
        let what = "is not the file that was installed: its SHA-256 is another; install the model \
                    again, and restart the server";
        return Err(fault(what.into(), found));
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::{self, Format, Task};
    use std::io::Read;

    const TENANT: &str = "acme";

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
            let opened = catalog.open("m", TENANT).unwrap();
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
        let error = catalog.open("m", TENANT).expect_err("refused");
        let fault = error.fault().expect("a file is at fault");
        assert_eq!(
            (fault.file.as_str(), fault.found.as_str()),
            ("model.gguf", "")
        );
        assert!(error.permanent(), "{error}");

        std::fs::remove_file(dir.path().join("model.gguf")).unwrap();
        assert!(catalog.open("m", TENANT).expect_err("refused").permanent());
    }

    #[test]
    fn a_file_that_hashes_to_something_else_is_never_served() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = model(dir.path(), "weights");
        std::fs::write(dir.path().join("model.gguf"), "weight!").unwrap();
        let broken = Catalog::new(vec![manifest.clone()]);
        let error = broken.open("m", TENANT).expect_err("refused").to_string();
        assert!(error.contains("install the model again"), "{error}");

        manifest.files[0].name = "link.gguf".into();
        std::os::unix::fs::symlink("model.gguf", dir.path().join("link.gguf")).unwrap();
        assert!(
            Catalog::new(vec![manifest]).open("m", TENANT).is_err(),
            "no links"
        );
    }

    #[test]
    fn an_unknown_name_is_cut_short_in_the_answer() {
        let catalog = Catalog::default();
        let error = catalog.open(&"x".repeat(60_000), TENANT);
        let error = error.expect_err("refused");
        assert!(error.permanent() && error.to_string().len() < 100);
    }

    #[test]
    fn what_is_wrong_at_the_start_is_told_with_what_was_found() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = model(dir.path(), "weights");
        std::fs::write(dir.path().join("model.gguf"), "weight!").unwrap();
        let catalog = Catalog::new(vec![manifest]);
        let faults: Vec<_> = catalog.faults().collect();
        let found = sha256(&mut "weight!".as_bytes(), |_| {}).unwrap();
        assert_eq!((faults.len(), &faults[0].found), (1, &found));
    }

    /// Promise 3: the launcher itself gives a tenant's own model to nobody else.
    #[test]
    fn a_tenants_own_model_is_opened_for_that_tenant_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = model(dir.path(), "weights");
        manifest.owner = Some(TENANT.into());
        let catalog = Catalog::new(vec![manifest]);
        assert!(catalog.open("m", TENANT).is_ok());
        for other in ["globex", "", "ACME", "acme "] {
            let error = catalog.open("m", other).expect_err("refused");
            assert!(matches!(error, CatalogError::NotTheirs(_)) && error.permanent());
        }
    }

    #[test]
    fn a_file_in_a_folder_is_opened_and_a_folder_that_is_a_link_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut manifest = model(dir.path(), "weights");
        std::fs::create_dir(dir.path().join("1_Pooling")).unwrap();
        std::fs::rename(
            dir.path().join("model.gguf"),
            dir.path().join("1_Pooling/config.json"),
        )
        .unwrap();
        manifest.files[0].name = "1_Pooling/config.json".into();
        assert!(
            Catalog::new(vec![manifest.clone()])
                .open("m", TENANT)
                .is_ok()
        );

        std::fs::rename(dir.path().join("1_Pooling"), dir.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("1_Pooling")).unwrap();
        let linked = Catalog::new(vec![manifest]);
        assert!(linked.open("m", TENANT).is_err(), "no links");
    }
}
