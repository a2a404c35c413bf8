//! Reading safetensors: one file, or several that `model.safetensors.index.json` names.
//!
//! A file is eight bytes of length, so many bytes of JSON that say where each tensor is, and the tensors
//! (as published at github.com/huggingface/safetensors). Read here rather than by that project's crate
//! because the files are owned, freed one by one as the last tensor of each is read, and because no sum
//! of offsets that a file claims may ever overflow.

mod header;

use super::{Kind, Raw, Tensors};
use crate::load::FileBytes;
use crate::models::{LoadError, ModelFiles};
use header::header;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// The name of a model in one file.
const FILE: &str = "model.safetensors";
/// The name of the list of files of a model in several.
const INDEX: &str = "model.safetensors.index.json";

/// A file, with the tensors that were not yet read from it.
#[derive(Debug)]
struct Shard {
    name: String,
    bytes: Vec<u8>,
    unread: usize,
}

/// Where a tensor is, and what the file says of it.
#[derive(Debug)]
struct Place {
    shard: usize,
    dtype: String,
    shape: Vec<usize>,
    range: Range<usize>,
    read: bool,
}

/// A model's safetensors.
#[derive(Debug)]
pub struct Safetensors {
    shards: Vec<Shard>,
    places: BTreeMap<String, Place>,
}

/// What the index says: the file of every tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Safetensors {
    /// Takes and parses the files of a model's folder.
    pub(crate) fn open(files: &mut ModelFiles) -> Result<Self, LoadError> {
        if files.has(FILE) || !files.has(INDEX) {
            let bytes = files.take(FILE)?;
            return Self::parse(vec![(FILE.into(), bytes)], None);
        }
        let index = index(&files.take(INDEX)?)?;
        let names: BTreeSet<&String> = index.values().collect();
        let shards = names
            .into_iter()
            .map(|name| Ok((name.clone(), files.take(name)?)))
            .collect::<Result<_, LoadError>>()?;
        Self::parse(shards, Some(&index))
    }

    /// Parses a model's files, found among others by their names.
    pub fn read(files: Vec<FileBytes>) -> Result<Self, LoadError> {
        Self::open(&mut ModelFiles(files))
    }

    fn parse(
        shards: Vec<(String, Vec<u8>)>,
        index: Option<&BTreeMap<String, String>>,
    ) -> Result<Self, LoadError> {
        let mut all = Safetensors {
            shards: Vec::with_capacity(shards.len()),
            places: BTreeMap::new(),
        };
        for (name, bytes) in shards {
            all.add(name, bytes, index)?;
        }
        match index.and_then(|index| index.keys().find(|name| !all.places.contains_key(*name))) {
            Some(name) => Err(LoadError::bad(
                INDEX,
                format!("{name} is not in the file that it names"),
            )),
            None => Ok(all),
        }
    }

    /// Takes the tensors of one file, or those of them that the index says are there.
    fn add(
        &mut self,
        file: String,
        bytes: Vec<u8>,
        index: Option<&BTreeMap<String, String>>,
    ) -> Result<(), LoadError> {
        let shard = self.shards.len();
        let (start, entries) = header(&bytes).map_err(|cause| LoadError::bad(&file, cause))?;
        let before = self.places.len();
        for (name, entry) in entries {
            if index.is_some_and(|index| index.get(&name) != Some(&file)) {
                continue;
            }
            let place = Place {
                shard,
                dtype: entry.dtype,
                shape: entry.shape,
                range: start + entry.data_offsets.0..start + entry.data_offsets.1,
                read: false,
            };
            self.places.insert(name, place);
        }
        self.shards.push(Shard {
            name: file,
            bytes,
            unread: self.places.len() - before,
        });
        Ok(())
    }

    /// How a tensor's values are written; none where there is none, or of a kind that is not supported.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        kind(&self.places.get(name)?.dtype)
    }

    /// Bytes of the files that are still held.
    pub fn held_bytes(&self) -> usize {
        self.shards.iter().map(|shard| shard.bytes.len()).sum()
    }
}

