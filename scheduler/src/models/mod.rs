//! Models on disk: one folder each, with a `model.toml` that says what it is and what its files hash
//! to.
//!
//! `manifest` is what a model's own file says, `families` which models work, `gguf` and `safetensors`
//! read what a weights file says of itself, `parts` which files of a folder belong to a model, and `cost`
//! what it takes once loaded. Nothing here reads the weights (the launcher hashes them, a worker reads
//! them).

pub mod cost;
pub mod families;
pub mod gguf;
pub mod inspect;
mod manifest;
pub mod names;
pub mod parts;
mod places;
pub mod safetensors;

use crate::config::{Config, default_models_dir};
use std::{
    io,
    path::{Path, PathBuf},
};

pub use manifest::{
    FILES_MAX, File, Format, GGUF_FILE, MANIFEST, Manifest, SOURCE_BYTES_MAX, Task, load,
};

/// Most models of one server.
pub const MODELS_MAX: usize = 256;
/// The name of the model that computes nothing.
pub const NULL: &str = "null";

/// Why the models cannot be used. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ModelsError {
    /// There is nowhere to look.
    #[error("no home folder is known; set models.dir in bulkhead.toml, or BULKHEAD_MODELS")]
    NoDir,
    /// A folder or file could not be read.
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    /// A manifest is not as it should be.
    #[error("{path}: {what}")]
    Manifest { path: PathBuf, what: String },
    /// The configuration names a model that there is not, or that has nothing to keep.
    #[error(
        "models.prefix_cache names {name:?}, {why}; of the models here {known} can be named \
         (`bulkhead models list` shows all)"
    )]
    NotCached {
        name: String,
        why: &'static str,
        known: String,
    },
    /// More than a server takes.
    #[error("{dir} holds more than {MODELS_MAX} models")]
    TooMany { dir: PathBuf },
}

/// The models' folder: `models.dir`, else `BULKHEAD_MODELS`, else in the user's cache.
pub fn dir(config: &Config) -> Result<PathBuf, ModelsError> {
    if config.models.dir.as_os_str().is_empty() {
        return default_models_dir().ok_or(ModelsError::NoDir);
    }
    Ok(config.models.dir.clone())
}

/// All models that this configuration offers, by name. A folder that does not exist holds none; a
/// folder in it without a manifest is no model.
pub fn load_all(config: &Config) -> Result<Vec<Manifest>, ModelsError> {
    let mut models = load_dir(&dir(config)?)?;
    if config.models.null {
        models.retain(|m| m.name != NULL);
        models.push(null());
    }
    models.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(models)
}

/// Holds the names in `models.prefix_cache` against the models that there are.
pub fn check_cached(config: &Config, models: &[Manifest]) -> Result<(), ModelsError> {
    let generates = |m: &&Manifest| m.task == Task::Generate;
    for name in &config.models.prefix_cache {
        let why = match models.iter().find(|m| m.name == *name) {
            Some(model) if generates(&model) => continue,
            Some(_) => "which generates no text",
            None => "which is no model here",
        };
        let known: Vec<&str> = (models.iter().filter(generates))
            .map(|m| m.name.as_str())
            .collect();
        return Err(ModelsError::NotCached {
            name: name.clone(),
            why,
            known: match known.is_empty() {
                true => "none".to_owned(),
                false => known.join(", "),
            },
        });
    }
    Ok(())
}

/// The model that computes nothing.
pub fn null() -> Manifest {
    Manifest {
        name: NULL.into(),
        format: Format::Null,
        task: Task::Embed,
        owner: None,
        source: None,
        weights_bytes: None,
        files: Vec::new(),
        dir: PathBuf::new(),
    }
}

fn load_dir(dir: &Path) -> Result<Vec<Manifest>, ModelsError> {
    let read = |source| ModelsError::Read {
        path: dir.into(),
        source,
    };
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(read)?,
    };
    let mut models = Vec::new();
    for entry in entries {
        let folder = entry.map_err(read)?.path();
        if !folder.join(MANIFEST).is_file() || hidden(&folder) {
            continue;
        }
        if models.len() == MODELS_MAX {
            return Err(ModelsError::TooMany { dir: dir.into() });
        }
        models.push(load(&folder)?);
    }
    Ok(models)
}

/// A half-installed model lies in a folder whose name starts with a dot.
fn hidden(folder: &Path) -> bool {
    let name = folder.file_name().and_then(|n| n.to_str());
    name.is_some_and(|n| n.starts_with('.'))
}

/// SHA-256 of what comes piece by piece.
pub struct Hasher(aws_lc_rs::digest::Context);

impl Default for Hasher {
    fn default() -> Self {
        Hasher(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that came, in hex.
    pub fn finish(self) -> String {
        hex(self.0.finish().as_ref())
    }
}

/// SHA-256 of all that `reader` gives, in hex. `progress` hears of each part's bytes.
pub fn sha256(reader: &mut impl io::Read, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => {
                hasher.update(&buffer[..n]);
                progress(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Hexadecimal digits, lower case.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_models_are_found_and_half_installed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, name) in [("b", "b"), ("a", "a"), (".c.new", "c")] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            let text = format!(
                "name = {name:?}\nformat = \"gguf\"\ntask = \"generate\"\n\
                 files = [{{ name = \"model.gguf\", sha256 = {:?} }}]\n",
                "0".repeat(64)
            );
            std::fs::write(dir.path().join(folder).join(MANIFEST), text).unwrap();
        }
        std::fs::create_dir(dir.path().join("empty")).unwrap();
        let mut config = Config::default();
        config.models.dir = dir.path().into();
        config.models.null = true;
        let models = load_all(&config).unwrap();
        let names: Vec<_> = models.iter().map(|m| m.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "null"]);

        config.models.dir = dir.path().join("not there");
        config.models.null = false;
        assert!(load_all(&config).unwrap().is_empty());
    }

    #[test]
    fn only_a_model_that_generates_can_be_named_for_the_prefix_cache() {
        let model = |name: &str, task| Manifest {
            name: name.into(),
            task,
            ..null()
        };
        let models = [
            model("vectors", Task::Embed),
            model("words", Task::Generate),
        ];
        let mut config = Config::default();
        let mut check = |names: &[&str]| {
            config.models.prefix_cache = names.iter().map(ToString::to_string).collect();
            check_cached(&config, &models).map_err(|error| error.to_string())
        };
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["words"]), Ok(()));
        let unknown = check(&["words", "wrods"]).expect_err("refused");
        assert!(
            unknown.contains("\"wrods\", which is no model here"),
            "{unknown}"
        );
        assert!(unknown.contains("here words can"), "{unknown}");
        let embeds = check(&["vectors"]).expect_err("refused");
        assert!(embeds.contains("generates no text"), "{embeds}");
    }
}
