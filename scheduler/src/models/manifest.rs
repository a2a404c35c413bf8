//! A model's manifest, `model.toml`: what it is, whose it is, and what its files hash to.
//!
//! It is checked here, once, as it is read: what the rest of the program holds is a manifest whose
//! names are plain, whose files lie inside its folder and whose hashes are well formed.

use super::{ModelsError, hex, names};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The manifest's name in a model's folder.
pub const MANIFEST: &str = "model.toml";
/// The name of the one file of a GGUF model.
pub const GGUF_FILE: &str = "model.gguf";
/// Most files of one model: each is a descriptor of its worker, which takes as many.
pub const FILES_MAX: usize = 64;
/// A longer manifest is no manifest, bytes.
const MANIFEST_BYTES_MAX: u64 = 64 << 10;
/// Longest note of where a model came from, bytes.
pub const SOURCE_BYTES_MAX: usize = 512;

/// How a model's weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Safetensors, in one file or several, with config.json and tokenizer.json. Manifests of
    /// earlier versions call it "bert".
    #[serde(alias = "bert")]
    Safetensors,
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
    /// Its name inside the model's folder; may lie in one folder there, as `1_Pooling/config.json`.
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
    /// Where it came from, for people: a hub's model is named with the commit that was fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What its weights take once loaded, bytes, as it was reckoned when it was added.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights_bytes: Option<u64>,
    #[serde(default)]
    pub files: Vec<File>,
    /// Its folder.
    #[serde(skip)]
    pub dir: PathBuf,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Format::Safetensors => "safetensors",
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

    /// True where `tenant` may use it: it is shared, or the tenant's own.
    pub fn is_for(&self, tenant: &str) -> bool {
        self.owner.as_deref().is_none_or(|owner| owner == tenant)
    }

    fn check(&self) -> Result<(), String> {
        if !names::is_model(&self.name) {
            return Err(format!("name = {:?}: {}", self.name, names::NAME_RULE));
        }
        if self.dir.file_name().and_then(|n| n.to_str()) != Some(&self.name) {
            return Err(format!(
                "name = {:?} must equal its folder's name",
                self.name
            ));
        }
        if self.owner.as_deref() == Some("") {
            return Err("owner = \"\": name a tenant, or leave the line out".into());
        }
        if (self.source.as_ref()).is_some_and(|source| source.len() > SOURCE_BYTES_MAX) {
            return Err(format!("source: longer than {SOURCE_BYTES_MAX} bytes"));
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
            Format::Safetensors => true,
            Format::Gguf => self.task == Task::Generate && self.files.len() == 1,
            Format::Null => false,
        };
        if !fits {
            return Err("format \"gguf\" goes with task \"generate\" and one file".into());
        }
        Ok(())
    }
}

impl File {
    fn check(&self) -> Result<(), String> {
        let name = &self.name;
        if !names::is_file(name) {
            return Err(format!(
                "files: {name:?} must be a plain file name in the model's folder, or in one \
                 folder there"
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::null;

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
        let got = model("m", &gguf("m", GGUF_FILE, HASH)).unwrap();
        assert_eq!((got.format, got.task), (Format::Gguf, Task::Generate));
        assert_eq!(got.files[0].sha256, HASH);
        assert_eq!(got.owner, None);
        assert!(got.is_for("anybody"));
    }

    #[test]
    fn what_was_called_bert_is_safetensors() {
        let old = "name = \"m\"\nformat = \"bert\"\ntask = \"embed\"\nowner = \"acme\"\n";
        let files = ["model.safetensors", "1_Pooling/config.json"]
            .map(|name| format!("[[files]]\nname = {name:?}\nsha256 = {HASH:?}\n"));
        let got = model("m", &format!("{old}{}", files.concat())).unwrap();
        assert_eq!((got.format, got.task), (Format::Safetensors, Task::Embed));
        assert!(got.is_for("acme") && !got.is_for("globex"));
        assert!(
            toml::to_string(&got)
                .unwrap()
                .contains("format = \"safetensors\"")
        );
    }

    #[test]
    fn a_bad_manifest_says_what_is_wrong() {
        let good = gguf("m", GGUF_FILE, HASH);
        let cases = [
            ("m", gguf("m", "../model.gguf", HASH), "plain file name"),
            ("m", gguf("m", "/etc/passwd", HASH), "plain file name"),
            ("m", gguf("m", GGUF_FILE, "abc"), "64 lower-case hex"),
            ("n", good.clone(), "folder's name"),
            ("M", gguf("M", GGUF_FILE, HASH), "a-z"),
            ("m", format!("{good}colour = 1\n"), "colour"),
            ("m", good.replace("generate", "embed"), "goes with task"),
            ("m", good.replace("gguf\"\n", "null\"\n"), "null"),
            ("m", format!("owner = \"\"\n{good}"), "name a tenant"),
            (
                "m",
                "name = \"m\"\nformat = \"bert\"\ntask = \"embed\"\n".into(),
                "1 to 64",
            ),
        ];
        for (folder, text, part) in cases {
            let error = model(folder, &text).unwrap_err();
            assert!(error.contains(part), "{error:?} should name {part:?}");
            assert!(error.contains(MANIFEST), "{error:?} should name the file");
        }
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
