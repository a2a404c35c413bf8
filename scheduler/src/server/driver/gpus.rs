//! GPUs in the driver's hands: what is heard of them is judged, shown, recorded, and told to the core.
//!
//! Where nothing is heard, because whoever watches them has died or hangs, they stay what they were last, and
//! that is shown. Requests go on meanwhile.

use super::{CPU, Driver, HERE};
use crate::server::{metrics, records};
use bulkhead_core::{DeviceId, DeviceKind, Event, Nanos, WorkerId};
use bulkhead_gpus::health::{
    Health, Judge, Verdict,
    xid::{self, Class},
};
use bulkhead_kernels::device::Snapshot;
use bulkhead_proto::internal::{RecordKind, SpawnGpu};
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
    /// Somebody watches them; and whether there is a program for workers on them.
    Up {
        has_worker: bool,
    },
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
    /// What a worker is reckoned to take, bytes.
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
    has_worker: bool,
    /// It was said why they are not used.
    told_unused: bool,
    /// As they were found last.
    found: Vec<Verdict>,
}

impl Gpus {
    /// All of them as they were found last, each with its number where something could ever run on it.
    pub(super) fn found(&self) -> impl Iterator<Item = (&Verdict, Option<DeviceId>)> {
        let number = |found: &Verdict| self.numbers.get(&found.device.uuid).map(|(id, _)| *id);
        self.found.iter().map(move |found| (found, number(found)))
    }
}

impl Driver {
    pub(super) fn gpus_said(&mut self, word: GpusWord) {
        let now = self.setup.clock.now_ns();
        match word {
            GpusWord::Up { has_worker } => {
                self.gpus.heard_at = Some(now);
                self.gpus.has_worker = has_worker;
            }
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
            .flat_map(|worker| [worker.pid, worker.keeper])
            .filter_map(|pid| u32::try_from(pid).ok())
            .filter(|pid| *pid > 0)
            .collect();
        let verdicts = self.gpus.judge.judge(snapshot, &ours);
        // Workers are started for what is found now.
        self.gpus.found.clone_from(&verdicts);
        for verdict in &verdicts {
            metrics::device(verdict, self.serving_on(verdict).is_some());
            self.tell_xids(verdict);
            if verdict.is_news() {
                self.tell_news(verdict);
            }
            self.tell_core(verdict);
        }
        if !verdicts.is_empty() {
            self.tell_unused();
        }
        verdicts.len()
    }

    /// How many lanes and workers GPUs have, where something may run on them.
    fn gpu_workers(&self) -> Option<GpuWorkers> {
        self.setup.gpu_workers.filter(|_| self.gpus.has_worker)
    }

    /// The same of one, where something may run on this one now: instances are watched alone.
    pub(super) fn serving_on(&self, verdict: &Verdict) -> Option<GpuWorkers> {
        let is_gpu = verdict.is_whole() && verdict.device.minor.is_some();
        let serves = is_gpu && verdict.here && !verdict.health.is_bad();
        self.gpu_workers().filter(|_| serves)
    }

    /// Says once why GPUs that there are are not used.
    fn tell_unused(&mut self) {
        if self.gpu_workers().is_some() || std::mem::replace(&mut self.gpus.told_unused, true) {
            return;
        }
        match self.setup.gpu_workers {
            None => tracing::info!("GPUs are not used (gpu.use is \"off\"); running on the CPU"),
            Some(_) => tracing::info!(
                "GPUs are not used: there is no bulkhead-worker-cuda (deploy/cuda/setup builds it); running on the CPU"
            ),
        }
    }

    /// Which GPU a worker is started for; none on the processor.
    pub(super) fn spawn_gpu(&self, device: DeviceId) -> Option<SpawnGpu> {
        let mut all = self.gpus.found();
        let (found, _) = all.find(|(_, number)| *number == Some(device))?;
        Some(SpawnGpu {
            uuid: found.device.uuid.clone(),
            minor: found.device.minor?,
        })
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
        if self.gpu_workers().is_none() {
            return;
        }
        let device = self.number_of(verdict);
        let Some(workers) = self.serving_on(verdict) else {
            return self.tell(Event::DeviceDown { device });
        };
        self.tell(Event::DeviceUp {
            device,
            kind: DeviceKind::Accelerator,
            region: HERE,
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
