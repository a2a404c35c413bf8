//! `bulkhead models add`: a folder or a GGUF file of the operator's becomes a model, whole or not at all.
//!
//! Exactly the files that a worker uses are copied, hashed as they are copied, into a hidden folder
//! beside the models; one rename puts it in its place. What cannot work is refused before anything is
//! copied. Links in the source are followed, since hubs' caches are made of them; the model holds none.

use super::progress;
use crate::models::{
    FILES_MAX, File, Format, GGUF_FILE, MANIFEST, Manifest, NULL, Task,
    cost::{self, Cost},
    families::Family,
    inspect, names, sha256,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The weights in one file, and the list of several.
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Longest index, bytes.
const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Files that a model must have, besides weights.
const NEEDED: [&str; 2] = ["config.json", "tokenizer.json"];
/// Files that a worker uses where they are there.
const USED: [&str; 7] = [
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
    "sentence_bert_config.json",
    "modules.json",
    "1_Pooling/config.json",
];

/// Why a model was not added. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It is not there, or neither a folder nor a GGUF file.
    #[error("{0} is neither a folder with config.json nor a GGUF file")]
    Source(PathBuf),
    /// Its files cannot work.
    #[error("{0}")]
    Unusable(String),
    /// The name is not allowed, or none can be made of what it is called.
    #[error("{name:?} cannot be a model's name ({rule}); give one with --name", rule = names::NAME_RULE)]
    Name { name: String },
    /// There is a model of that name.
    #[error(
        "there is a model {0:?} already; `bulkhead models remove {0}` first, or give another --name"
    )]
    Exists(String),
    /// A file could not be read or written.
    #[error("cannot copy {file} to {dir}: {source}{hint}", hint = hint(.source))]
    Copy {
        file: String,
        dir: PathBuf,
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space, or set models.dir to a larger disk",
        _ => "",
    }
}

/// A model that was added.
#[derive(Debug, Serialize)]
pub struct Added {
    pub name: String,
    pub family: &'static str,
    pub task: Task,
    pub format: Format,
    pub owner: Option<String>,
    pub dir: PathBuf,
    #[serde(flatten)]
    pub cost: Cost,
}

/// What to add: where each file is, and what it is called in the model.
struct Plan {
    files: Vec<(PathBuf, String)>,
    format: Format,
    family: Family,
    cost: Cost,
}

/// Adds what is at `source` to the models in `dir`.
pub fn add(
    dir: &Path,
    source: &Path,
    name: Option<&str>,
    owner: Option<&str>,
) -> Result<Added, AddError> {
    let name = match name {
        Some(name) => name.to_owned(),
        None => named_after(source)?,
    };
    if !names::is_model(&name) || name == NULL {
        return Err(AddError::Name { name });
    }
    let target = dir.join(&name);
    if target.exists() {
        return Err(AddError::Exists(name));
    }
    let plan = plan(source)?;
    let work = dir.join(format!(".{name}.{}", std::process::id()));
    let installed = install(&plan, &name, owner, &work, &target);
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

/// The name of the folder, or of the file without its ending.
fn named_after(source: &Path) -> Result<String, AddError> {
    let absolute = fs::canonicalize(source).map_err(|_| AddError::Source(source.into()))?;
    let called = match source.is_dir() {
        true => absolute.file_name(),
        false => source.file_stem(),
    };
    let called = called.unwrap_or_default().to_string_lossy();
    names::model_from(&called).ok_or_else(|| AddError::Name {
        name: called.into_owned(),
    })
}

fn plan(source: &Path) -> Result<Plan, AddError> {
    if source.is_file() {
        let (sizes, tensors) = inspect::of_gguf(source).map_err(AddError::Unusable)?;
        return Ok(Plan {
            files: vec![(source.into(), GGUF_FILE.into())],
            format: Format::Gguf,
            family: sizes.family,
            cost: cost::of(&sizes, &tensors),
        });
    }
    if !source.join("config.json").is_file() {
        return Err(AddError::Source(source.into()));
    }
    let weights = weights(source).map_err(AddError::Unusable)?;
    let read = inspect::of_folder(source, weights.iter().map(String::as_str));
    let (sizes, tensors) = read.map_err(AddError::Unusable)?;
    let mut files = weights;
    if source.join(INDEX).is_file() && !files.iter().any(|name| name == WEIGHTS) {
        files.push(INDEX.into());
    }
    for name in NEEDED {
        if !source.join(name).is_file() {
            let what = format!("{} has no {name}", source.display());
            return Err(AddError::Unusable(what));
        }
        files.push(name.into());
    }
    let used = USED.iter().filter(|name| source.join(name).is_file());
    files.extend(used.map(|name| String::from(*name)));
    if files.len() > FILES_MAX {
        let what = format!("it has {} files, and {FILES_MAX} are possible", files.len());
        return Err(AddError::Unusable(what));
    }
    Ok(Plan {
        files: (files.into_iter())
            .map(|name| (source.join(&name), name))
            .collect(),
        format: Format::Safetensors,
        family: sizes.family,
        cost: cost::of(&sizes, &tensors),
    })
}

/// The files of the weights: the one, or those that the index names.
fn weights(source: &Path) -> Result<Vec<String>, String> {
    #[derive(Deserialize)]
    struct Index {
        weight_map: std::collections::BTreeMap<String, String>,
    }
    if source.join(WEIGHTS).is_file() {
        return Ok(vec![WEIGHTS.into()]);
    }
    let index = source.join(INDEX);
    if !index.is_file() {
        return Err(format!(
            "{} has neither {WEIGHTS} nor {INDEX}; weights in other formats do not work here",
            source.display()
        ));
    }
    let index = inspect::read_small(&index, INDEX_BYTES_MAX)?;
    let index: Index = serde_json::from_slice(&index).map_err(|e| format!("{INDEX}: {e}"))?;
    let shards: BTreeSet<String> = index.weight_map.into_values().collect();
    // Each is a name in this very folder, whatever the index says.
    let good = |name: &&String| {
        names::is_file(name) && !name.contains('/') && name.ends_with(".safetensors")
    };
    match shards.iter().find(|name| !good(name)) {
        Some(name) => Err(format!(
            "{INDEX} names {name:?}, which is no file of weights"
        )),
        None if shards.is_empty() => Err(format!("{INDEX} names no file")),
        None => Ok(shards.into_iter().collect()),
    }
}

fn install(
    plan: &Plan,
    name: &str,
    owner: Option<&str>,
    work: &Path,
    target: &Path,
) -> Result<(), AddError> {
    let failed = |file: &str| {
        let (file, dir) = (file.to_owned(), target.to_owned());
        move |source| AddError::Copy { file, dir, source }
    };
    let sizes = plan
        .files
        .iter()
        .filter_map(|(from, _)| fs::metadata(from).ok());
    let bar = progress("copying", name, sizes.map(|meta| meta.len()).sum());
    let mut files = Vec::new();
    for (from, to) in &plan.files {
        let path = work.join(to);
        let folder = path.parent().unwrap_or(work);
        fs::create_dir_all(folder).map_err(failed(to))?;
        let sha256 = copy(from, &path, |bytes| bar.inc(bytes)).map_err(failed(to))?;
        files.push(File {
            name: to.clone(),
            sha256,
        });
    }
    bar.finish_and_clear();
    let manifest = Manifest {
        name: name.into(),
        format: plan.format,
        task: plan.family.task(),
        owner: owner.map(String::from),
        source: None,
        files,
        dir: PathBuf::new(),
    };
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

#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
