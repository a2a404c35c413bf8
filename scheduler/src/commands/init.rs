//! `bulkhead init`: the data folder and everything in it that a server needs.
//!
//! Never overwrites: what exists is kept and said to exist. `serve` runs the same steps, so that a
//! server starts with no configuration at all.

use super::{Outcome, output};
use crate::{
    cli::Globals,
    config::Config,
    tls::{self, Made},
};
use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

/// The configuration that `init` writes: every key, with its default.
const CONFIG: &str = include_str!("init/bulkhead.toml");
/// The explanation that `init` puts into the policy folder.
const POLICY: &str = include_str!("init/example.cedar.txt");

/// A step's subject, what became of it, and where it is.
type Step = (&'static str, Made, PathBuf);

pub fn run(globals: &Globals) -> Outcome {
    let data = globals.data_dir()?;
    private_folder(&data)?;
    // First, so that what follows heeds the names in a file that is already there.
    let file = globals
        .config
        .clone()
        .unwrap_or_else(|| data.join("bulkhead.toml"));
    let written = write_new(&file, CONFIG, 0o600)?;
    let mut steps = vec![("configuration", written, file)];
    steps.extend(ensure(&globals.load()?)?);
    for (what, made, path) in steps {
        let made = match made {
            Made::New => "made",
            Made::Renewed => "renewed",
            Made::Kept => "exists",
        };
        output::line(&format!("{made:8} {what:20} {}", path.display()))?;
    }
    output::line("\nNext: bulkhead models pull, then bulkhead serve")?;
    Ok(ExitCode::SUCCESS)
}

/// Makes what is missing in the data folder, apart from the configuration.
pub fn ensure(config: &Config) -> Result<Vec<Step>, Box<dyn std::error::Error + Send + Sync>> {
    let paths = config.paths();
    private_folder(&config.data)?;
    let tls = tls::ensure(config, SystemTime::now())?;
    let keys = audit_keys(&paths.audit_keys())?;
    private_folder(&paths.policy_dir())?;
    let example = paths.policy_dir().join("README.txt");
    let policy = write_new(&example, POLICY, 0o600)?;
    if let Some(state) = paths.identity_db().parent() {
        private_folder(state)?;
    }
    Ok(vec![
        ("local CA", tls.ca, paths.ca_cert()),
        ("server certificate", tls.server, paths.server_cert()),
        ("audit keys", keys, paths.audit_keys()),
        ("policy folder", policy, paths.policy_dir()),
    ])
}

/// Makes the audit log's keys where there are none. Whoever has them can read the log and sign for
/// it, so they lie apart from it.
fn audit_keys(dir: &Path) -> Result<Made, Box<dyn std::error::Error + Send + Sync>> {
    let there = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if there {
        return Ok(Made::Kept);
    }
    if let Some(parent) = dir.parent() {
        private_folder(parent)?;
    }
    bulkhead_audit::keys::init(dir)?;
    Ok(Made::New)
}

/// Makes a folder that only its owner may enter; one that exists must not be open to writing by
/// others.
pub fn private_folder(path: &Path) -> io::Result<()> {
    let failed = |e: io::Error| {
        let what = format!("cannot make the folder {}: {e}", path.display());
        io::Error::new(e.kind(), what)
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed)?;
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o022 != 0 {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!(
                "{} can be written by others; run `chmod go-w {0}`",
                path.display()
            ),
        ));
    }
    Ok(())
}

/// Writes a file where there is none.
fn write_new(path: &Path, text: &str, mode: u32) -> io::Result<Made> {
    let mut options = fs::File::options();
    match options.write(true).create_new(true).mode(mode).open(path) {
        Ok(mut file) => file.write_all(text.as_bytes()).map(|()| Made::New),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(Made::Kept),
        Err(e) => Err(io::Error::new(
            e.kind(),
            format!("cannot write {}: {e}", path.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_configuration_is_the_default_one_and_names_every_key() {
        let written: Config = toml::from_str(CONFIG).unwrap();
        assert_eq!(written, Config::default());
        let all = toml::Table::try_from(Config::default()).unwrap();
        let named: toml::Table = toml::from_str(CONFIG).unwrap();
        for (section, keys) in &all {
            for key in keys.as_table().unwrap().keys() {
                let there = named.get(section).and_then(|s| s.get(key)).is_some();
                assert!(there, "[{section}] {key} is not in init's file");
            }
        }
    }

    #[test]
    fn everything_is_made_once_and_kept_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let config = Config {
            data: data.clone(),
            ..Config::default()
        };
        let all = |want| move |steps: Vec<Step>| steps.iter().all(|(_, made, _)| *made == want);
        assert!(all(Made::New)(ensure(&config).unwrap()));
        assert!(all(Made::Kept)(ensure(&config).unwrap()));
        assert_eq!(
            fs::metadata(&data).unwrap().permissions().mode() & 0o777,
            0o700
        );
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = private_folder(&file.join("data")).unwrap_err().to_string();
        assert!(error.contains("file/data"), "{error}");
    }

    #[test]
    fn a_folder_that_others_can_write_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let open = fs::Permissions::from_mode(0o777);
        fs::set_permissions(dir.path(), open).unwrap();
        let error = private_folder(dir.path()).unwrap_err().to_string();
        assert!(error.contains("chmod go-w"), "{error}");
    }
}
