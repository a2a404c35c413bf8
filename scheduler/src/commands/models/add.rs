//! `bulkhead models add`: a folder or a GGUF file of the operator's, or a model of the hub, becomes a
//! model here, whole or not at all.
//!
//! Exactly the files that a worker uses are taken. What cannot work is refused before anything is
//! copied. Links in a folder are followed, since hubs' caches are made of them; the model holds none.

use super::{
    hub,
    install::{self, Part, Plan},
};
use crate::{
    hub::{Address, HubError},
    models::{
        FILES_MAX, Format, GGUF_FILE, NULL, Task,
        cost::{self, Cost},
        inspect, names,
        parts::{self, CONFIG, INDEX, NEEDED, USED, WEIGHTS},
    },
};
use serde::Serialize;
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// Why a model was not added. The operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// It is not there, or neither a folder nor a GGUF file.
    #[error(
        "{0} is not there, or neither a folder with config.json nor a GGUF file; where a GGUF file is in a folder, name the file"
    )]
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
    /// It did not come from the hub.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// There is no runtime to fetch with.
    #[error("cannot fetch: {0}")]
    Runtime(io::Error),
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

/// What to add, and for whom.
#[derive(Clone, Copy, Debug)]
pub struct Wish<'a> {
    /// What agents shall call it; none to call it after where it comes from.
    pub name: Option<&'a str>,
    /// The one tenant that may use it; none for every tenant.
    pub owner: Option<&'a str>,
}

/// Adds what is at `source`, a path or a model of the hub, to the models in `dir`.
pub fn add(dir: &Path, source: &Path, wish: Wish<'_>) -> Result<Added, AddError> {
    if let Some(address) = source.to_str().and_then(Address::parse) {
        return hub::add(dir, &address?, wish);
    }
    let name = free_name(dir, wish, || named_after(source))?;
    let plan = plan(source)?;
    install::install(dir, name, wish.owner, None, plan)
}

/// The name that was wished for, else the one that `otherwise` finds, where it can be had.
pub(super) fn free_name(
    dir: &Path,
    wish: Wish<'_>,
    otherwise: impl FnOnce() -> Result<String, AddError>,
) -> Result<String, AddError> {
    let name = wish.name.map_or_else(otherwise, |name| Ok(name.into()))?;
    if !names::is_model(&name) || name == NULL {
        return Err(AddError::Name { name });
    }
    match dir.join(&name).exists() {
        true => Err(AddError::Exists(name)),
        false => Ok(name),
    }
}

/// A model's name made of what it is called elsewhere.
pub(super) fn name_from(called: &str) -> Result<String, AddError> {
    names::model_from(called).ok_or_else(|| AddError::Name {
        name: called.into(),
    })
}

/// The name of the folder, or of the file without its ending.
fn named_after(source: &Path) -> Result<String, AddError> {
    let absolute = fs::canonicalize(source).map_err(|_| AddError::Source(source.into()))?;
    let called = match source.is_dir() {
        true => absolute.file_name(),
        false => source.file_stem(),
    };
    name_from(&called.unwrap_or_default().to_string_lossy())
}

/// What there is to install at `source`; or why it cannot work.
pub(super) fn plan(source: &Path) -> Result<Plan, AddError> {
    if source.is_file() {
        let (sizes, tensors) = inspect::of_gguf(source).map_err(AddError::Unusable)?;
        return Ok(Plan {
            parts: vec![Part::copied(source.into(), GGUF_FILE)],
            format: Format::Gguf,
            family: sizes.family,
            cost: cost::of(&sizes, &tensors),
        });
    }
    if !source.join(CONFIG).is_file() {
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
        parts: (files.iter())
            .map(|name| Part::copied(source.join(name), name))
            .collect(),
        format: Format::Safetensors,
        family: sizes.family,
        cost: cost::of(&sizes, &tensors),
    })
}

/// The files of the weights: the one, or those that the index names.
fn weights(source: &Path) -> Result<Vec<String>, String> {
    if source.join(WEIGHTS).is_file() {
        return Ok(vec![WEIGHTS.into()]);
    }
    if !source.join(INDEX).is_file() {
        return Err(format!(
            "{} has neither {WEIGHTS} nor {INDEX}; weights in other formats do not work here",
            source.display()
        ));
    }
    parts::shards(source)
}

#[cfg(test)]
#[path = "add_tests.rs"]
mod tests;
