//! What a worker says, and what follows from it.
//!
//! What a worker says is data. It can only end requests that it was given, and its own measurements are for metrics and the length of its own turns.
//! Nothing of a frame counts where the worker is to end for it.

use super::{
    Driver, Heard, Text, Update,
    ends::Cause,
    unleased::{Unleased, processor_ns},
    worker::{State, Worker},
};
use crate::{launcher::CHANGED, server::metrics};
use bulkhead_core::{Event, Outcome, RequestId, WorkerId};
use bulkhead_proto::SILENT_STEPS_MAX;
use bulkhead_proto::internal::{
    self, Assign, Piece, Ready, Released, ScrubReport, Step, from_worker, to_worker,
};
use std::collections::HashSet;

/// Why a generation may end.
const FINISH_REASONS: [&str; 2] = ["stop", "length"];
/// The layers of a seal, and the name of one, bytes.
const LAYERS_MAX: usize = 32;
const LAYER_BYTES_MAX: usize = 64;
/// The longest explanation taken from a worker, bytes.
const DETAIL_BYTES_MAX: usize = 512;
/// The most pieces of one answer in a step: its latest token's, and what was held back until its end.
const PIECES_OF_ONE_MAX: usize = 2;
/// The longest stop string that a worker may name, bytes: that of the longest a request may have.
const STOP_BYTES_MAX: usize = 256;

impl Driver {
    pub(super) fn worker_said(&mut self, worker: WorkerId, heard: Heard) {
        if self.is_condemned(worker) {
            return;
        }
        let message = match heard {
            Heard::Frame(frame) => frame.message,
            Heard::Nonsense => None,
            Heard::End => return self.worker_gone(worker),
        };
        match message {
            Some(from_worker::Message::Ready(ready)) => self.ready(worker, ready),
            Some(from_worker::Message::Refused(refused)) => self.refused(worker, refused),
            Some(from_worker::Message::Step(step)) => self.stepped(worker, step),
            Some(from_worker::Message::Released(released)) => self.released(worker, &released),
            Some(from_worker::Message::Expired(expired)) => self.expired(worker, &expired),
            None => self.kill_worker(worker, Cause::Frame),
        }
    }

    /// True of a worker that is to end, or is gone: nothing that it says is heard.
    fn is_condemned(&self, worker: WorkerId) -> bool {
        let known = self.workers.get(&worker);
        known.is_none_or(|entry| entry.cause.is_some())
    }

    fn ready(&mut self, worker: WorkerId, ready: Ready) {
        let model = self.workers.get(&worker).map(|entry| entry.model);
        let keeps = model.is_some_and(|model| self.caches_prefixes(model));
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        if entry.state != State::Starting {
            return self.kill_worker(worker, Cause::Protocol);
        }
        entry.state = State::Idle;
        let layers = ready.seal.iter().take(LAYERS_MAX).cloned();
        entry.seal.extend(layers.map(|mut layer| {
            cut(&mut layer, LAYER_BYTES_MAX);
            layer
        }));
        let seal = entry.seal.clone();
        let (tenant, model, device) = (entry.tenant, entry.model, entry.device);
        let Some(facts) = self.tenants.get(&tenant) else {
            return;
        };
        let quota_bytes = facts.quota_on(device);
        entry.quota_bytes = quota_bytes;
        let now = self.setup.clock.now_ns();
        entry.unleased =
            processor_ns(entry.pid).map(|used_ns| Unleased::new(now, used_ns, quota_bytes, keeps));
        let assign = Assign {
            tenant: facts.name.to_string(),
            quota_bytes,
            region: self.setup.region.clone(),
            residency: facts.residency.clone(),
            step_limit_ns: self.setup.step_limit_ns,
            prefix_cache: keeps,
            prefix_cache_idle_ns: self.setup.prefix_cache_idle_ns,
        };
        if let Some(name) = self.model_name(model) {
            self.setup.known.learn(&name, &ready);
            self.setup.faults.mended(&name);
        }
        metrics::worker_started();
        tracing::info!(worker = worker.0, tenant = %facts.name, seal = ?seal, load_ms = ready.load_ns / 1_000_000, "a worker is sealed and ready");
        self.send(worker, to_worker::Message::Assign(assign));
        self.tell(Event::WorkerReady { worker });
    }

