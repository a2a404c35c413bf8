//! What the launcher tells the driver of workers. (What it tells of the audit process goes elsewhere.)

use super::Driver;
use bulkhead_core::{Event, StartFailure, WorkerId};
use bulkhead_proto::internal::{FromLauncher, ModelFault, SpawnFailed, Spawned, from_launcher};
use std::os::fd::OwnedFd;

impl Driver {
    pub(super) fn launcher_said(&mut self, message: FromLauncher, descriptor: Option<OwnedFd>) {
        match message.message {
            Some(from_launcher::Message::Spawned(spawned)) => self.spawned(&spawned, descriptor),
            Some(from_launcher::Message::SpawnFailed(failed)) => self.spawn_failed(&failed),
            Some(from_launcher::Message::Exited(exited)) => {
                tracing::info!(worker = exited.worker, how = %exited.how, "a worker ended");
                self.worker_gone(WorkerId(exited.worker));
            }
            Some(from_launcher::Message::ModelFault(fault)) => self.note_fault(&fault),
            _ => {}
        }
    }

    /// The launcher is believed, and still no name but one of ours becomes a label.
    fn note_fault(&self, fault: &ModelFault) {
        if self.setup.models.iter().any(|name| **name == *fault.model) {
            self.setup.faults.note(&fault.model, fault);
        }
    }

    fn spawned(&mut self, spawned: &Spawned, socket: Option<OwnedFd>) {
        let worker = WorkerId(spawned.worker);
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
            tracing::error!(worker = failed.worker, reason = %failed.reason, "a worker could not be started");
        }
        let worker = WorkerId(failed.worker);
        if let Some(fault) = &failed.fault {
            self.note_fault(fault);
        }
        if self.workers.remove(&worker).is_some() {
            self.tell(Event::WorkerFailed { worker, failure });
        }
    }
}
