//! Models on disk: one folder each, with a `model.toml` that says what it is and what its files hash
//! to.
//!
//! A manifest is checked here, once: names are plain, files lie inside their folder, hashes are well
//! formed. Nothing here reads a model's weights (the launcher hashes them, a worker reads them).

use crate::config::{Config, default_models_dir};
use serde::{Deserialize, Serialize};
use std::{
    fmt, io,
    path::{Path, PathBuf},
};

/// The manifest's name in a model's folder.
pub const MANIFEST: &str = "model.toml";
/// Most files of one model: each is a descriptor of its worker.
pub const FILES_MAX: usize = 16;
/// Most models of one server.
pub const MODELS_MAX: usize = 256;
/// A longer manifest is no manifest, bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
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
    /// More than a server takes.
    #[error("{dir} holds more than {MODELS_MAX} models")]
    TooMany { dir: PathBuf },
}

/// How a model's weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// BERT's safetensors, with config.json and tokenizer.json.
    Bert,
    /// One GGUF file.
    Gguf,
    /// No weights: computes nothing, for measurements. Never in a manifest.
    #[serde(skip_deserializing)]
    Null,
}

/// What a model does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    Embed,
    Generate,
}

/// One of a model's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name inside the model's folder.
    pub name: String,
    /// Hex, lower case.
    pub sha256: String,
}

/// What a manifest says, checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// What agents call it. The same as its folder's name.
    pub name: String,
    pub format: Format,
    pub task: Task,
    /// The one tenant that may use it; nobody means everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default)]
    pub files: Vec<File>,
    /// Its folder.
    #[serde(skip)]
    pub dir: PathBuf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Bert => "bert",
            Format::Gguf => "gguf",
            Format::Null => "null",
        })
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Task::Embed => "embed",
            Task::Generate => "generate",
        })
    }
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

