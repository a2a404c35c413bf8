//! What the launcher tells the driver of workers. (What it tells of the audit process goes elsewhere.)

use super::Driver;
use crate::server::catalog::Failure;
use bulkhead_core::{Event, ModelId, StartFailure, WorkerId};
use bulkhead_proto::internal::{
    FromLauncher, ModelFault, Models, SpawnFailed, Spawned, UnloadModel, WeightsChanged,
    from_launcher, to_launcher,
};
use std::{collections::BTreeSet, os::fd::OwnedFd};

impl Driver {
    pub(super) fn launcher_said(&mut self, message: FromLauncher, descriptor: Option<OwnedFd>) {
        match message.message {
            Some(from_launcher::Message::Spawned(spawned)) => self.spawned(&spawned, descriptor),
            Some(from_launcher::Message::SpawnFailed(failed)) => self.spawn_failed(&failed),
            Some(from_launcher::Message::Exited(exited)) => {
                let worker = WorkerId(exited.worker);
                self.worker_gone(worker);
                self.buried(worker, &exited);
            }
            Some(from_launcher::Message::ModelFault(fault)) => self.note_fault(&fault),
            Some(from_launcher::Message::WeightsChanged(told)) => self.note_changed(&told),
            Some(from_launcher::Message::Models(models)) => self.models_changed(models),
            Some(from_launcher::Message::ModelNews(news)) => {
                if let Some(state) = news.state {
                    self.setup.known.news(&news.model, state);
                }
            }
            Some(from_launcher::Message::ReloadFailed(failed)) => {
                self.setup.known.reload_failed(failed.reason);
            }
            _ => {}
        }
    }

    /// The launcher is believed, and still no name but one of ours becomes a label.
    fn note_fault(&self, fault: &ModelFault) {
        if self.setup.known.get(&fault.model).is_some() {
            self.setup.faults.note(&fault.model, fault);
        }
    }

    /// As for faults.
    fn note_changed(&self, told: &WeightsChanged) {
        if self.setup.known.get(&told.model).is_some() {
            self.setup.faults.weights_changed(told);
        }
    }

    /// The models were read again: workers of what is no more finish what they hold.
    fn models_changed(&mut self, models: Models) {
        for model in models.models.iter().filter(|model| !model.refused) {
            self.setup.faults.mended(&model.name);
        }
        for model in self.setup.known.replace(models).retired {
            self.tell(Event::RetireModel { model });
        }
    }

    /// Ends a model's workers, each once it has finished what it holds; how many there are.
    pub(super) fn unload(&mut self, name: &str) -> u32 {
        let of_model = |model: &ModelId| self.model_name(*model).is_some_and(|n| *n == *name);
        let models: Vec<_> = (self.workers.values().map(|worker| worker.model))
            .filter(of_model)
            .collect();
        let workers = models.len();
        for model in BTreeSet::from_iter(models) {
            self.tell(Event::RetireModel { model });
        }
        let model = name.to_owned();
        self.to_launcher(to_launcher::Message::UnloadModel(UnloadModel { model }));
        workers as u32
    }

    fn spawned(&mut self, spawned: &Spawned, socket: Option<OwnedFd>) {
        let worker = WorkerId(spawned.worker);
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.seal.clone_from(&spawned.layers);
            entry.keeper = spawned.keeper;
        }
        let connected = match socket {
            Some(socket) => self.connect_worker(worker, spawned.pid, socket),
            None => Err(std::io::Error::other("no socket came with it")),
        };
        if let Err(error) = connected {
            tracing::error!(worker = worker.0, %error, "cannot speak with a worker");
            self.worker_gone(worker);
        }
    }

    fn spawn_failed(&mut self, failed: &SpawnFailed) {
        let failure = match (failed.permanent, failed.wait_ns) {
            (true, _) => StartFailure::Refused,
            (false, 0) => StartFailure::Tried { permanent: false },
            (false, for_ns) => StartFailure::Waiting { for_ns },
        };
        if !matches!(failure, StartFailure::Waiting { .. }) {
            let model = self.workers.get(&WorkerId(failed.worker));
            let model = model.and_then(|worker| self.model_name(worker.model));
            let (model, reason) = (model.as_deref().unwrap_or_default(), &failed.reason);
            tracing::error!(worker = failed.worker, model, %reason, "a worker could not be started");
        }
        let worker = WorkerId(failed.worker);
        if let Some(fault) = &failed.fault {
            self.note_fault(fault);
        }
        if let Some(gone) = self.workers.remove(&worker) {
            if let Some(name) = self.model_name(gone.model) {
                let failure = Failure {
                    reason: failed.reason.clone(),
                    waits: failed.wait_ns > 0,
                };
                self.setup.known.failed(&name, failure);
            }
            self.tell(Event::WorkerFailed { worker, failure });
        }
    }
}
