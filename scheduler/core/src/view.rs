//! What the core lets others see: numbers for metrics and dashboards, exact up to its last event.

use crate::core::Core;
use crate::map::IdMap;
use crate::tenant::Tenant;
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
    /// Share owed, of all devices together: the lane time of each that all tenants received while
    /// this one competed for it there, each moment divided by weight among those that competed. Over
    /// all tenants, the sum owed is the sum received (to within rounding).
    pub owed_ns: Nanos,
    /// The greatest of its virtual times ([`StandingView`]).
    pub vtime_ns: Nanos,
    /// The greatest of its leads, over devices. See [`Core::lead_bound_ns`].
    pub lead_ns: Nanos,
}

/// One tenant on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandingView {
    pub tenant: TenantId,
    pub device: DeviceId,
    /// Competes for its lanes: a worker of it there is ready and has work, or holds a lane.
    pub competing: bool,
    /// Virtual time in nanoseconds: lane time and restarts there ÷ weight, with what lifts added.
    pub vtime_ns: Nanos,
    /// By how much that is ahead of the least among those who compete there; 0 for one who does not.
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
            competing: tenant.competes(),
            running: tenant.open - tenant.queued,
            queue_bytes: self.memory.used(id),
            lane_ns: tenant.lane_ns,
            restart_ns: tenant.restart_ns,
            owed_ns: clamp(self.owed(tenant)),
            vtime_ns: self.greatest(id, |standing| standing.vtime_ns),
            lead_ns: self.greatest(id, |standing| standing.lead_ns),
        })
    }

    /// How each tenant stands on each device on which it has ever had a worker, by tenant and device.
    pub fn standings(&self) -> impl Iterator<Item = StandingView> {
        let tenants = sorted(&self.tenants);
        tenants.flat_map(|(id, _)| self.standings_of(id))
    }

    fn standings_of(&self, id: TenantId) -> impl Iterator<Item = StandingView> {
        let parts = self.tenants.get(&id).map(|tenant| tenant.parts.iter());
        parts.into_iter().flatten().map(move |(on, part)| {
            let least = self.devices.get(&on).and_then(|device| device.fair.least());
            let (time, competing) = (part.standing.time, part.standing.competing);
            let ahead = least.filter(|_| competing).map_or(0, |least| time - least);
            StandingView {
                tenant: id,
                device: on,
                competing,
                vtime_ns: clamp(time >> 32),
                lead_ns: clamp(ahead >> 32),
            }
        })
    }

    fn greatest(&self, id: TenantId, what: impl Fn(StandingView) -> Nanos) -> Nanos {
        self.standings_of(id).map(what).max().unwrap_or(0)
    }

    fn owed(&self, tenant: &Tenant) -> u128 {
        let owed = tenant.parts.iter().filter_map(|(on, part)| {
            let share = &self.devices.get(&on)?.share;
            Some(share.owed_ns(&part.owed, tenant.weight(), part.standing.competing))
        });
        owed.sum()
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
