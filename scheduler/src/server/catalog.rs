//! The models that this server offers, as the launcher told them, and how each of them stands.
//!
//! A model whose files, task or owner change gets a new number: requests that come then are a queue of
//! their own and go to new workers, and what runs on the old number finishes there. A number means the
//! same name for good. Whoever waits for something to change here waits on `changes`, and looks again.

use super::metrics;
use bulkhead_core::ModelId;
use bulkhead_proto::internal::{
    ModelDropped, ModelHeld, ModelLoading, Models, OfferedModel, Ready, model_news::State as News,
};
use parking_lot::RwLock;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::watch;

/// The task of a model that makes embeddings.
const EMBED: &str = "embed";
/// The task of a model that does all of them: the null model.
pub const ANY: &str = "any";
/// How far what a model takes may be from what was reckoned, in hundredths, before somebody is told.
const ESTIMATE_OFF_MAX: u64 = 15;

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
    /// Hex, over all of its files.
    pub sha256: Arc<str>,
}

/// Where a model is.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Stage {
    /// In no process that would share it.
    #[default]
    Absent,
    /// On its way.
    Loading(ModelLoading),
    /// In memory, ready for workers.
    Held { resident_bytes: u64 },
}

/// Why a model could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub reason: String,
    /// True while the next try waits, since those before it failed.
    pub waits: bool,
}

/// How a model stands.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub stage: Stage,
    /// Why it could not be loaded when that was tried last.
    pub failure: Option<Failure>,
    /// What its weights take, as the first worker measured it, bytes; 0 before that.
    pub weights_bytes: u64,
    /// The same as it was reckoned when the model was added; 0 where nobody did.
    pub estimated_bytes: u64,
}

/// What a reload changed: names of models, and numbers that no new request gets.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    pub removed: Vec<String>,
    pub refused: Vec<String>,
    pub retired: Vec<ModelId>,
}

/// How the last reload ended.
#[derive(Clone, Debug)]
pub struct Reloaded {
    /// Counts them.
    pub number: u64,
    pub outcome: Result<Changes, String>,
}

/// All models, by name.
#[derive(Debug)]
pub struct Catalog {
    inner: RwLock<Inner>,
    changes: watch::Sender<()>,
}

#[derive(Debug)]
struct Inner {
    entries: BTreeMap<Arc<str>, Entry>,
    standings: BTreeMap<Arc<str>, Standing>,
    /// By number. Grows with each change that an operator makes.
    names: Vec<Arc<str>>,
    /// The file that a reload is hashing.
    hashing: Option<(String, ModelLoading)>,
    reloaded: Reloaded,
}

impl Catalog {
    /// Of what the launcher said first.
    pub fn new(models: Models) -> Self {
        let catalog = Catalog {
            inner: RwLock::new(Inner {
                entries: BTreeMap::new(),
                standings: BTreeMap::new(),
                names: Vec::new(),
                hashing: None,
                reloaded: Reloaded {
                    number: 0,
                    outcome: Ok(Changes::default()),
                },
            }),
            changes: watch::Sender::new(()),
        };
        catalog.replace(models);
        catalog
    }

    /// The model of that name.
    pub fn get(&self, name: &str) -> Option<Entry> {
        self.inner.read().entries.get(name).cloned()
    }

    /// All models, by name.
    pub fn all(&self) -> Vec<Entry> {
        self.inner.read().entries.values().cloned().collect()
    }

    /// What a number's model is called.
    pub fn name(&self, id: ModelId) -> Option<Arc<str>> {
        self.inner.read().names.get(id.0 as usize).cloned()
    }

    /// Whether a number's model runs on GPUs: those that only make embeddings do not.
    pub fn accelerates(&self, id: ModelId) -> bool {
        let inner = self.inner.read();
        let name = inner.names.get(id.0 as usize);
        let entry = name.and_then(|name| inner.entries.get(name));
        entry.is_some_and(|entry| entry.id == id && entry.task != EMBED)
    }

    /// How a model stands.
    pub fn standing(&self, name: &str) -> Standing {
        let inner = self.inner.read();
        inner.standings.get(name).cloned().unwrap_or_default()
    }

    /// The model that a reload is hashing, and how far it has come.
    pub fn hashing(&self) -> Option<(String, ModelLoading)> {
        self.inner.read().hashing.clone()
    }

    /// How the last reload ended.
    pub fn reloaded(&self) -> Reloaded {
        self.inner.read().reloaded.clone()
    }

    /// Wakes whenever something here has changed.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// The launcher told all models anew.
    pub fn replace(&self, models: Models) -> Changes {
        let changes = self.inner.write().replace(models);
        self.changes.send_replace(());
        changes
    }

    /// The launcher could not read the models again.
    pub fn reload_failed(&self, reason: String) {
        self.inner.write().reload_ended(Err(reason));
        self.changes.send_replace(());
    }

    /// The launcher told what became of a model.
    pub fn news(&self, name: &str, news: News) {
        self.inner.write().news(name, news);
        self.changes.send_replace(());
    }

    /// Somebody asks for a model to be loaded: what went wrong before does not count.
    pub fn asked(&self, name: &str) {
        if let Some(standing) = self.inner.write().standings.get_mut(name) {
            standing.failure = None;
            if standing.stage == Stage::Absent {
                standing.stage = Stage::Loading(ModelLoading {
                    phase: "starting".into(),
                    ..ModelLoading::default()
                });
            }
        }
    }

