//! Devices, their lanes, and the leases that workers hold on them.

use std::collections::BTreeSet;

use crate::cost::Work;
use crate::fair::FairSet;
use crate::few::Few;
use crate::standing::ShareClock;
use crate::turns::LeaseTimes;
use crate::vtime::VTime;
use crate::{DeviceKind, LeaseId, Nanos, RegionId, TenantId, WorkerId};

/// Order of waiting workers: least effective virtual time on their device, then tenant, then (among the workers of
/// one tenant) the one whose last turn is longest ago.
pub(crate) type WaitKey = (VTime, TenantId, u64, WorkerId);

/// Order of eviction: least recently used.
pub(crate) type IdleKey = (Nanos, WorkerId);

/// A device. Its workers, by what they mean to it.
#[derive(Debug)]
pub(crate) struct Device {
    pub kind: DeviceKind,
    pub region: RegionId,
    /// False while nothing may run on it.
    pub up: bool,
    pub lanes: usize,
    pub workers_max: usize,
    /// Of these places, those that it has memory for now.
    pub room: usize,
    pub workers: BTreeSet<WorkerId>,
    /// Workers that have been told to end and have not ended yet.
    pub leaving: usize,
    /// Of those, the ones whose device went down under them: they may hang in its driver for ever.
    pub abandoned: usize,
    /// Those that hold a lane.
    pub running: Few<WorkerId>,
    pub waiting: BTreeSet<WaitKey>,
    pub idle: BTreeSet<IdleKey>,
    /// When a lane has to be asked back next, as of the last event.
    pub next_yield: Option<Nanos>,
    /// Order and floor of the tenants that compete for its lanes.
    pub fair: FairSet<TenantId>,
    /// What they are owed.
    pub share: ShareClock,
}

impl Device {
    /// Without a lane or a place for a worker it would be no device: 0 counts as 1.
    pub(crate) fn new(kind: DeviceKind, region: RegionId, lanes: u32, workers_max: u32) -> Self {
        let workers_max = workers_max.max(1) as usize;
        Device {
            kind,
            region,
            up: true,
            lanes: lanes.max(1) as usize,
            workers_max,
            room: workers_max,
            workers: BTreeSet::new(),
            leaving: 0,
            abandoned: 0,
            running: Few::default(),
            waiting: BTreeSet::new(),
            idle: BTreeSet::new(),
            next_yield: None,
            fair: FairSet::default(),
            share: ShareClock::default(),
        }
    }

    /// Places in which a worker may be started now.
    pub(crate) fn free(&self) -> usize {
        match self.up {
            true => self.room.saturating_sub(self.workers.len()),
            false => 0,
        }
    }

    /// Workers whose places nobody can count on.
    fn staying(&self) -> usize {
        (self.workers.len() + self.abandoned).saturating_sub(self.leaving)
    }

    /// Places that become free once those that are ending have ended.
    pub(crate) fn coming(&self) -> usize {
        match self.up {
            true => self.room.saturating_sub(self.staying()) - self.free(),
            false => 0,
        }
    }

    /// Whether a worker could be started on it, were a place free.
    pub(crate) fn may_start(&self) -> bool {
        self.up && self.room > 0
    }
}

/// A lane, lent to a worker.
#[derive(Debug)]
pub(crate) struct Lease {
    pub id: LeaseId,
    pub granted_at: Nanos,
    pub times: LeaseTimes,
    /// How long it runs while another tenant waits.
    pub turn_ns: Nanos,
    /// When it was asked back.
    pub yield_at: Option<Nanos>,
    /// Predicted cost of the batch, at most one turn: a contended lease runs no longer.
    pub reserved_ns: Nanos,
    /// What its steps claimed, for the prediction of cost.
    pub work: Work,
    /// A step or a finished request was reported.
    pub progress: bool,
    /// A request was let go of that was cut short, and of which nothing was told: what its time went into is not known.
    pub untold: bool,
    /// The worker held work already when the lane was granted.
    pub had_work: bool,
}

impl Lease {
    /// When it has had its turn.
    pub(crate) fn turn_end(&self) -> Nanos {
        self.granted_at.saturating_add(self.turn_ns)
    }

    /// What of the reservation has not been used yet.
    pub(crate) fn reserved_left(&self, now: Nanos) -> Nanos {
        self.reserved_ns
            .saturating_sub(now.saturating_sub(self.granted_at))
    }
}
