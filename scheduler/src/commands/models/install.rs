//! The last steps of adding a model: its files and its manifest in a hidden folder beside the models, and
//! one rename that puts it in its place.
//!
//! Files are hashed as they are copied, so that the manifest speaks of what lies here and not of what lay
//! elsewhere. Those that were hashed as they arrived are moved.

use super::{
    add::{AddError, Added},
    progress,
};
use crate::models::{File, Format, MANIFEST, Manifest, cost::Cost, families::Family, sha256};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// What to install.
pub struct Plan {
    pub parts: Vec<Part>,
    pub format: Format,
    pub family: Family,
    pub cost: Cost,
}

/// One file of a model.
pub struct Part {
    /// Where it is.
    pub from: PathBuf,
    /// What it is called in the model.
    pub to: String,
    /// Its SHA-256 where it is moved; none where it is copied.
    pub moved: Option<String>,
}

impl Part {
    /// A file that stays where it is.
    pub fn copied(from: PathBuf, to: &str) -> Part {
        Part {
            from,
            to: to.into(),
            moved: None,
        }
    }
}

/// Puts the plan's model into `dir`. `source` says where it came from.
pub fn install(
    dir: &Path,
    name: String,
    owner: Option<&str>,
    source: Option<String>,
    plan: Plan,
) -> Result<Added, AddError> {
    let (work, target) = (
        dir.join(format!(".{name}.{}", std::process::id())),
        dir.join(&name),
    );
    let manifest = Manifest {
        name: name.clone(),
        format: plan.format,
        task: plan.family.task(),
        owner: owner.map(String::from),
        source,
        weights_bytes: Some(plan.cost.weights_bytes),
        files: Vec::new(),
        dir: PathBuf::new(),
    };
    let installed = whole(&plan.parts, manifest, &work, &target);
    let _ = fs::remove_dir_all(&work);
    installed?;
    Ok(Added {
        family: plan.family.name(),
        task: plan.family.task(),
        format: plan.format,
        owner: owner.map(String::from),
        dir: target,
        cost: plan.cost,
        name,
    })
}

fn whole(
    parts: &[Part],
    mut manifest: Manifest,
    work: &Path,
    target: &Path,
) -> Result<(), AddError> {
    let failed = |file: &str| {
        let (file, dir) = (file.to_owned(), target.to_owned());
        move |source| AddError::Copy { file, dir, source }
    };
    let copied = parts.iter().filter(|part| part.moved.is_none());
    let sizes = copied.filter_map(|part| fs::metadata(&part.from).ok());
    let bar = progress(
        "copying",
        &manifest.name,
        sizes.map(|meta| meta.len()).sum(),
    );
    for Part { from, to, moved } in parts {
        let path = work.join(to);
        let folder = path.parent().unwrap_or(work);
        fs::create_dir_all(folder).map_err(failed(to))?;
        let sha256 = match moved {
            Some(sha256) => fs::rename(from, &path).map(|()| sha256.clone()),
            None => copy(from, &path, |bytes| bar.inc(bytes)),
        };
        manifest.files.push(File {
            name: to.clone(),
            sha256: sha256.map_err(failed(to))?,
        });
    }
    bar.finish_and_clear();
    let text = toml::to_string(&manifest).map_err(|e| failed(MANIFEST)(io::Error::other(e)))?;
    fs::write(work.join(MANIFEST), text).map_err(failed(MANIFEST))?;
    fs::rename(work, target).map_err(failed(MANIFEST))
}

/// Copies a file, and hashes what was copied.
fn copy(from: &Path, to: &Path, progress: impl FnMut(u64)) -> io::Result<String> {
    struct Tee<R, W>(R, W);
    impl<R: io::Read, W: io::Write> io::Read for Tee<R, W> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = self.0.read(buffer)?;
            self.1.write_all(&buffer[..n]).map(|()| n)
        }
    }
    let mut tee = Tee(fs::File::open(from)?, fs::File::create_new(to)?);
    let hash = sha256(&mut tee, progress)?;
    tee.1.sync_all()?;
    Ok(hash)
}
