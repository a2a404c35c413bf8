//! The files for outsiders: the public key, and the latest signed checkpoint of every tree.
//!
//! They are written after what they sign is durable, never before, so a journal that has less than a
//! checkpoint says was cut.

use super::LogError;
use crate::checkpoint::{Checkpoint, log_origin, tree_name};
use crate::fsutil;
use crate::keys::Keys;
use crate::note::{NOTE_BYTES_MAX, NoteError, VerifierKey};
use crate::replay::Replay;
use aws_lc_rs::signature::Ed25519KeyPair;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The file of the signed checkpoint of the tree over all checkpoints.
pub(crate) fn checkpoint_path(log_dir: &Path) -> PathBuf {
    log_dir.join("checkpoint")
}

/// The folder of tenants' signed checkpoints.
pub(crate) fn tenants_dir(log_dir: &Path) -> PathBuf {
    log_dir.join("checkpoints")
}

/// The key under the log's name.
pub(super) fn verifier_key(keys: &Keys, log_id: &[u8; 16]) -> VerifierKey {
    VerifierKey::new(log_origin(log_id), keys.public())
}

/// Writes `public.key`, unless it is there already.
pub(super) fn public_key(log_dir: &Path, key: &VerifierKey) -> Result<(), LogError> {
    let (path, content) = (log_dir.join("public.key"), format!("{key}\n"));
    match fsutil::read_bounded(&path, NOTE_BYTES_MAX) {
        Ok(Some(found)) if found == content.as_bytes() => Ok(()),
        _ => put(&path, &content, true),
    }
}

/// Refuses a journal that has less than was signed, and keys that did not sign it.
pub(super) fn check_not_behind(
    log_dir: &Path,
    keys: &Keys,
    log_id: &[u8; 16],
    replay: &Replay,
) -> Result<(), LogError> {
    let path = checkpoint_path(log_dir);
    let wrong = |error| LogError::Checkpoint {
        path: path.clone(),
        error,
    };
    let content = fsutil::read_bounded(&path, NOTE_BYTES_MAX).map_err(|source| LogError::File {
        path: path.clone(),
        source,
    })?;
    let Some(content) = content else {
        return Ok(());
    };
    let text =
        String::from_utf8(content).map_err(|_| wrong(NoteError::Malformed("it is no text")))?;
    let signed = Checkpoint::open(&text, &verifier_key(keys, log_id)).map_err(wrong)?;
    let found = replay.global.size();
    if found < signed.size {
        return Err(LogError::RolledBack {
            signed: signed.size,
            found,
        });
    }
    Ok(())
}

/// Which files are behind what is durable.
#[derive(Default)]
pub(super) struct Published {
    /// Whether all files were written since the log was opened: a crash may have come before.
    complete: bool,
    global_size: u64,
    outdated: BTreeSet<String>,
}

impl Published {
    /// These tenants' trees have new checkpoints.
    pub fn outdated(&mut self, tenants: BTreeSet<String>) {
        self.outdated.extend(tenants);
    }

    /// Brings all files up to what is durable. May be called again after an error.
    pub fn write(
        &mut self,
        log_dir: &Path,
        key: &VerifierKey,
        signer: &Ed25519KeyPair,
        replay: &Replay,
    ) -> Result<(), LogError> {
        let dir = tenants_dir(log_dir);
        if !self.complete {
            fsutil::create_private_dir(&dir).map_err(|source| LogError::File {
                path: dir.clone(),
                source,
            })?;
            self.outdated.extend(replay.tenants.keys().cloned());
        }
        while let Some(tenant) = self.outdated.first() {
            let name = tree_name(tenant);
            let tree = &replay.tenants[tenant];
            let origin = format!("{}/{name}", key.name());
            let checkpoint = Checkpoint {
                origin,
                size: tree.size(),
                root: tree.root(),
            };
            put(&dir.join(name), &checkpoint.sign(key, signer), false)?;
            self.outdated.pop_first();
        }
        self.complete = true;
        if self.global_size != replay.global.size() {
            let (size, root) = (replay.global.size(), replay.global.root());
            let checkpoint = Checkpoint {
                origin: key.name().to_owned(),
                size,
                root,
            };
            put(
                &checkpoint_path(log_dir),
                &checkpoint.sign(key, signer),
                true,
            )?;
            self.global_size = size;
        }
        Ok(())
    }
}

fn put(path: &Path, content: &str, durable: bool) -> Result<(), LogError> {
    fsutil::replace(path, content.as_bytes(), 0o644, durable).map_err(|source| LogError::File {
        path: path.to_owned(),
        source,
    })
}
