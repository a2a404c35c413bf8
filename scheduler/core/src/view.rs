//! What the core lets others see: numbers for metrics and dashboards, exact up to its last event.

use crate::core::Core;
use crate::map::IdMap;
use crate::worker::{Class, Life, Worker};
use crate::{DeviceId, ModelId, Nanos, TenantId, WorkerId};

/// One tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantView {
    pub tenant: TenantId,
    pub weight: u32,
    /// Accepted requests that wait.
    pub queued: u32,
    /// Competes for lanes: a worker of it is ready and has work, or holds a lane.
    pub competing: bool,
    /// Accepted requests that a worker holds.
    pub running: u32,
    /// Bytes of queue memory in use.
    pub queue_bytes: u64,
    /// Lane time received since the core began, running leases included.
    pub lane_ns: Nanos,
    /// What it was charged for workers that had to be started again, beside lane time.
    pub restart_ns: Nanos,
    /// Share owed: the lane time that all tenants received while this one competed for it, each
    /// moment divided by weight among those that competed. Over all tenants, the sum owed is the
    /// sum received (to within rounding).
    pub owed_ns: Nanos,
    /// Virtual time in nanoseconds: lane time and restarts ÷ weight, with what lifts added.
    pub vtime_ns: Nanos,
    /// By how much that is ahead of the least among those who compete for lanes; 0 for one who does not. See
    /// [`Core::lead_bound_ns`].
    pub lead_ns: Nanos,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    Starting,
    /// Ready, with nothing to run.
    Idle,
    /// Ready, with work and no lane.
    Waiting,
    /// Holds a lane.
    Leased,
    /// Told to end, and not ended yet. May still occupy a lane.
    Dying,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerView {
    pub worker: WorkerId,
    pub tenant: TenantId,
    pub model: ModelId,
    pub device: DeviceId,
    pub state: WorkerState,
    /// KV memory in use, as the worker last said.
    pub kv_bytes: u64,
    /// Requests that it holds.
    pub assigned: usize,
}

impl Core {
    /// All tenants, by id.
    pub fn tenants(&self) -> impl Iterator<Item = TenantView> {
        sorted(&self.tenants).map(|(id, tenant)| TenantView {
            tenant: id,
            weight: tenant.weight(),
            queued: tenant.queued,
            competing: tenant.competing,
            running: tenant.open - tenant.queued,
            queue_bytes: self.memory.used(id),
            lane_ns: tenant.lane_ns,
            restart_ns: tenant.restart_ns,
            owed_ns: clamp(
                self.share
                    .owed_ns(&tenant.owed, tenant.weight(), tenant.competing),
            ),
            vtime_ns: clamp(tenant.time >> 32),
            lead_ns: self.lead(id),
        })
    }

    fn lead(&self, tenant: TenantId) -> Nanos {
        let ahead = self.fair.time(tenant).zip(self.fair.least());
        ahead.map_or(0, |(time, least)| clamp((time - least) >> 32))
    }

    /// All workers that exist, by id.
    pub fn workers(&self) -> impl Iterator<Item = WorkerView> {
        sorted(&self.workers).map(|(_, worker)| WorkerView {
            worker: worker.id,
            tenant: worker.tenant,
            model: worker.model,
            device: worker.device,
            state: self.state_of(worker),
            kv_bytes: worker.kv_bytes,
            assigned: worker.assigned.len(),
        })
    }

    /// How far predictions of lane time were off of late, in thousandths of what it was: for each model of which a lease
    /// has ended, as a mean over tenants and devices.
    pub fn cost_errors_milli(&self) -> impl Iterator<Item = (ModelId, u64)> {
        self.costs.errors_milli().into_iter()
    }

    /// Accepted requests that have not ended.
    pub fn requests_open(&self) -> usize {
        self.requests.len()
    }

    fn state_of(&self, worker: &Worker) -> WorkerState {
        let queued = self
            .flow(worker.tenant, worker.model)
            .is_some_and(|flow| !flow.queue.is_empty());
        match (worker.life, worker.class(queued)) {
            (Life::Starting, _) => WorkerState::Starting,
            (Life::Stopping | Life::Killed, _) => WorkerState::Dying,
            (Life::Ready, Class::Leased) => WorkerState::Leased,
            (Life::Ready, Class::Waiting) => WorkerState::Waiting,
            (Life::Ready, Class::Idle | Class::Absent) => WorkerState::Idle,
        }
    }
}

/// What a map holds, by id.
fn sorted<K: Copy + Ord, V>(map: &IdMap<K, V>) -> impl Iterator<Item = (K, &V)> {
    let mut all: Vec<_> = map.iter().map(|(id, value)| (*id, value)).collect();
    all.sort_unstable_by_key(|(id, _)| *id);
    all.into_iter()
}

fn clamp(ns: u128) -> Nanos {
    Nanos::try_from(ns).unwrap_or(Nanos::MAX)
}
