//! What workers say of themselves, made into metrics: work done and memory held.
//!
//! For operators alone. Nothing is decided by it, and nobody is billed for it.

use super::{Driver, worker::Worker};
use crate::server::metrics::{self, Held};
use bulkhead_core::WorkerId;
use bulkhead_proto::internal::Counters;

impl Driver {
    /// Shows what a worker says that it did so far, and holds now.
    pub(super) fn counted(&mut self, worker: WorkerId, live: u64, counters: Counters) {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let now = Held {
            live,
            cached: counters.cached_bytes,
        };
        let held = std::mem::replace(&mut entry.held, now);
        let before = std::mem::replace(&mut entry.counters, counters);
        let (tenant, model) = (entry.tenant, entry.model);
        if let Some(model) = self.model_name(model) {
            let tenant = self.label(tenant);
            metrics::engine(&tenant, &model, &before, &counters);
            metrics::held(&tenant, &model, held, now);
        }
    }

    /// A worker that is gone holds nothing: the kernel has its memory.
    pub(super) fn let_go(&self, worker: &Worker) {
        if let Some(model) = self.model_name(worker.model) {
            let tenant = self.label(worker.tenant);
            metrics::held(&tenant, &model, worker.held, Held::default());
        }
    }
}
