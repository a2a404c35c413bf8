//! The issuer's private keys: one file each, beside the database and not in it.
//!
//! A backup or a leak of the database then gives nobody the power to make tokens. A file is readable
//! by its owner alone, and one that others can read is refused, as ssh does. It is written whole, once,
//! and on the disk before the database names its key; a crash in between leaves a file that the next
//! start adopts.

use crate::IdentityError;
use crate::key::PrivateKey;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest key file that is read, bytes. PKCS#8 of an Ed25519 key takes 48 (version 1) or 83.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// Where the key of this epoch lies, for a database at `database`.
pub(crate) fn path(database: &Path, epoch: u64) -> PathBuf {
    let folder = database.parent().unwrap_or_else(|| Path::new("."));
    folder.join(format!("issuer-{epoch}.pk8"))
}

/// Reads a key; `None` where there is no file.
pub(crate) fn read(path: &Path) -> Result<Option<PrivateKey>, IdentityError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(problem(path, format!("cannot be opened: {error}"))),
    };
    let metadata = file
        .metadata()
        .map_err(|e| problem(path, format!("cannot be read: {e}")))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(problem(
            path,
            "can be read by others; `chmod 600` it, if nobody did".into(),
        ));
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(KEY_FILE_BYTES_MAX as usize + 1));
    file.take(KEY_FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| problem(path, format!("cannot be read: {e}")))?;
    let key = PrivateKey::from_pkcs8(&bytes);
    key.map(Some)
        .ok_or_else(|| problem(path, "is no Ed25519 key; restore it".into()))
}

/// Writes a key to a new file, and waits until it is on the disk.
pub(crate) fn write(path: &Path, key: &PrivateKey) -> Result<(), IdentityError> {
    let failed = |e: std::io::Error| problem(path, format!("cannot be written: {e}"));
    // Under another name first, so that a crash leaves no half key under the right one.
    let draft = path.with_extension("new");
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&draft)
        .map_err(failed)?;
    file.write_all(key.pkcs8())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    fs::rename(&draft, path).map_err(failed)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let folder = File::open(folder.unwrap_or_else(|| Path::new("."))).map_err(failed)?;
    folder.sync_all().map_err(failed)
}

/// The error of a key file.
pub(crate) fn problem(path: &Path, problem: String) -> IdentityError {
    IdentityError::KeyFile {
        path: path.display().to_string(),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(&folder.path().join("identity.db"), 1);
        assert!(read(&path).unwrap().is_none());
        let key = PrivateKey::generate().unwrap();
        write(&path, &key).unwrap();
        assert_eq!(read(&path).unwrap().unwrap().public(), key.public());
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuer-1.pk8");
        write(&path, &PrivateKey::generate().unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(read(&path), Err(IdentityError::KeyFile { .. })));
    }

    #[test]
    fn a_file_with_something_else_in_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("issuer-1.pk8");
        for bytes in [&b""[..], b"x", &[0x30; 4096]] {
            fs::write(&path, bytes).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(read(&path), Err(IdentityError::KeyFile { .. })));
        }
    }
}
