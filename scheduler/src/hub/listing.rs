//! What the hub says of a repository: the commit, and of each file its length and what it hashes to.
//!
//! A file's name and numbers are checked when the file is asked for, not before: a repository may hold
//! what it likes beside its model.

use super::HubError;
use crate::models::names;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Most files of a repository that are looked at.
const FILES_MAX: usize = 50_000;
/// Longest file that holds weights, bytes.
const WEIGHTS_BYTES_MAX: u64 = 256 << 30;
/// Longest other file, bytes; the longest tokenizers are some 30 MB.
const OTHER_BYTES_MAX: u64 = 256 << 20;

/// What the hub says that a file hashes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stated {
    /// Large files (LFS, Xet): SHA-256 of the content, hex.
    Sha256(String),
    /// Small files: git's name of the content, SHA-1 over a header and the content, hex.
    GitBlob(String),
}

/// A file to be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the repository: one that may be joined to a folder.
    pub name: String,
    pub bytes: u64,
    pub stated: Stated,
}

/// One commit of a repository.
#[derive(Clone, Debug)]
pub struct Listing {
    /// The commit, 40 hex digits.
    pub commit: String,
    files: BTreeMap<String, File>,
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<File>,
}

#[derive(Clone, Debug, Deserialize)]
struct File {
    rfilename: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: Option<u64>,
}

impl Listing {
    /// From the answer of `/api/models/{repo}/revision/{revision}?blobs=true`.
    pub fn parse(json: &[u8]) -> Result<Listing, String> {
        let info: Info = serde_json::from_slice(json)
            .map_err(|e| format!("no description of a repository (line {})", e.line()))?;
        if !is_hex(&info.sha, 40) {
            return Err("its commit is no commit".into());
        }
        if info.siblings.len() > FILES_MAX {
            return Err(format!("it lists more than {FILES_MAX} files"));
        }
        let files = info.siblings.into_iter();
        Ok(Listing {
            commit: info.sha,
            files: files.map(|file| (file.rfilename.clone(), file)).collect(),
        })
    }

    /// False where `revision` is a commit, and this another.
    pub fn is(&self, revision: &str) -> bool {
        !is_hex(revision, 40) || revision == self.commit
    }

    /// All names, in order. Nothing about them has been checked.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.keys().map(String::as_str)
    }

    pub fn has(&self, name: &str) -> bool {
        self.files.contains_key(name)
    }

    /// The file of this name, fit to be fetched.
    pub fn entry(&self, name: &str) -> Result<Entry, HubError> {
        let file = (self.files.get(name))
            .ok_or_else(|| HubError::Choice(format!("the repository has no file {name:?}")))?;
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.+/ ".contains(c);
        if !names::is_file(name) || !name.chars().all(plain) {
            return Err(HubError::Name(name.into()));
        }
        let unstated = |what| HubError::Unstated {
            file: name.into(),
            what,
        };
        let size = (file.lfs.as_ref()).map_or(file.size, |lfs| lfs.size.or(file.size));
        let bytes = size.ok_or_else(|| unstated("length"))?;
        let bytes_max = match [".safetensors", ".gguf"].iter().any(|e| name.ends_with(e)) {
            true => WEIGHTS_BYTES_MAX,
            false => OTHER_BYTES_MAX,
        };
        if bytes > bytes_max {
            return Err(HubError::Choice(format!(
                "{name:?} is {bytes} bytes long, and {bytes_max} are possible"
            )));
        }
        let stated = match (&file.lfs, &file.blob_id) {
            (Some(lfs), _) if is_hex(&lfs.sha256, 64) => Stated::Sha256(lfs.sha256.clone()),
            (None, Some(id)) if is_hex(id, 40) => Stated::GitBlob(id.clone()),
            _ => return Err(unstated("hash")),
        };
        Ok(Entry {
            name: name.into(),
            bytes,
            stated,
        })
    }
}

/// True for so many hex digits, in lower case.
pub fn is_hex(text: &str, digits: usize) -> bool {
    let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    text.len() == digits && text.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn listing(files: Value) -> Listing {
        let info = json!({"id": "a/b", "sha": "0".repeat(40), "siblings": files, "tags": []});
        Listing::parse(info.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn lengths_and_hashes_of_large_and_small_files_are_read() {
        let (sha256, sha1) = ("a".repeat(64), "b".repeat(40));
        let listing = listing(json!([
            {"rfilename": "model.safetensors", "size": 9, "blobId": sha1,
             "lfs": {"sha256": sha256, "size": 9, "pointerSize": 134}},
            {"rfilename": "config.json", "size": 2, "blobId": sha1},
        ]));
        let large = listing.entry("model.safetensors").unwrap();
        assert_eq!((large.bytes, large.stated), (9, Stated::Sha256(sha256)));
        let small = listing.entry("config.json").unwrap();
        assert_eq!((small.bytes, small.stated), (2, Stated::GitBlob(sha1)));
        assert!(listing.is("main") && listing.is(&"0".repeat(40)) && !listing.is(&"1".repeat(40)));
    }

    #[test]
    fn files_that_cannot_be_checked_or_written_are_not_fetched() {
        let sha1 = "b".repeat(40);
        let listing = listing(json!([
            {"rfilename": "../x.gguf", "size": 1, "blobId": sha1},
            {"rfilename": "/etc/x.gguf", "size": 1, "blobId": sha1},
            {"rfilename": "a\u{1b}[2J.gguf", "size": 1, "blobId": sha1},
            {"rfilename": "nolength", "blobId": sha1},
            {"rfilename": "nohash", "size": 1},
            {"rfilename": "badhash", "size": 1, "blobId": sha1, "lfs": {"sha256": "../../x"}},
            {"rfilename": "long.json", "size": 1u64 << 40, "blobId": sha1},
        ]));
        for (name, part) in [
            ("../x.gguf", "cannot be a model's file"),
            ("/etc/x.gguf", "cannot be a model's file"),
            ("a\u{1b}[2J.gguf", "\\u{1b}"),
            ("nolength", "no length"),
            ("nohash", "no hash"),
            ("badhash", "no hash"),
            ("long.json", "are possible"),
            ("absent", "no file"),
        ] {
            let error = listing.entry(name).unwrap_err().to_string();
            assert!(error.contains(part), "{error} should say {part}");
        }
    }

    #[test]
    fn an_answer_that_describes_no_repository_is_refused() {
        for bad in [
            "",
            "{}",
            "[]",
            "<html>",
            r#"{"sha": "../../x"}"#,
            r#"{"sha": 1}"#,
        ] {
            assert!(Listing::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