    /// It did not come to serve. A file that it found to be another is on record like one that the
    /// launcher found: what a worker says of its own model harms nobody but whom it would have served.
    fn refused(&mut self, worker: WorkerId, refused: internal::Refused) {
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        if entry.state != State::Starting {
            return self.kill_worker(worker, Cause::Protocol);
        }
        let mut reason = refused.reason;
        cut(&mut reason, DETAIL_BYTES_MAX);
        tracing::error!(worker = worker.0, ?reason, "a worker refused to serve");
        entry.refused_for_good = refused.permanent;
        entry.condemn(Cause::Refused);
        let model = entry.model;
        if !refused.file.is_empty()
            && let Some(model) = self.model_name(model)
        {
            let fault = internal::ModelFault {
                model: model.to_string(),
                file: refused.file,
                what: CHANGED.into(),
                found_sha256: refused.found_sha256,
            };
            self.setup.faults.note(&model, &fault);
        }
        self.worker_gone(worker);
    }

    /// What the lane waits for comes first; what operators see of it comes last.
    fn stepped(&mut self, worker: WorkerId, step: Step) {
        let now = self.setup.clock.now_ns();
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let lease = entry.lease.as_mut();
        let Some(lease) = lease.filter(|lease| lease.number == step.lease) else {
            return self.kill_worker(worker, Cause::Protocol);
        };
        if step.silent_steps > SILENT_STEPS_MAX {
            return self.kill_worker(worker, Cause::Protocol);
        }
        let (step_ns, between_ns) = lease.times.stepped(now, step.step_ns);
        let (lease, tenant, model) = (lease.id, entry.tenant, entry.model);
        // First: where memory was not clean nothing of the frame counts.
        let released = step.released.iter().map(|released| released.scrub);
        let scrubs = step.finished.iter().map(|finished| finished.scrub);
        for scrub in scrubs.chain(released).flatten() {
            if !self.clean(worker, Some(&scrub)) {
                return;
            }
        }
        let admitted = (self.workers.get_mut(&worker)).map(|entry| admitted(entry, &step));
        let requests = match admitted {
            Some(Ok(requests)) => requests,
            Some(Err(cause)) => return self.kill_worker(worker, cause),
            None => return,
        };
        let told = step.pieces.iter().map(|piece| piece.output_tokens);
        let answers = requests.iter().copied().zip(told).collect();
        for (request, piece) in requests.into_iter().zip(step.pieces) {
            self.piece(worker, request, piece);
        }
        self.tell(Event::Stepped {
            worker,
            lease,
            step_ns,
            tokens: step.tokens,
            kv_bytes: step.kv_bytes,
            answers,
        });
        for finished in step.finished {
            if self.is_condemned(worker) {
                return;
            }
            self.finished(worker, finished);
        }
        if self.is_condemned(worker) {
            return;
        }
        if let Some(released) = step.released {
            self.settle_release(worker, &released);
        }
        let steps = metrics::Steps {
            sequences: step.sequences,
            silent: step.silent_steps,
            all_ns: step_ns,
            // None of several can have been shorter than their mean.
            longest_ns: (step.longest_step_ns)
                .clamp(step_ns / (1 + u64::from(step.silent_steps)), step_ns),
        };
        self.longest_step_ns = self.longest_step_ns.max(steps.longest_ns);
        if let Some(model) = self.model_name(model) {
            metrics::steps(&model, steps, self.longest_step_ns);
        }
        if let Some(between_ns) = between_ns {
            metrics::between_steps(&self.label(tenant), between_ns);
        }
        self.counted(worker, step.kv_bytes, step.counters.unwrap_or_default());
    }

    /// Hands on a piece of an answer.
    fn piece(&mut self, worker: WorkerId, id: RequestId, piece: Piece) {
        let may_lose_device = self.may_lose_device(worker);
        // It may have ended, and the worker does not know yet.
        let Some(request) = self.requests.get_mut(&id) else {
            return;
        };
        request.output_tokens = piece.output_tokens;
        let text = Text {
            text: piece.text,
            logprobs: piece.logprobs,
        };
        if text.is_empty() {
            return;
        }
        self.updates
            .push((request.updates.clone(), Update::Piece(text)));
        if may_lose_device && !std::mem::replace(&mut request.answering, true) {
            self.tell(Event::Answering {
                worker,
                request: id,
            });
        }
    }

