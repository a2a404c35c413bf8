//! Reading the models' folder again while the server runs: what is new or changed is hashed, what is as
//! it was is taken over, and only when all is known does the new catalogue take the old one's place.

use super::{Catalog, Entry, hashing::Hashing, open_inside};
use crate::models::Manifest;
use std::{
    collections::BTreeMap,
    ops::ControlFlow::{self, Break, Continue},
};

/// A catalogue in the making.
#[derive(Debug)]
pub struct Reload {
    /// Not looked at yet; the next is the last.
    waiting: Vec<Manifest>,
    hashing: Option<Hashing>,
    /// The hundredths of the model in work that were told.
    told: u64,
    models: BTreeMap<String, Entry>,
}

impl Reload {
    /// Of these models, some of which `old` may know.
    pub fn new(manifests: Vec<Manifest>, old: &Catalog) -> Reload {
        let mut reload = Reload {
            waiting: Vec::new(),
            hashing: None,
            told: u64::MAX,
            models: BTreeMap::new(),
        };
        for manifest in manifests.into_iter().rev() {
            match old.models.get(&manifest.name) {
                Some(entry) if entry.manifest == manifest && unchanged(entry) => {
                    reload.models.insert(manifest.name, entry.clone());
                }
                _ => reload.waiting.push(manifest),
            }
        }
        reload
    }

    /// Hashes about `bytes_max` more; breaks with the catalogue once all is done.
    pub fn advance(mut self, bytes_max: u64) -> ControlFlow<Catalog, Reload> {
        let hashing = self.hashing.take();
        let Some(hashing) = hashing.or_else(|| self.waiting.pop().map(Hashing::new)) else {
            let models = self.models;
            return Break(Catalog { models });
        };
        match hashing.advance(bytes_max) {
            Continue(unfinished) => self.hashing = Some(unfinished),
            Break((manifest, files)) => {
                if let Err(fault) = &files {
                    tracing::error!("cannot be served: {fault}");
                }
                let entry = Entry {
                    digest: manifest.digest(),
                    files,
                    manifest,
                };
                self.models.insert(entry.manifest.name.clone(), entry);
            }
        }
        Continue(self)
    }

    /// The model that is being hashed, bytes read and bytes that there are; a hundred times for each
    /// at the most.
    pub fn news(&mut self) -> Option<(String, u64, u64)> {
        let (model, done, total) = self.hashing.as_ref()?.progress();
        let hundredths = (done.saturating_mul(100)).checked_div(total).unwrap_or(0);
        let before = std::mem::replace(&mut self.told, hundredths);
        (before != hundredths).then(|| (model.to_owned(), done, total))
    }
}

/// True where every file is still the one that was hashed.
fn unchanged(entry: &Entry) -> bool {
    let Ok(identities) = &entry.files else {
        return false;
    };
    let manifest = &entry.manifest;
    (manifest.files.iter().zip(identities)).all(|(file, identity)| {
        open_inside(&manifest.dir, &file.name).is_ok_and(|(_, now)| now == *identity)
    })
}
