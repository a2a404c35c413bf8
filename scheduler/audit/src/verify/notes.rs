//! The signed checkpoints that a log is compared with while it is walked.

use super::VerifyError;
use crate::checkpoint::{Checkpoint, SYSTEM, tree_name};
use crate::fsutil;
use crate::journal::Place;
use crate::log::publish::{checkpoint_path, tenants_dir};
use crate::note::{NOTE_BYTES_MAX, NoteError, VerifierKey};
use crate::replay::Replay;
use crate::tree::{Frontier, Hash};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io;
use std::path::Path;

/// A checkpoint to compare with: where it came from and its root.
struct Wanted {
    name: String,
    root: Hash,
}

/// All signed checkpoints, by the tree (its name; `""` for the tree over all) and the size.
#[derive(Default)]
pub(super) struct Notes {
    wanted: HashMap<String, BTreeMap<u64, Vec<Wanted>>>,
    /// Sizes of the log's own, by tree.
    own: HashMap<String, u64>,
}

impl Notes {
    /// Reads the log's own and the earlier ones, and checks their signatures.
    pub fn load(
        log_dir: &Path,
        key: &VerifierKey,
        earlier: &[String],
    ) -> Result<Self, VerifyError> {
        let mut notes = Notes::default();
        let path = checkpoint_path(log_dir);
        let text = read(&path)?.ok_or_else(|| VerifyError::NoCheckpoint(path.clone()))?;
        notes.add_own(&path, "", &text, key)?;
        for (tree, path) in tenant_files(log_dir)? {
            // A live log replaces these files; one that vanished is there again under its name.
            if let Some(text) = read(&path)? {
                notes.add_own(&path, &tree, &text, key)?;
            }
        }
        for (at, text) in earlier.iter().enumerate() {
            notes.add(format!("number {} of those given", at + 1), text, key)?;
        }
        Ok(notes)
    }

    /// The size of the log's own checkpoint of a tree.
    pub fn own_size(&self, tree: &str) -> Option<u64> {
        self.own.get(tree).copied()
    }

    fn add_own(
        &mut self,
        path: &Path,
        tree: &str,
        text: &str,
        key: &VerifierKey,
    ) -> Result<(), VerifyError> {
        let name = path.display().to_string();
        let (signed, size) = self.add(name.clone(), text, key)?;
        if signed != tree {
            let error = NoteError::Malformed("it is the checkpoint of another tree");
            return Err(VerifyError::Checkpoint { name, error });
        }
        self.own.insert(signed, size);
        Ok(())
    }

    fn add(
        &mut self,
        name: String,
        text: &str,
        key: &VerifierKey,
    ) -> Result<(String, u64), VerifyError> {
        let checkpoint = Checkpoint::open(text, key).map_err(|error| VerifyError::Checkpoint {
            name: name.clone(),
            error,
        })?;
        let tree = checkpoint.tenant(key).map_or("", tree_name).to_owned();
        let sizes = self.wanted.entry(tree.clone()).or_default();
        sizes.entry(checkpoint.size).or_default().push(Wanted {
            name,
            root: checkpoint.root,
        });
        Ok((tree, checkpoint.size))
    }

    /// Compares a tree that has just reached a size with the checkpoints of that size.
    pub fn compare(&mut self, replay: &Replay, tree: &str) -> Result<(), VerifyError> {
        let (Some(sizes), Some(found)) = (self.wanted.get_mut(tree), frontier(replay, tree)) else {
            return Ok(());
        };
        let size = found.size();
        for Wanted { name, root } in sizes.remove(&size).unwrap_or_default() {
            if root != found.root() {
                return Err(VerifyError::Inconsistent { name, size });
            }
        }
        Ok(())
    }

    /// What was not compared is larger than the log: it was cut. `tail`: where unreadable bytes are.
    pub fn finish(&self, replay: &Replay, tail: Option<Place>) -> Result<(), VerifyError> {
        let tail = tail
            .map(|place| format!("; the bytes at {place} cannot be read"))
            .unwrap_or_default();
        // The tree over all first: its checkpoint is the log's own statement of how long it is.
        let mut trees: Vec<_> = self.wanted.iter().collect();
        trees.sort_by_key(|(tree, _)| tree.as_str());
        for (tree, sizes) in trees {
            if let Some((&size, wanted)) = sizes.last_key_value() {
                let found = frontier(replay, tree).map_or(0, Frontier::size);
                let name = wanted[0].name.clone();
                return Err(VerifyError::Truncated {
                    name,
                    size,
                    found,
                    tail,
                });
            }
        }
        Ok(())
    }
}

fn frontier<'a>(replay: &'a Replay, tree: &str) -> Option<&'a Frontier> {
    match tree {
        "" => Some(&replay.global),
        SYSTEM => replay.tenants.get(""),
        tenant => replay.tenants.get(tenant),
    }
}

fn read(path: &Path) -> Result<Option<String>, VerifyError> {
    let content =
        fsutil::read_bounded(path, NOTE_BYTES_MAX).map_err(|source| VerifyError::Read {
            path: path.to_owned(),
            source,
        })?;
    let text = content.map(String::from_utf8).transpose();
    text.map_err(|_| VerifyError::Checkpoint {
        name: path.display().to_string(),
        error: NoteError::Malformed("it is no text"),
    })
}

fn tenant_files(log_dir: &Path) -> Result<Vec<(String, std::path::PathBuf)>, VerifyError> {
    let dir = tenants_dir(log_dir);
    let failed = |source| VerifyError::Read {
        path: dir.clone(),
        source,
    };
    let items = match fs::read_dir(&dir) {
        Ok(items) => items,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed(e)),
    };
    let mut files = Vec::new();
    for item in items {
        let item = item.map_err(failed)?;
        let name = item.file_name().to_string_lossy().into_owned();
        // A file in the making; trees' names have no dot.
        if !name.ends_with(".new") {
            files.push((name, item.path()));
        }
    }
    Ok(files)
}