    fn finished(&mut self, worker: WorkerId, mut finished: internal::Finished) {
        bound_words(&mut finished);
        let entry = self.workers.get_mut(&worker);
        let Some(one) = entry.and_then(|entry| entry.given.let_go(finished.request)) else {
            return self.kill_worker(worker, Cause::Protocol);
        };
        let id = one.request;
        let event = Event::Finished {
            worker,
            request: id,
            tokens_in: finished.input_tokens,
            tokens_out: finished.output_tokens,
            outcome: outcome(finished.outcome()),
        };
        let open = self.requests.get_mut(&id);
        let closing = self
            .closing
            .get_mut(&id)
            .map(|closing| &mut closing.request);
        if let Some(request) = open.or(closing) {
            // The first word counts: by it the core ends the request, which may still have to be told.
            request.finished.get_or_insert(finished);
            self.close(id);
        }
        self.tell(event);
    }

    fn released(&mut self, worker: WorkerId, released: &Released) {
        if self.clean(worker, released.scrub.as_ref()) {
            self.settle_release(worker, released);
        }
    }

    /// Its lane is free, if it is the one that it has.
    fn settle_release(&mut self, worker: WorkerId, released: &Released) {
        let lease = self.workers.get(&worker).and_then(|entry| entry.lease);
        let Some(lease) = lease.filter(|lease| lease.number == released.lease) else {
            return self.kill_worker(worker, Cause::Protocol);
        };
        self.set_state(worker, State::Idle);
        self.tell(Event::Released {
            worker,
            lease: lease.id,
            dry: released.dry,
        });
    }

    /// Counts a scrub's evidence. A worker with residue is killed before anything of it counts.
    pub(super) fn clean(&mut self, worker: WorkerId, scrub: Option<&ScrubReport>) -> bool {
        let Some(scrub) = scrub else { return true };
        metrics::scrub(
            scrub.bytes_zeroed,
            scrub.bytes_verified,
            scrub.residue_bytes,
        );
        if scrub.residue_bytes == 0 {
            return true;
        }
        tracing::error!(
            worker = worker.0,
            bytes = scrub.residue_bytes,
            first_offset = scrub.first_residue,
            "a scrub left residue; the worker is killed"
        );
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.residue = Some(*scrub);
        }
        self.kill_worker(worker, Cause::Residue);
        self.worker_gone(worker);
        false
    }
}

/// Whose the pieces of a step are. Looked at before any of them counts: a worker speaks of what it holds, and says no more
/// of it than there can be. Hearing a piece takes everybody's time, so there are no more of them than an honest step has.
fn admitted(entry: &mut Worker, step: &Step) -> Result<Vec<RequestId>, Cause> {
    if step.pieces.len() > PIECES_OF_ONE_MAX * entry.given.len() {
        return Err(Cause::Output);
    }
    if (step.released.as_ref()).is_some_and(|released| released.lease != step.lease) {
        return Err(Cause::Protocol);
    }
    let mut ended = HashSet::new();
    for finished in &step.finished {
        let one = entry.given.spoken_of(finished.request);
        if !ended.insert(finished.request) {
            return Err(Cause::Protocol);
        }
        if !(one.ok_or(Cause::Protocol)?.output).admits_vectors(&finished.vectors) {
            return Err(Cause::Output);
        }
    }
    let admits = |piece: &Piece| {
        let one = entry.given.spoken_of(piece.request);
        let one = one.ok_or(Cause::Protocol)?;
        let admits = one.output.admits(piece);
        admits.then_some(one.request).ok_or(Cause::Output)
    };
    step.pieces.iter().map(admits).collect()
}

/// A worker's words go into records and answers: they are of a known set, or short.
fn bound_words(finished: &mut internal::Finished) {
    if !FINISH_REASONS.contains(&finished.finish_reason.as_str()) {
        finished.finish_reason.clear();
    }
    cut(&mut finished.detail, DETAIL_BYTES_MAX);
    cut(&mut finished.stop_sequence, STOP_BYTES_MAX);
}

/// Cuts a text at the last character that ends within so many bytes.
fn cut(text: &mut String, bytes_max: usize) {
    text.truncate(text.floor_char_boundary(bytes_max));
}

fn outcome(outcome: internal::Outcome) -> Outcome {
    match outcome {
        internal::Outcome::Ok => Outcome::Ok,
        internal::Outcome::Cancelled => Outcome::Cancelled,
        internal::Outcome::Invalid => Outcome::Invalid,
        internal::Outcome::OverQuota => Outcome::OverQuota,
        internal::Outcome::Internal | internal::Outcome::Unspecified => Outcome::Internal,
    }
}

#[cfg(test)]
#[path = "speech_tests.rs"]
mod tests;