    /// A worker of this model could not be had.
    pub fn failed(&self, name: &str, failure: Failure) {
        if let Some(standing) = self.inner.write().standings.get_mut(name) {
            standing.failure = Some(failure);
        }
    }

    /// Keeps what a worker said of its model.
    pub fn learn(&self, name: &str, ready: &Ready) {
        let mut inner = self.inner.write();
        if let Some(entry) = inner.entries.get_mut(name) {
            entry.dimensions = ready.dimensions;
            entry.context_tokens = ready.context_tokens;
        }
        if let Some(standing) = inner.standings.get_mut(name) {
            standing.failure = None;
            if standing.weights_bytes == 0 {
                standing.weights_bytes = ready.weights_bytes;
                compare(name, standing);
            }
        }
    }
}

impl Inner {
    fn replace(&mut self, models: Models) -> Changes {
        let mut changes = Changes::default();
        let mut entries = BTreeMap::new();
        let mut standings = BTreeMap::new();
        for model in models.models {
            if model.refused {
                changes.refused.push(model.name.clone());
            }
            let before = self.entries.remove(&*model.name);
            let same = before
                .as_ref()
                .is_some_and(|entry| describes(entry, &model));
            let (entry, mut standing) = match before.filter(|_| same) {
                Some(entry) => {
                    let standing = self.standings.remove(&entry.name).unwrap_or_default();
                    (entry, standing)
                }
                None => (self.number(&model), Standing::default()),
            };
            standing.estimated_bytes = model.weights_bytes;
            if !same {
                match self.names[..entry.id.0 as usize].contains(&entry.name) {
                    true => changes.changed.push(model.name),
                    false => changes.added.push(model.name),
                }
            }
            standings.insert(entry.name.clone(), standing);
            entries.insert(entry.name.clone(), entry);
        }
        let gone = |entry: &Entry| !entries.contains_key(&entry.name);
        let old = self.entries.values();
        changes.removed = old
            .filter(|e| gone(e))
            .map(|e| e.name.to_string())
            .collect();
        self.entries = entries;
        self.standings = standings;
        let current = |id: &ModelId| self.entries.values().any(|entry| entry.id == *id);
        let all = (0..self.names.len() as u32).map(ModelId);
        changes.retired = all.filter(|id| !current(id)).collect();
        self.reload_ended(Ok(changes.clone()));
        changes
    }

    /// Gives a model the next number.
    fn number(&mut self, model: &OfferedModel) -> Entry {
        let name: Arc<str> = Arc::from(model.name.as_str());
        self.names.push(name.clone());
        Entry {
            id: ModelId(self.names.len() as u32 - 1),
            name,
            task: task(model),
            owner: owner(model),
            dimensions: 0,
            context_tokens: 0,
            sha256: Arc::from(model.sha256.as_str()),
        }
    }

    fn reload_ended(&mut self, outcome: Result<Changes, String>) {
        self.hashing = None;
        let number = self.reloaded.number + 1;
        self.reloaded = Reloaded { number, outcome };
    }

    fn news(&mut self, name: &str, news: News) {
        match news {
            News::Loading(loading) if loading.phase == "hashing" => {
                self.hashing = Some((name.into(), loading));
            }
            news => {
                if let Some(standing) = self.standings.get_mut(name) {
                    standing.hear(news);
                }
            }
        }
    }
}

impl Standing {
    fn hear(&mut self, news: News) {
        self.stage = match news {
            News::Loading(loading) => Stage::Loading(loading),
            News::Held(ModelHeld { resident_bytes }) => Stage::Held { resident_bytes },
            News::Dropped(ModelDropped { reason, .. }) => {
                if !reason.is_empty() {
                    let waits = false;
                    self.failure = Some(Failure { reason, waits });
                }
                Stage::Absent
            }
        };
        if matches!(self.stage, Stage::Held { .. }) {
            self.failure = None;
        }
    }
}

fn task(model: &OfferedModel) -> String {
    match model.format.as_str() {
        "null" => ANY.into(),
        _ => model.task.clone(),
    }
}

fn owner(model: &OfferedModel) -> Option<String> {
    Some(model.owner.clone()).filter(|owner| !owner.is_empty())
}

/// True where nothing of a model has changed that a request or a worker could tell.
fn describes(entry: &Entry, model: &OfferedModel) -> bool {
    *entry.sha256 == *model.sha256 && entry.task == task(model) && entry.owner == owner(model)
}

/// Tells where what a model takes is not what its files seemed to say.
fn compare(name: &str, standing: &Standing) {
    let (measured, estimated) = (standing.weights_bytes, standing.estimated_bytes);
    metrics::weights(name, measured, estimated);
    let off = measured.abs_diff(estimated).saturating_mul(100);
    if measured > 0 && estimated > 0 && off > estimated.saturating_mul(ESTIMATE_OFF_MAX) {
        tracing::warn!(
            model = name,
            measured,
            estimated,
            "a model's weights take other than was reckoned when it was added"
        );
    }
}

#[cfg(test)]
#[path = "catalog_tests.rs"]
mod tests;
