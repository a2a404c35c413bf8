//! The models that this server offers, and what its workers told of them.

use crate::models::{Format, Manifest};
use bulkhead_core::ModelId;
use bulkhead_proto::internal::Ready;
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};

/// The task of a model that does all of them: the null model.
pub const ANY: &str = "any";

/// One model.
#[derive(Clone, Debug)]
pub struct Entry {
    pub id: ModelId,
    pub name: Arc<str>,
    /// "embed", "generate", or "any" for the null model.
    pub task: String,
    /// The tenant whose own it is; `None` for shared models.
    pub owner: Option<String>,
    pub dimensions: u32,
    pub context_tokens: u32,
}

/// All models, by name.
#[derive(Debug, Default)]
pub struct Catalog {
    entries: RwLock<BTreeMap<Arc<str>, Entry>>,
}

impl Catalog {
    /// Out of the manifests, numbered in their order.
    pub fn new(manifests: &[Manifest]) -> Self {
        let entries = manifests.iter().enumerate().map(|(i, m)| {
            let name: Arc<str> = Arc::from(m.name.as_str());
            let entry = Entry {
                id: ModelId(i as u32),
                name: name.clone(),
                task: if m.format == Format::Null {
                    ANY.into()
                } else {
                    m.task.to_string()
                },
                owner: m.owner.clone(),
                dimensions: 0,
                context_tokens: 0,
            };
            (name, entry)
        });
        Catalog {
            entries: RwLock::new(entries.collect()),
        }
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.entries.read().get(name).cloned()
    }

    /// All models, by name.
    pub fn all(&self) -> Vec<Entry> {
        self.entries.read().values().cloned().collect()
    }

    /// Names in the order of their numbers.
    pub fn names(&self) -> Vec<Arc<str>> {
        let mut all = self.all();
        all.sort_by_key(|e| e.id);
        all.into_iter().map(|e| e.name).collect()
    }

    /// Keeps what a worker said of its model.
    pub fn learn(&self, name: &str, ready: &Ready) {
        if let Some(entry) = self.entries.write().get_mut(name) {
            entry.dimensions = ready.dimensions;
            entry.context_tokens = ready.context_tokens;
        }
    }
}