/// The model that computes nothing.
pub fn null() -> Manifest {
    Manifest {
        name: NULL.into(),
        format: Format::Null,
        task: Task::Embed,
        owner: None,
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

/// The manifest of the model in `folder`.
pub fn load(folder: &Path) -> Result<Manifest, ModelsError> {
    let path = folder.join(MANIFEST);
    let read = |source| ModelsError::Read {
        path: path.clone(),
        source,
    };
    let wrong = |what: String| ModelsError::Manifest {
        path: path.clone(),
        what,
    };
    let bytes = std::fs::metadata(&path).map_err(read)?.len();
    if bytes > MANIFEST_BYTES_MAX {
        return Err(wrong(format!("longer than {MANIFEST_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(&path).map_err(read)?;
    let mut manifest: Manifest = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    manifest.dir = folder.into();
    manifest.check().map_err(wrong)?;
    Ok(manifest)
}

impl Manifest {
    /// One hash for all files: SHA-256, in hex, over a line `SHA256  NAME` for each, by name.
    pub fn digest(&self) -> String {
        let mut lines: Vec<_> = (self.files.iter())
            .map(|f| format!("{}  {}\n", f.sha256, f.name))
            .collect();
        lines.sort_by(|a, b| a[64..].cmp(&b[64..]));
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, lines.concat().as_bytes());
        hex(digest.as_ref())
    }

    /// Sizes of all its files together, bytes; files that are missing count nothing.
    pub fn bytes(&self) -> u64 {
        let sizes = self.files.iter().map(|f| self.dir.join(&f.name).metadata());
        sizes.filter_map(|m| m.ok().map(|m| m.len())).sum()
    }

    fn check(&self) -> Result<(), String> {
        if !plain(&self.name) {
            return Err(format!(
                "name = {:?}: 1 to 64 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit",
                self.name
            ));
        }
        if self.dir.file_name().and_then(|n| n.to_str()) != Some(&self.name) {
            return Err(format!(
                "name = {:?} must equal its folder's name",
                self.name
            ));
        }
        if self.files.is_empty() || self.files.len() > FILES_MAX {
            return Err(format!("files: 1 to {FILES_MAX} are needed"));
        }
        for (i, file) in self.files.iter().enumerate() {
            file.check()?;
            if self.files[..i].iter().any(|f| f.name == file.name) {
                return Err(format!("files: {:?} is there twice", file.name));
            }
        }
        let fits = match self.format {
            Format::Bert => self.task == Task::Embed,
            Format::Gguf => self.task == Task::Generate && self.files.len() == 1,
            Format::Null => false,
        };
        if !fits {
            return Err(
                "format \"bert\" goes with task \"embed\", and format \"gguf\" with task \
                        \"generate\" and one file"
                    .into(),
            );
        }
        Ok(())
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        let inside = !name.is_empty() && name.len() <= 128 && !name.starts_with('.');
        if !inside || name.contains(['/', '\\', '\0']) {
            return Err(format!(
                "files: {name:?} must be a plain file name in the model's folder"
            ));
        }
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if self.sha256.len() != 64 || !self.sha256.bytes().all(hex) {
            return Err(format!(
                "files: sha256 of {name:?} must be 64 lower-case hex digits"
            ));
        }
        Ok(())
    }
}

/// True for a name that is safe in a path, a label and a log.
fn plain(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 64
        && name.bytes().next().is_some_and(good)
        && name.bytes().all(|b| good(b) || b"-_.".contains(&b))
}

/// SHA-256 of all that `reader` gives, in hex. `progress` hears of each part's bytes.
pub fn sha256(reader: &mut impl io::Read, mut progress: impl FnMut(u64)) -> io::Result<String> {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hex(context.finish().as_ref())),
            Ok(n) => {
                context.update(&buffer[..n]);
                progress(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db";

    fn model(folder: &str, text: &str) -> Result<Manifest, String> {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join(folder);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join(MANIFEST), text).unwrap();
        load(&folder).map_err(|e| e.to_string())
    }

    fn gguf(name: &str, file: &str, sha256: &str) -> String {
        format!(
            "name = {name:?}\nformat = \"gguf\"\ntask = \"generate\"\n\
             files = [{{ name = {file:?}, sha256 = {sha256:?} }}]\n"
        )
    }

    #[test]
    fn a_good_manifest_is_read() {
        let got = model("m", &gguf("m", "model.gguf", HASH)).unwrap();
        assert_eq!((got.format, got.task), (Format::Gguf, Task::Generate));
        assert_eq!(got.files[0].sha256, HASH);
        assert_eq!(got.owner, None);
    }

    #[test]
    fn a_bad_manifest_says_what_is_wrong() {
        let good = gguf("m", "model.gguf", HASH);
        let cases = [
            ("m", gguf("m", "../model.gguf", HASH), "plain file name"),
            ("m", gguf("m", "/etc/passwd", HASH), "plain file name"),
            ("m", gguf("m", "model.gguf", "abc"), "64 lower-case hex"),
            ("n", good.clone(), "folder's name"),
            ("M", gguf("M", "model.gguf", HASH), "a-z"),
            ("m", format!("{good}colour = 1\n"), "colour"),
            ("m", good.replace("generate", "embed"), "goes with task"),
            ("m", good.replace("gguf\"\n", "null\"\n"), "null"),
            (
                "m",
                "name = \"m\"\nformat = \"bert\"\ntask = \"embed\"\n".into(),
                "1 to 16",
            ),
        ];
        for (folder, text, part) in cases {
            let error = model(folder, &text).unwrap_err();
            assert!(error.contains(part), "{error:?} should name {part:?}");
            assert!(error.contains(MANIFEST), "{error:?} should name the file");
        }
    }

    #[test]
    fn all_models_are_found_and_half_installed_ones_are_not() {
        let dir = tempfile::tempdir().unwrap();
        for (folder, name) in [("b", "b"), ("a", "a"), (".c.new", "c")] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
            let path = dir.path().join(folder).join(MANIFEST);
            std::fs::write(path, gguf(name, "model.gguf", HASH)).unwrap();
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
    fn the_digest_does_not_depend_on_the_files_order() {
        let mut one = null();
        one.files = ["b", "a"]
            .map(|name| File {
                name: name.into(),
                sha256: HASH.into(),
            })
            .to_vec();
        let mut two = one.clone();
        two.files.reverse();
        assert_eq!(one.digest(), two.digest());
        two.files[0].sha256 = HASH.replace('5', "6");
        assert_ne!(one.digest(), two.digest());
    }
}
