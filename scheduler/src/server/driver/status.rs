//! The driver's state for operators: the status call and the gauges of fair share.

use super::{CPU, Driver};
use crate::server::metrics;
use bulkhead_core::DeviceId;
use bulkhead_gpus::health::Health;
use bulkhead_proto::v1::{DeviceStatus, TenantStatus, WorkerStatus};

/// A moment's state.
#[derive(Debug, Default)]
pub struct Snapshot {
    pub tenants: Vec<TenantStatus>,
    pub workers: Vec<WorkerStatus>,
    pub devices: Vec<DeviceStatus>,
}

impl Driver {
    pub(super) fn snapshot(&self) -> Snapshot {
        let tenants = self.core.tenants().filter_map(|view| {
            let facts = self.tenants.get(&view.tenant)?;
            Some(TenantStatus {
                name: facts.name.to_string(),
                weight: view.weight,
                queued: u64::from(view.queued),
                running: u64::from(view.running),
                lane_ns: view.lane_ns,
                owed_ns: view.owed_ns,
                completed: self.completed.get(&view.tenant).copied().unwrap_or(0),
            })
        });
        let workers = self.workers.values().map(|worker| WorkerStatus {
            tenant: self
                .tenants
                .get(&worker.tenant)
                .map(|t| t.name.to_string())
                .unwrap_or_default(),
            model: self
                .model_name(worker.model)
                .map(|m| m.to_string())
                .unwrap_or_default(),
            device: self.device_name(worker.device).to_string(),
            pid: worker.pid,
            state: worker.state.word().into(),
            seal: worker.seal.clone(),
            kv_bytes: worker.held.live,
        });
        Snapshot {
            tenants: tenants.collect(),
            workers: workers.collect(),
            devices: self.devices(),
        }
    }

    /// The processor, and all GPUs.
    fn devices(&self) -> Vec<DeviceStatus> {
        let workers = |device: Option<DeviceId>| {
            let all = self.workers.values();
            all.filter(|worker| Some(worker.device) == device).count() as u32
        };
        let processor = DeviceStatus {
            name: self.device_name(CPU).to_string(),
            health: Health::Healthy.word().into(),
            serves: true,
            lanes: self.setup.lanes,
            workers: workers(Some(CPU)),
            ..DeviceStatus::default()
        };
        let gpus = self.gpus.found().map(|(found, number)| {
            let (device, health) = (&found.device, found.health);
            let serving = self.serving_on(found);
            DeviceStatus {
                name: device.id.clone(),
                uuid: device.uuid.clone(),
                health: health.word().into(),
                why: health
                    .trouble()
                    .map(|one| one.to_string())
                    .unwrap_or_default(),
                serves: serving.is_some(),
                lanes: serving.map_or(0, |workers| workers.lanes),
                workers: workers(number),
                memory_bytes: device.memory_bytes,
                usable_bytes: found.usable_bytes,
            }
        });
        std::iter::once(processor).chain(gpus).collect()
    }

    pub(super) fn report_shares(&self) {
        for view in self.core.tenants() {
            let facts = self.tenants.get(&view.tenant);
            if let Some(label) = facts.and_then(|facts| self.setup.labels.own(&facts.name)) {
                metrics::share(&label, &view);
            }
        }
        for (model, milli) in self.core.cost_errors_milli() {
            if let Some(model) = self.model_name(model) {
                metrics::cost_error(&model, milli);
            }
        }
        metrics::lead_bound(self.core.lead_bound_ns());
    }
}