impl Tensors for Safetensors {
    fn has(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    fn raw<'s>(&'s mut self, name: &'s str, shape: &[usize]) -> Result<Raw<'s>, LoadError> {
        // What the call before this one read is not borrowed any more.
        for shard in self.shards.iter_mut().filter(|shard| shard.unread == 0) {
            shard.bytes = Vec::new();
        }
        let found = self.places.get_mut(name);
        let found = found.and_then(|place| Some((self.shards.get_mut(place.shard)?, place)));
        let Some((shard, place)) = found else {
            return Err(LoadError::bad(FILE, format!("it has no tensor {name}")));
        };
        let bad = |cause: String| LoadError::bad(&shard.name, format!("{name} {cause}"));
        if place.shape != shape {
            return Err(bad(format!(
                "is {:?}, and {shape:?} is needed",
                place.shape
            )));
        }
        let Some(kind) = kind(&place.dtype) else {
            let other = &place.dtype;
            return Err(bad(format!("is {other}; F32, F16 and BF16 are supported")));
        };
        if std::mem::replace(&mut place.read, true) {
            return Err(bad("is wanted twice".into()));
        }
        shard.unread -= 1;
        let bytes = shard.bytes.get(place.range.clone()).unwrap_or_default();
        Ok(Raw {
            kind,
            bytes,
            name,
            file: &shard.name,
        })
    }
}

fn kind(dtype: &str) -> Option<Kind> {
    match dtype {
        "F32" => Some(Kind::F32),
        "F16" => Some(Kind::F16),
        "BF16" => Some(Kind::Bf16),
        _ => None,
    }
}

fn index(bytes: &[u8]) -> Result<BTreeMap<String, String>, LoadError> {
    let index: Index =
        serde_json::from_slice(bytes).map_err(|error| LoadError::bad(INDEX, error))?;
    match index.weight_map.is_empty() {
        true => Err(LoadError::bad(INDEX, "it names no tensor")),
        false => Ok(index.weight_map),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::safetensors::tensor::{Dtype, TensorView, serialize};

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// A file as the format's own crate writes it.
    fn file(tensors: &[(&str, &[usize], &[f32])]) -> Vec<u8> {
        let bytes: Vec<_> = tensors
            .iter()
            .map(|(_, _, values)| floats(values))
            .collect();
        let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
            let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("it fits");
            (*name, view)
        });
        serialize(views, None).expect("it writes")
    }

    fn named(name: &str, bytes: Vec<u8>) -> FileBytes {
        FileBytes {
            name: name.into(),
            bytes,
        }
    }

    #[test]
    fn tensors_are_read_by_name_and_shape() {
        let bytes = file(&[("a", &[2, 2], &[1.0, 2.0, 3.0, 4.0]), ("b", &[1], &[5.0])]);
        let mut all = Safetensors::read(vec![named(FILE, bytes)]).expect("it parses");
        assert!(all.has("a") && !all.has("c"));
        assert_eq!(
            all.floats("a", &[2, 2]).expect("there"),
            [1.0, 2.0, 3.0, 4.0]
        );
        for (name, shape) in [("b", &[2][..]), ("b", &[1, 1]), ("c", &[1])] {
            let error = all.floats(name, shape).expect_err("refused").to_string();
            assert!(error.contains(name) && error.contains(FILE), "{error}");
        }
        assert_eq!(all.vector("b", 1).expect("there"), [5.0]);
        assert!(all.vector("b", 1).is_err(), "twice");
    }

    #[test]
    fn files_are_freed_as_their_last_tensor_is_read() {
        let index = br#"{"metadata": {"total_size": 12},
            "weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
        let one = file(&[("a", &[1], &[1.0])]);
        let two = file(&[("a", &[1], &[7.0]), ("b", &[1], &[2.0])]);
        let held = two.len();
        let files = vec![
            named("two.safetensors", two),
            named(INDEX, index.to_vec()),
            named("one.safetensors", one),
        ];
        let mut all = Safetensors::read(files).expect("it parses");
        assert_eq!(all.vector("a", 1).expect("there"), [1.0]);
        assert_eq!(all.vector("b", 1).expect("there"), [2.0]);
        assert_eq!(all.held_bytes(), held);
        assert!(all.vector("c", 1).is_err());
        assert_eq!(all.held_bytes(), 0);
    }

    #[test]
    fn an_index_and_its_files_must_agree() {
        let index = br#"{"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}"#;
        let files = |index: &[u8]| {
            let one = file(&[("a", &[1], &[1.0])]);
            vec![named(INDEX, index.to_vec()), named("one.safetensors", one)]
        };
        let refused = |index: &[u8]| {
            let error = Safetensors::read(files(index)).expect_err("refused");
            error.to_string()
        };
        assert!(refused(index).contains("b is not in the file"));
        assert!(refused(b"{}").contains(INDEX));
        assert!(refused(br#"{"weight_map": {}}"#).contains("no tensor"));
        assert!(refused(br#"{"weight_map": {"a": "../two"}}"#).contains("../two is missing"));
        assert!(Safetensors::read(Vec::new()).is_err());
    }
}
