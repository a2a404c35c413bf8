//! The log's long-lived secrets: the key that signs checkpoints and the key that wraps data keys.
//!
//! They live in a folder of their own, outside the log's, so that no backup of the log holds them.
//! The folder and its files belong to the audit process's user alone; looser permissions are refused.

use crate::fsutil;
use aws_lc_rs::aead::{AES_256_GCM, LessSafeKey, UnboundKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

const SIGNING: &str = "signing.key";
const WRAPPING: &str = "wrapping.key";
const SECRET_BYTES: usize = 32;

/// Why the keys cannot be used. The operator has to act; a retry alone does not help.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A file could not be read or written.
    #[error("key file {path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// One of the two keys is gone. A new one in its place would not fit the log.
    #[error("{0} is missing while its companion is there: restore it from where you keep the keys")]
    Missing(PathBuf),
    /// The file is no key.
    #[error("{0} is not a key of 32 bytes: restore it from where you keep the keys")]
    Malformed(PathBuf),
    /// Others may read it.
    #[error("{path} has mode {mode:03o}: others can reach it. Run: chmod {want:03o} {path}")]
    Exposed {
        /// The file or folder.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// The mode that it should have.
        want: u32,
    },
    /// The cryptographic library refused; out of memory or entropy.
    #[error("the cryptographic library failed")]
    Crypto,
}

/// The secrets of one log.
pub struct Keys {
    pub(crate) signer: Ed25519KeyPair,
    pub(crate) wrapping: LessSafeKey,
}

impl Keys {
    /// The raw Ed25519 public key.
    pub fn public(&self) -> [u8; 32] {
        self.signer
            .public_key()
            .as_ref()
            .try_into()
            .expect("an Ed25519 public key has 32 bytes")
    }
}

/// Loads the keys of a folder; makes folder and keys first if there are none at all.
pub fn init(dir: &Path) -> Result<Keys, KeyError> {
    let at = |source| KeyError::Io {
        path: dir.to_owned(),
        source,
    };
    fsutil::create_private_dir(dir).map_err(at)?;
    if !dir.join(SIGNING).exists() && !dir.join(WRAPPING).exists() {
        for name in [WRAPPING, SIGNING] {
            fsutil::replace(&dir.join(name), random()?.as_ref(), 0o600, true).map_err(at)?;
        }
    }
    load(dir)
}

/// Loads the keys of a folder.
pub fn load(dir: &Path) -> Result<Keys, KeyError> {
    private(dir, 0o700)?;
    let signing = secret(&dir.join(SIGNING))?;
    let wrapping = secret(&dir.join(WRAPPING))?;
    Ok(Keys {
        signer: Ed25519KeyPair::from_seed_unchecked(signing.as_ref())
            .map_err(|_| KeyError::Malformed(dir.join(SIGNING)))?,
        wrapping: aead_key(&wrapping)?,
    })
}

/// An AES-256-GCM key of these bytes.
pub(crate) fn aead_key(secret: &[u8; SECRET_BYTES]) -> Result<LessSafeKey, KeyError> {
    UnboundKey::new(&AES_256_GCM, secret)
        .map(LessSafeKey::new)
        .map_err(|_| KeyError::Crypto)
}

/// A fresh secret.
pub(crate) fn random() -> Result<Zeroizing<[u8; SECRET_BYTES]>, KeyError> {
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    aws_lc_rs::rand::fill(secret.as_mut()).map_err(|_| KeyError::Crypto)?;
    Ok(secret)
}

fn secret(path: &Path) -> Result<Zeroizing<[u8; SECRET_BYTES]>, KeyError> {
    let content = fsutil::read_bounded(path, SECRET_BYTES as u64)
        .map_err(|source| KeyError::Io {
            path: path.to_owned(),
            source,
        })?
        .map(Zeroizing::new)
        .ok_or_else(|| KeyError::Missing(path.to_owned()))?;
    private(path, 0o600)?;
    let mut secret = Zeroizing::new([0; SECRET_BYTES]);
    if content.len() != SECRET_BYTES {
        return Err(KeyError::Malformed(path.to_owned()));
    }
    secret.copy_from_slice(&content);
    Ok(secret)
}

fn private(path: &Path, want: u32) -> Result<(), KeyError> {
    let found = fs::metadata(path).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })?;
    let mode = found.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed {
            path: path.to_owned(),
            mode,
            want,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_made_once_and_private() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("deep/keys");
        let first = init(&dir).unwrap().public();
        assert_eq!(init(&dir).unwrap().public(), first);
        for (path, mode) in [
            (dir.clone(), 0o700),
            (dir.join(SIGNING), 0o600),
            (dir.join(WRAPPING), 0o600),
        ] {
            assert_eq!(
                fs::metadata(path).unwrap().permissions().mode() & 0o777,
                mode
            );
        }
    }

    #[test]
    fn exposed_missing_and_broken_keys_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("keys");
        init(&dir).unwrap();
        fs::set_permissions(dir.join(SIGNING), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(load(&dir), Err(KeyError::Exposed { .. })));
        fs::set_permissions(dir.join(SIGNING), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(dir.join(WRAPPING), b"short").unwrap();
        assert!(matches!(init(&dir), Err(KeyError::Malformed(_))));
        fs::remove_file(dir.join(WRAPPING)).unwrap();
        assert!(matches!(init(&dir), Err(KeyError::Missing(_))));
    }
}
