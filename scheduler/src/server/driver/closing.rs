//! Requests that ended early (cancelled, revoked, past their deadline) while a worker had them.
//!
//! The core is done with them at once. Their worker still has to drop them, clean up, and say so, and
//! that evidence belongs into their record: so they wait here for it, but never longer than
//! `PATIENCE`, because whoever was revoked must see its stream end within a second.

use super::{Driver, request::Request};
use bulkhead_core::{End, Nanos, RequestId, WorkerId};

/// How long a request waits for its worker's evidence.
const PATIENCE_NS: Nanos = 500_000_000;

pub(super) struct Closing {
    pub request: Request,
    end: End,
}

impl Driver {
    /// Closes what the core has ended in this turn.
    pub(super) fn close_ended(&mut self) {
        for (id, end, now) in std::mem::take(&mut self.ended) {
            self.core_ended(id, end, now);
        }
    }

    /// Takes a request's end from the core: told at once, or once its worker has cleaned up.
    fn core_ended(&mut self, id: RequestId, end: End, now: Nanos) {
        let Some(request) = self.requests.remove(&id) else {
            return;
        };
        let early = matches!(end, End::Cancelled(_) | End::Deadline);
        let held = request
            .worker
            .is_some_and(|w| self.workers.contains_key(&w));
        if early && held && request.finished.is_none() {
            self.overdue
                .push_back((now.saturating_add(PATIENCE_NS), id));
            self.closing.insert(id, Closing { request, end });
        } else {
            self.end_request(request, end, now);
        }
    }

    /// Its worker has spoken of it for the last time.
    pub(super) fn close(&mut self, id: RequestId) {
        if let Some(closing) = self.closing.remove(&id) {
            self.end_request(closing.request, closing.end, self.setup.clock.now_ns());
        }
    }

    /// A worker is gone: nothing more will be heard of its requests, and the kernel has its memory.
    pub(super) fn close_all_of(&mut self, worker: WorkerId) {
        let of_it = self.closing.iter();
        let of_it = of_it.filter(|(_, closing)| closing.request.worker == Some(worker));
        let ids: Vec<RequestId> = of_it.map(|(id, _)| *id).collect();
        ids.into_iter().for_each(|id| self.close(id));
    }

    /// When the next one has waited long enough.
    pub(super) fn next_overdue(&self) -> Option<Nanos> {
        self.overdue.front().map(|(at, _)| *at)
    }

    /// Ends those that have waited long enough, without evidence.
    pub(super) fn close_overdue(&mut self, now: Nanos) {
        while let Some((_, id)) = self.overdue.pop_front_if(|(at, _)| *at <= now) {
            self.close(id);
        }
    }
}
