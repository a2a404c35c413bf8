//! What operators ask about models: how each stands, to have one loaded or unloaded, and to have the
//! folder read again.
//!
//! The launcher does the work. Here a call is passed on, and then the catalogue, which hears what came
//! of it, is watched until it says so; nothing is timed or guessed. Whoever hangs up ends nothing.

use super::AdminService;
use crate::server::{
    catalog::{Catalog, Changes, Entry, Stage, Standing},
    driver::Message,
    errors::Refused,
};
use bulkhead_proto::{
    internal::{LoadModel, ModelLoading, ReloadModels, to_launcher},
    v1::{
        ModelProgress, ModelState, ModelWorkers, ModelsReloaded, ReloadModelsResponse,
        WorkerStatus, reload_models_response::Message as Said,
    },
};
use serde_json::json;
use std::collections::BTreeMap;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status};

/// What a call answers with, piece by piece.
pub type Answers<T> = ReceiverStream<Result<T, Status>>;

/// Where the pieces come from.
type Teller<T> = mpsc::Sender<Result<T, Status>>;

/// Pieces of progress that may wait for a slow reader.
const ANSWERS_WAITING_MAX: usize = 16;

/// Where workers run.
const DEVICE: &str = "cpu";

impl AdminService {
    /// How each model stands, as far as `tenant` (everybody, where it is empty) may see.
    pub(super) async fn states(&self, tenant: &str) -> Result<Vec<ModelState>, Status> {
        let workers = self.snapshot().await?.workers;
        let all = self.app.catalog.all().into_iter();
        let seen = all.filter(|entry| {
            let owner = entry.owner.as_deref();
            tenant.is_empty() || owner.is_none_or(|owner| owner == tenant)
        });
        Ok(seen
            .map(|entry| {
                let standing = self.app.catalog.standing(&entry.name);
                let fault = self.app.faults.of(&entry.name);
                state(&entry, standing, fault, &workers, tenant)
            })
            .collect())
    }

