//! What workers say of themselves, made into metrics: work done and memory held.
//!
//! For operators alone: nobody is billed for it, and all that is decided by it is that a worker speaks too often.

use super::{Driver, ends::Cause, worker::Worker};
use crate::server::metrics::{self, Held};
use bulkhead_core::WorkerId;
use bulkhead_proto::internal::{Counters, Expired};

/// Frames of something dropped that a worker may send in a second: it wakes at most once a millisecond for it.
const DROPPED_FRAMES_MAX: u32 = 2_000;
/// What a frame of something dropped must be about at least, bytes: any block of keys and values is larger.
const DROPPED_BYTES_MIN: u64 = 256;

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

    /// What a worker says that it dropped of its own accord, with no lease to bound how often it may speak. So each such
    /// frame must leave less that is cached than the last, and there are no more of them than there are pieces to drop.
    pub(super) fn expired(&mut self, worker: WorkerId, expired: &Expired) {
        if !self.clean(worker, expired.scrub.as_ref()) {
            return;
        }
        let counters = expired.counters.unwrap_or_default();
        let model = self.workers.get(&worker).map(|entry| entry.model);
        let keeps = model.is_some_and(|model| self.caches_prefixes(model));
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let before = entry.held.cached.min(entry.quota_bytes);
        entry.expired += 1;
        let less = counters.cached_bytes.saturating_add(DROPPED_BYTES_MIN) <= before;
        match keeps && less && entry.expired <= DROPPED_FRAMES_MAX {
            true => self.counted(worker, expired.kv_bytes, counters),
            false => self.kill_worker(worker, Cause::Protocol),
        }
    }

    /// A second has passed.
    pub(super) fn forget_counts(&mut self) {
        self.workers
            .values_mut()
            .for_each(|worker| worker.expired = 0);
    }

    /// A worker that is gone holds nothing: the kernel has its memory.
    pub(super) fn let_go(&self, worker: &Worker) {
        if let Some(model) = self.model_name(worker.model) {
            let tenant = self.label(worker.tenant);
            metrics::held(&tenant, &model, worker.held, Held::default());
        }
    }
}
