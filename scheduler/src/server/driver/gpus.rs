//! GPUs in the driver's hands: what is heard of them is judged, shown, recorded, and told to the core.
//!
//! Where nothing is heard, because whoever watches them has died or hangs, they stay what they were last, and
//! that is shown. Requests go on meanwhile.

use super::{CPU, Driver};
use crate::server::{metrics, records};
use bulkhead_core::{DeviceId, Event, Nanos, WorkerId};
use bulkhead_gpus::health::{
    Health, Judge, Verdict,
    xid::{self, Class},
};
use bulkhead_kernels::device::Snapshot;
use bulkhead_proto::internal::RecordKind;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How long nothing may be heard before that is told: five looks.
const SILENCE_NS_MAX: Nanos = 5_000_000_000;
/// Bytes of a reason that are logged.
const REASON_CHARS_MAX: usize = 300;

/// What is heard of GPUs.
pub enum GpusWord {
    /// Somebody watches them.
    Up,
    /// Nobody does, for now.
    Down,
    Seen(Snapshot),
    /// There are none, and why.
    Absent(String),
}

/// How many lanes and workers a GPU has, where there is a program that runs on one.
#[derive(Clone, Copy, Debug)]
pub struct GpuWorkers {
    pub lanes: u32,
    pub workers_max: u32,
    /// What a worker takes at the least, bytes.
    pub worker_bytes: u64,
}

/// What the driver knows of them.
#[derive(Default)]
pub(super) struct Gpus {
    judge: Judge,
    /// Numbers of those that were ever seen, by unique id, and what they are called.
    numbers: BTreeMap<String, (DeviceId, Arc<str>)>,
    /// When they were heard of last, while somebody watches.
    heard_at: Option<Nanos>,
    silent: bool,
}

impl Driver {
    pub(super) fn gpus_said(&mut self, word: GpusWord) {
        let now = self.setup.clock.now_ns();
        match word {
            GpusWord::Up => self.gpus.heard_at = Some(now),
            GpusWord::Down => {
                self.gpus.heard_at = None;
                self.gpus_silent(true);
            }
            GpusWord::Absent(reason) => {
                let mut reason = reason.replace(char::is_control, " ");
                reason.truncate(reason.floor_char_boundary(REASON_CHARS_MAX));
                tracing::info!("{reason}; running on the CPU");
                self.gpus.heard_at = None;
                // Had there been some, they are gone now, and nobody watches for their return.
                if self.look_at(&Snapshot::default()) > 0 {
                    self.gpus_silent(true);
                }
            }
            GpusWord::Seen(snapshot) => {
                self.gpus.heard_at = Some(now);
                self.gpus_silent(false);
                self.look_at(&snapshot);
            }
        }
    }

    /// Tells once where whoever watches GPUs says nothing.
    pub(super) fn check_gpus(&mut self) {
        let now = self.setup.clock.now_ns();
        let since = self.gpus.heard_at.map(|at| now.saturating_sub(at));
        if since.is_some_and(|ns| ns > SILENCE_NS_MAX) && !self.gpus.silent {
            tracing::error!(
                "nothing is heard of GPUs (a driver that hangs?); they count as they were"
            );
            self.gpus_silent(true);
        }
    }

    fn gpus_silent(&mut self, silent: bool) {
        self.gpus.silent = silent;
        metrics::devices_watched(!silent);
    }

    /// How many devices are known after it.
    fn look_at(&mut self, snapshot: &Snapshot) -> usize {
        let ours: BTreeSet<u32> = (self.workers.values())
            .filter_map(|worker| u32::try_from(worker.pid).ok())
            .filter(|pid| *pid > 0)
            .collect();
        let verdicts = self.gpus.judge.judge(snapshot, &ours);
        for verdict in &verdicts {
            metrics::device(verdict, self.setup.gpu_workers.is_some());
            self.tell_xids(verdict);
            if verdict.is_news() {
                self.tell_news(verdict);
            }
            self.tell_core(verdict);
        }
        verdicts.len()
    }

    fn tell_xids(&self, verdict: &Verdict) {
        let device = &verdict.device.id;
        for &code in &verdict.xids {
            let class = xid::class(code);
            metrics::device_xid(device, (class != Class::Unlisted).then_some(code));
            tracing::warn!(%device, code, ?class, "the driver reported an error of a GPU (XID)");
        }
    }

    /// A device that went bad or came back is on record; what only should be looked at is in the log.
    fn tell_news(&self, verdict: &Verdict) {
        let Verdict {
            device,
            health,
            before,
            ..
        } = verdict;
        let why = health.trouble().map(|trouble| trouble.to_string());
        let why = why.as_deref().unwrap_or("");
        let (id, uuid, word) = (&device.id, &device.uuid, health.word());
        if health.is_bad() {
            tracing::error!(device = %id, %uuid, why, "a device is bad; nothing runs on it");
        } else {
            let strangers_bytes = verdict.strangers_bytes;
            tracing::warn!(device = %id, %uuid, health = word, why, strangers_bytes, "a device's health changed");
        }
        if health.is_bad() || before.is_some_and(Health::is_bad) {
            let details = serde_json::json!({
                "device": id, "uuid": uuid, "health": word, "why": why,
                "before": before.map(Health::word),
            });
            let body = records::act("device.health", details);
            // No more of them than looks. Kept until the log opens, like every end.
            let _ = (self.setup.audit).append_end("", RecordKind::System, "", body);
        }
    }

    /// The core knows those devices that something can run on.
    fn tell_core(&mut self, verdict: &Verdict) {
        let Some(workers) = self.setup.gpu_workers else {
            return;
        };
        let device = self.number_of(verdict);
        if verdict.health.is_bad() || !verdict.is_whole() {
            return self.tell(Event::DeviceDown { device });
        }
        self.tell(Event::DeviceUp {
            device,
            lanes: workers.lanes,
            workers_max: workers.workers_max,
        });
        let room = verdict.usable_bytes / workers.worker_bytes.max(1);
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        self.tell(Event::DeviceRoom {
            device,
            workers: room,
        });
    }

    fn number_of(&mut self, verdict: &Verdict) -> DeviceId {
        let next = DeviceId(CPU.0 + 1 + self.gpus.numbers.len() as u32);
        let device = &verdict.device;
        let new = || (next, Arc::from(device.id.as_str()));
        let known = self.gpus.numbers.entry(device.uuid.clone());
        known.or_insert_with(new).0
    }

    /// What a device is called in configuration and by the launcher.
    pub(super) fn device_name(&self, device: DeviceId) -> Arc<str> {
        let named = self.gpus.numbers.values().find(|(id, _)| *id == device);
        named.map_or_else(|| Arc::from("cpu"), |(_, name)| name.clone())
    }

    /// True where a worker's device may go bad under it: then what it was given is kept, and the core hears
    /// when it begins to answer. The host's processors go with the host.
    pub(super) fn may_lose_device(&self, worker: WorkerId) -> bool {
        self.workers
            .get(&worker)
            .is_some_and(|worker| worker.device != CPU)
    }
}

#[cfg(test)]
#[path = "gpus_tests.rs"]
mod tests;
