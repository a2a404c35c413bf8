//! Each effect of the core becomes one call here.

use super::{
    Driver, HERE, Update,
    ends::Cause,
    lease::Lease,
    worker::{State, Worker},
};
use crate::server::metrics;
use bulkhead_core::{
    BackoffCause, DeviceId, Effect, End, LeaseId, LeaseTimes, ModelId, Nanos, Outcome, RequestId,
    StartFailure, TenantId, WorkerId,
};
use bulkhead_proto::frame::FRAME_BYTES_MAX;
use bulkhead_proto::internal::{
    Cancel, Grant, KillWorker, SpawnWorker, ToLauncher, Work, WorkItem, Yield, to_launcher,
    to_worker,
};
use prost::Message as _;

/// A batch is sent in frames of about this size at most, bytes: a worker takes none that is longer than
/// [`FRAME_BYTES_MAX`], and one request is never longer than half of that.
const WORK_BYTES_MAX: usize = FRAME_BYTES_MAX / 2;

impl Driver {
    pub(super) fn carry_out(&mut self, now: Nanos, effect: Effect) {
        match effect {
            Effect::Accepted { request } => {
                if let Some(entry) = self.requests.get(&request) {
                    self.updates.push((entry.updates.clone(), Update::Accepted));
                }
            }
            Effect::Refused { request, refusal } => {
                if let Some(entry) = self.requests.remove(&request) {
                    self.updates.push((entry.updates, Update::Refused(refusal)));
                }
            }
            Effect::StartWorker {
                worker,
                tenant,
                model,
                device,
            } => self.start_worker(worker, (tenant, model, device), now),
            Effect::StopWorker { worker } => self.stop_worker(worker),
            Effect::KillWorker { worker, why } => self.kill_worker(worker, why.into()),
            Effect::Requeued { request } => self.requeued(request),
            Effect::Assign { worker, requests } => self.assign(worker, &requests, now),
            Effect::Grant { worker, lease } => self.grant(worker, lease, now),
            Effect::Yield { worker, lease } => self.ask_back(worker, lease),
            Effect::CancelRunning { worker, request } => self.cancel_running(worker, request),
            Effect::Ended { request, end } => self.ended.push((request, end, now)),
            Effect::Settled {
                tenant,
                model,
                worker,
                lane_ns,
                ..
            } => {
                self.settled(tenant, model, worker, lane_ns, now);
                self.begin_unleased(worker);
            }
            Effect::BackoffBegan {
                tenant,
                model,
                cause,
                failures,
                for_ns,
            } => self.backoff_began(tenant, model, cause, failures, for_ns),
            Effect::BackoffOver { tenant, model } => {
                if let Some(model) = self.model_name(model) {
                    metrics::backoff_over(&self.label(tenant), &model);
                }
            }
            Effect::WakeAt { at } => self.wake_at = Some(at),
        }
    }

    fn start_worker(
        &mut self,
        worker: WorkerId,
        (tenant, model, device): (TenantId, ModelId, DeviceId),
        now: Nanos,
    ) {
        let Some(name) = self.model_name(model) else {
            return self.tell(bulkhead_core::Event::WorkerFailed {
                worker,
                failure: StartFailure::Refused,
            });
        };
        self.workers
            .insert(worker, Worker::starting(tenant, model, device, now));
        let facts = self.tenants.get(&tenant);
        let spawn = SpawnWorker {
            worker: worker.0,
            model: name.to_string(),
            device: self.device_name(device).to_string(),
            tenant: facts
                .map(|facts| facts.name.to_string())
                .unwrap_or_default(),
            quota_bytes: facts
                .map(|facts| facts.quota_on(device))
                .unwrap_or_default(),
            gpu: self.spawn_gpu(device),
        };
        self.to_launcher(to_launcher::Message::Spawn(spawn));
    }

    /// An idle worker has nothing to finish, and its death frees its place for certain: one that was
    /// only asked to end could refuse, and starve whoever waits for the place.
    fn stop_worker(&mut self, worker: WorkerId) {
        if let Some(entry) = self.workers.get_mut(&worker) {
            let tenant = self.tenants.get(&entry.tenant);
            let stays = tenant.is_none_or(|facts| facts.settings.regions.contains(HERE));
            entry.condemn(match stays {
                true => Cause::Evicted,
                false => Cause::Residency,
            });
        }
        self.to_launcher(to_launcher::Message::Kill(KillWorker { worker: worker.0 }));
    }

