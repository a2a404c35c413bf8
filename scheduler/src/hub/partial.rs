//! Where files wait until all of a model are there: `.partial/OWNER--NAME@COMMIT` beside the models.
//!
//! Hidden and without a manifest, so that nobody takes it for a model. It stays after a failure, for the
//! next attempt to go on from, and goes with success. One process at a time.

use super::HubError;
use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

/// The one place for what is not whole yet, in the models' folder.
const FOLDER: &str = ".partial";

/// One model's place, held by this process.
pub struct Partial {
    /// The models' folder.
    dir: PathBuf,
    folder: PathBuf,
    /// The folder itself, locked.
    _lock: File,
}

impl Partial {
    /// Makes or finds the place called `name` among the models in `dir`.
    pub fn open(dir: &Path, name: &str) -> Result<Partial, HubError> {
        let folder = dir.join(FOLDER).join(name);
        let failed = |source| HubError::Write {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(failed)?;
        let lock = File::open(&folder).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Partial {
                dir: dir.into(),
                folder,
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(HubError::Busy(folder)),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Bytes of `name` that are here already.
    pub fn has(&self, name: &str) -> u64 {
        fs::symlink_metadata(self.folder.join(name)).map_or(0, |meta| meta.len())
    }

    /// Refuses where `needed` more bytes have no room.
    pub fn room(&self, needed: u64) -> Result<(), HubError> {
        let stat = nix::sys::statvfs::statvfs(&self.folder).map_err(|e| HubError::Write {
            path: self.folder.clone(),
            source: e.into(),
        })?;
        let free = (stat.blocks_available() as u64).saturating_mul(stat.fragment_size() as u64);
        fits(&self.dir, needed, free)
    }

    /// Deletes all that waits in it.
    pub fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(&self.folder)
    }
}

impl Drop for Partial {
    /// No empty folder stays: both calls fail where there is something in it.
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.folder);
        let _ = self.folder.parent().map(fs::remove_dir);
    }
}

/// So much stays free for others, bytes.
const SPARE_BYTES: u64 = 256 << 20;

fn fits(dir: &Path, needed: u64, free: u64) -> Result<(), HubError> {
    match needed.saturating_add(SPARE_BYTES) <= free {
        true => Ok(()),
        false => Err(HubError::Space {
            dir: dir.into(),
            needed: needed.saturating_add(SPARE_BYTES),
            free,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_and_nothing_stays() {
        let dir = tempfile::tempdir().unwrap();
        let one = Partial::open(dir.path(), "a--b@0").unwrap();
        assert!(matches!(
            Partial::open(dir.path(), "a--b@0"),
            Err(HubError::Busy(_))
        ));
        let other = Partial::open(dir.path(), "a--b@1").unwrap();
        fs::write(one.folder().join("x"), "12345").unwrap();
        assert_eq!((one.has("x"), one.has("y")), (5, 0));
        one.remove().unwrap();
        assert!(other.folder().is_dir());
        other.remove().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_numbers() {
        let dir = Path::new("/models");
        assert!(fits(dir, 1 << 30, 2 << 30).is_ok());
        let error = fits(dir, 1 << 30, 1 << 30).unwrap_err().to_string();
        assert!(
            error.contains("1.2 GiB are needed") && error.contains("1.0 GiB are free"),
            "{error}"
        );
        assert!(fits(dir, u64::MAX, u64::MAX - 1).is_err());
    }
}