    /// Has a model loaded, and tells how far it has come.
    pub(super) async fn load(
        &self,
        model: String,
    ) -> Result<Response<Answers<ModelProgress>>, Status> {
        self.ready().await?;
        self.known(&model)?;
        self.record("", "model.load", json!({ "model": model }))
            .await?;
        let (teller, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            if let Err(status) = service.watch_load(&model, &teller).await {
                // Whoever asked may have hung up.
                let _ = teller.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn watch_load(&self, model: &str, teller: &Teller<ModelProgress>) -> Result<(), Status> {
        let catalog = &self.app.catalog;
        let mut changes = catalog.changes();
        catalog.asked(model);
        let ask = LoadModel {
            model: model.into(),
            device: DEVICE.into(),
        };
        self.tell(Message::ToLauncher(to_launcher::Message::LoadModel(ask)))
            .await?;
        let mut last = None;
        loop {
            let standing = catalog.standing(model);
            if let Some(failure) = standing.failure {
                let reason = failure.reason;
                return Err(unloadable(format!("{model} was not loaded: {reason}")));
            }
            match standing.stage {
                Stage::Held { .. } => return Ok(()),
                Stage::Absent => {
                    return Err(unloadable(format!("{model} was unloaded meanwhile")));
                }
                Stage::Loading(loading) if last.as_ref() != Some(&loading) => {
                    last = Some(loading.clone());
                    let told = teller.send(Ok(progress(model, loading))).await;
                    if told.is_err() {
                        return Ok(());
                    }
                }
                Stage::Loading(_) => {}
            }
            tokio::select! {
                changed = changes.changed() => changed.map_err(|_| stopping())?,
                () = teller.closed() => return Ok(()),
            }
        }
    }

    /// Has a model's workers end, and what holds it for them; how many workers there are.
    pub(super) async fn unload(&self, model: String) -> Result<u32, Status> {
        self.ready().await?;
        self.known(&model)?;
        let (reply, workers) = oneshot::channel();
        self.tell(Message::Unload(model.clone(), reply)).await?;
        let workers = workers.await.map_err(|_| stopping())?;
        let details = json!({ "model": model, "workers": workers });
        self.record("", "model.unload", details).await?;
        Ok(workers)
    }

    /// Has the folder read again, and tells how far that has come and what it changed.
    pub(super) async fn reload(&self) -> Result<Response<Answers<ReloadModelsResponse>>, Status> {
        self.ready().await?;
        let (teller, answers) = mpsc::channel(ANSWERS_WAITING_MAX);
        let service = self.clone();
        tokio::spawn(async move {
            let last = match service.watch_reload(&teller).await {
                Ok(changes) => Ok(ReloadModelsResponse {
                    message: Some(Said::Reloaded(reloaded(changes, &service.app.catalog))),
                }),
                Err(status) => Err(status),
            };
            // Whoever asked may have hung up.
            let _ = teller.send(last).await;
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn watch_reload(&self, teller: &Teller<ReloadModelsResponse>) -> Result<Changes, Status> {
        let _alone = self.app.reloading.lock().await;
        let catalog = &self.app.catalog;
        let mut changes = catalog.changes();
        let before = catalog.reloaded().number;
        let ask = to_launcher::Message::ReloadModels(ReloadModels {});
        self.tell(Message::ToLauncher(ask)).await?;
        let mut last = None;
        loop {
            let done = catalog.reloaded();
            if done.number != before {
                let changes = done.outcome.map_err(|reason| {
                    let what = format!("{reason}; the models stay as they were");
                    Refused::new(Code::FailedPrecondition, "MODELS_INVALID", what).into_status()
                })?;
                self.record("", "model.reload", details(&changes)).await?;
                return Ok(changes);
            }
            let hashing = catalog.hashing().filter(|now| last.as_ref() != Some(now));
            if let Some((model, loading)) = hashing {
                last = Some((model.clone(), loading.clone()));
                let message = Some(Said::Progress(progress(&model, loading)));
                // Who hung up does not keep the outcome from being recorded; who is slow misses some.
                let _ = teller.try_send(Ok(ReloadModelsResponse { message }));
            }
            changes.changed().await.map_err(|_| stopping())?;
        }
    }

    /// Refuses a name that no model has.
    fn known(&self, model: &str) -> Result<(), Status> {
        if self.app.catalog.get(model).is_some() {
            return Ok(());
        }
        let name: String = model.chars().take(super::MODEL_NAME_CHARS_MAX).collect();
        let what = format!(
            "this server has no model {name:?}; `bulkhead models list` says which there are, and \
             `bulkhead models reload` has the server find new ones"
        );
        Err(Refused::new(Code::NotFound, "MODEL_NOT_FOUND", what).into_status())
    }
}

fn stopping() -> Status {
    Refused::stopping().into_status()
}

fn unloadable(what: String) -> Status {
    Refused::new(Code::FailedPrecondition, "MODEL_UNAVAILABLE", what).into_status()
}

fn progress(model: &str, loading: ModelLoading) -> ModelProgress {
    ModelProgress {
        model: model.into(),
        phase: loading.phase,
        done_bytes: loading.done_bytes,
        total_bytes: loading.total_bytes,
    }
}

fn details(changes: &Changes) -> serde_json::Value {
    json!({
        "added": changes.added,
        "changed": changes.changed,
        "removed": changes.removed,
        "refused": changes.refused,
    })
}

fn reloaded(changes: Changes, catalog: &Catalog) -> ModelsReloaded {
    let digest = |entry: Entry| (entry.name.to_string(), entry.sha256.to_string());
    ModelsReloaded {
        added: changes.added,
        changed: changes.changed,
        removed: changes.removed,
        refused: changes.refused,
        offered: catalog.all().into_iter().map(digest).collect(),
    }
}

/// What one model's state is for `tenant`; for an operator where that is empty.
fn state(
    entry: &Entry,
    standing: Standing,
    fault: Option<String>,
    workers: &[WorkerStatus],
    tenant: &str,
) -> ModelState {
    let own = || workers.iter().filter(|worker| *worker.model == *entry.name);
    let mut serving: BTreeMap<&str, u32> = BTreeMap::new();
    for worker in own() {
        *serving.entry(&worker.tenant).or_default() += 1;
    }
    let mut others = 0;
    serving.retain(|of, count| {
        let seen = tenant.is_empty() || *of == tenant;
        others += if seen { 0 } else { *count };
        seen
    });
    let starting = |worker: &WorkerStatus| worker.state == "starting";
    let (word, reason) = match (&standing.stage, fault, standing.failure) {
        (_, Some(fault), _) => ("refused", fault),
        (Stage::Loading(_), ..) => ("loading", String::new()),
        (Stage::Held { .. }, ..) => ("ready", String::new()),
        _ if own().any(|worker| !starting(worker)) => ("ready", String::new()),
        _ if own().any(starting) => ("loading", String::new()),
        (Stage::Absent, None, Some(failure)) => {
            let word = if failure.waits {
                "in backoff"
            } else {
                "failed"
            };
            (word, failure.reason)
        }
        (Stage::Absent, None, None) => ("not loaded", String::new()),
    };
    ModelState {
        name: entry.name.to_string(),
        owner: entry.owner.clone().unwrap_or_default(),
        state: word.into(),
        reason,
        workers: (serving.into_iter())
            .map(|(tenant, workers)| ModelWorkers {
                tenant: tenant.into(),
                workers,
            })
            .collect(),
        other_workers: others,
        weights_bytes: standing.weights_bytes,
        resident_bytes: match standing.stage {
            Stage::Held { resident_bytes } => resident_bytes,
            _ => 0,
        },
        progress: match standing.stage {
            Stage::Loading(loading) => Some(progress(&entry.name, loading)),
            _ => None,
        },
        sha256: entry.sha256.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::catalog::Failure;
    use bulkhead_core::ModelId;
    use std::sync::Arc;

    fn entry() -> Entry {
        Entry {
            id: ModelId(0),
            name: Arc::from("m"),
            task: "embed".into(),
            owner: None,
            dimensions: 0,
            context_tokens: 0,
            sha256: Arc::from("0"),
        }
    }

    fn worker(tenant: &str, model: &str, state: &str) -> WorkerStatus {
        WorkerStatus {
            tenant: tenant.into(),
            model: model.into(),
            state: state.into(),
            ..WorkerStatus::default()
        }
    }

    #[test]
    fn a_tenant_sees_its_own_workers_and_how_many_others_there_are() {
        let workers = [
            worker("acme", "m", "idle"),
            worker("globex", "m", "running"),
            worker("initech", "m", "idle"),
            worker("acme", "other", "idle"),
        ];
        let seen = |tenant| state(&entry(), Standing::default(), None, &workers, tenant);
        let all = seen("");
        assert_eq!((all.workers.len(), all.other_workers), (3, 0));
        let own = seen("acme");
        let named: Vec<_> = own.workers.iter().map(|w| w.tenant.as_str()).collect();
        assert_eq!((named, own.other_workers), (vec!["acme"], 2));
        assert_eq!(seen("nobody").other_workers, 3);
    }

    #[test]
    fn a_state_is_what_counts_most() {
        let failed = Standing {
            failure: Some(Failure {
                reason: "no room".into(),
                waits: false,
            }),
            ..Standing::default()
        };
        let mut waiting = failed.clone();
        waiting.failure.as_mut().unwrap().waits = true;
        let starting = [worker("acme", "m", "starting")];
        let ready = [worker("acme", "m", "idle")];
        let held = Standing {
            stage: Stage::Held { resident_bytes: 7 },
            ..Standing::default()
        };
        let word = |standing: &Standing, fault: Option<&str>, workers: &[WorkerStatus]| {
            let fault = fault.map(String::from);
            state(&entry(), standing.clone(), fault, workers, "").state
        };
        let none = Standing::default();
        assert_eq!(word(&none, None, &[]), "not loaded");
        assert_eq!(word(&none, None, &starting), "loading");
        assert_eq!(word(&none, None, &ready), "ready");
        assert_eq!(word(&failed, None, &[]), "failed");
        assert_eq!(word(&waiting, None, &[]), "in backoff");
        assert_eq!(word(&held, None, &[]), "ready");
        assert_eq!(word(&held, Some("model.gguf is gone"), &ready), "refused");
    }
}