    pub(super) fn kill_worker(&mut self, worker: WorkerId, cause: Cause) {
        // Once is enough, however much it said that it may not.
        if self
            .workers
            .get(&worker)
            .is_some_and(|entry| entry.is_condemned())
        {
            return;
        }
        tracing::warn!(worker = worker.0, ?cause, "killing a worker");
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.condemn(cause);
        }
        self.to_launcher(to_launcher::Message::Kill(KillWorker { worker: worker.0 }));
    }

    fn assign(&mut self, worker: WorkerId, requests: &[RequestId], now: Nanos) {
        let Some(tenant) = self.workers.get(&worker).map(|w| w.tenant) else {
            return;
        };
        match self.take_jobs(tenant, worker, requests, now) {
            Some(items) => {
                for items in frames_of(items) {
                    self.send(worker, to_worker::Message::Work(Work { items }));
                }
            }
            None => {
                // Cannot happen; if it ever does, nothing of it reaches a worker.
                tracing::error!(
                    worker = worker.0,
                    "a batch was not this tenant's alone; the worker is killed unserved"
                );
                self.kill_worker(worker, Cause::MixedBatch);
            }
        }
    }

    fn grant(&mut self, worker: WorkerId, lease: LeaseId, now: Nanos) {
        self.check_unleased(worker);
        let Some(entry) = self.workers.get_mut(&worker) else {
            return;
        };
        let number = entry.given.lease();
        entry.lease = Some(Lease {
            id: lease,
            number,
            times: LeaseTimes::new(now),
        });
        entry.state = State::Running;
        self.send(worker, to_worker::Message::Grant(Grant { lease: number }));
    }

    fn ask_back(&mut self, worker: WorkerId, id: LeaseId) {
        let lease = self.workers.get(&worker).and_then(|entry| entry.lease);
        if let Some(lease) = lease.filter(|lease| lease.id == id) {
            let lease = lease.number;
            self.send(worker, to_worker::Message::Yield(Yield { lease }));
        }
    }

    fn cancel_running(&mut self, worker: WorkerId, request: RequestId) {
        let entry = self.workers.get(&worker);
        // One that it has let go of meanwhile has nothing left to end.
        if let Some(request) = entry.and_then(|entry| entry.given.number_of(request)) {
            self.send(worker, to_worker::Message::Cancel(Cancel { request }));
        }
    }

    fn settled(
        &mut self,
        tenant: TenantId,
        model: ModelId,
        worker: WorkerId,
        lane_ns: Nanos,
        now: Nanos,
    ) {
        let label = self.label(tenant);
        let worker = self.workers.get_mut(&worker);
        let lease = worker.and_then(|worker| worker.lease.take());
        if let Some(switch_ns) = lease.and_then(|lease| lease.times.switch_ns(now)) {
            metrics::dispatch(&label, switch_ns);
        }
        if let Some(model) = self.model_name(model) {
            metrics::lane(&label, &model, lane_ns);
        }
    }

    /// The one line about failures of a tenant's workers: no more of them than there are restarts, which
    /// grow rarer.
    fn backoff_began(
        &self,
        tenant: TenantId,
        model: ModelId,
        cause: BackoffCause,
        failures: u32,
        for_ns: Nanos,
    ) {
        let Some(model) = self.model_name(model) else {
            return;
        };
        let label = self.label(tenant);
        metrics::backoff_began(&label, &model, cause_word(cause), for_ns);
        let wait_ms = for_ns / 1_000_000;
        tracing::warn!(tenant = %label, %model, ?cause, failures, wait_ms, "a worker failed; the next one waits");
    }

    pub(super) fn to_launcher(&self, message: to_launcher::Message) {
        if self
            .setup
            .launcher
            .send(ToLauncher {
                message: Some(message),
            })
            .is_err()
        {
            tracing::error!("the launcher is gone");
        }
    }
}

/// A cause's word in metrics.
fn cause_word(cause: BackoffCause) -> &'static str {
    match cause {
        BackoffCause::Start => "start",
        BackoffCause::Death => "death",
        BackoffCause::Killed => "killed",
        BackoffCause::Model => "model",
    }
}

/// An end's word in metrics and records.
pub fn outcome_word(end: End) -> &'static str {
    match end {
        End::Worker(Outcome::Ok) => "ok",
        End::Worker(Outcome::Invalid) => "invalid",
        End::Worker(Outcome::OverQuota) => "over_quota",
        End::Worker(Outcome::Internal) => "failed",
        End::Worker(Outcome::Cancelled) | End::Cancelled(_) => "cancelled",
        End::Deadline => "deadline",
        End::WorkerLost => "worker_lost",
        End::NoWorker { .. } => "no_worker",
        End::DeviceLost => "device_lost",
        End::NoDevice => "no_device",
        End::Residency => "residency",
    }
}

/// A batch in parts that a frame holds, in order.
fn frames_of(items: Vec<WorkItem>) -> Vec<Vec<WorkItem>> {
    let (mut frames, mut bytes) = (vec![Vec::new()], 0);
    for item in items {
        let more = item.encoded_len();
        if bytes > 0 && bytes + more > WORK_BYTES_MAX {
            frames.push(Vec::new());
            bytes = 0;
        }
        bytes += more;
        frames.last_mut().expect("there is one").push(item);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::{
        frame,
        internal::{GenerateJob, ToWorker, work_item::Job},
    };
    use std::collections::HashMap;

    /// As many biases as a request may have, of tokens with long numbers: large on the wire, and small in tokens.
    fn large(request: u64) -> WorkItem {
        let job = GenerateJob {
            prompt: "x".into(),
            logit_bias: HashMap::from_iter((0..1024).map(|n| (u32::MAX - n, 1.0))),
            ..GenerateJob::default()
        };
        WorkItem {
            request,
            job: Some(Job::Generate(job)),
            ..WorkItem::default()
        }
    }

    #[test]
    fn a_batch_of_any_size_goes_in_frames_that_a_worker_takes() {
        let items: Vec<WorkItem> = (0..2_000).map(large).collect();
        let frames = frames_of(items);
        assert!(frames.len() > 1);
        let told = frames.iter().flatten().map(|item| item.request);
        assert!(told.eq(0..2_000));
        for items in frames {
            let work = to_worker::Message::Work(Work { items });
            let bytes = frame::encode(&ToWorker {
                message: Some(work),
            });
            assert!(bytes.len() <= FRAME_BYTES_MAX, "{}", bytes.len());
        }
        assert_eq!(frames_of(vec![large(1)]).len(), 1);
    }
}
