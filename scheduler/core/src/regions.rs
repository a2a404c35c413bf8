//! Residency: the regions that a tenant's work may be done in.
//!
//! A filter, never a preference: where no device of these regions has a place the work waits, where there is none at all it
//! is refused, and no worker of a tenant is ever started elsewhere, whoever else could have had the place. What a tenant may
//! not have keeps nobody else waiting (`kinds`).
//!
//! A tenant that is bound to other regions than before has no work begun elsewhere from then on: its workers there end what
//! they hold, which was accepted while it was allowed, and those that were only starting end at once.

use crate::core::Core;
use crate::worker::Life;
use crate::{Effect, KillReason, RegionId, TenantId, WorkerId};

/// A set of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Regions(u64);

impl Regions {
    /// Whichever there are.
    pub const ANY: Regions = Regions(u64::MAX);
    /// None: nothing runs anywhere.
    pub const NONE: Regions = Regions(0);

    pub fn contains(self, region: RegionId) -> bool {
        self.0 & Regions::from_iter([region]).0 != 0
    }

    pub(crate) fn overlaps(self, other: Regions) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// Numbers that no region can have (see [`RegionId`]) are left out.
impl FromIterator<RegionId> for Regions {
    fn from_iter<I: IntoIterator<Item = RegionId>>(regions: I) -> Self {
        let bits = (regions.into_iter()).filter_map(|region| 1u64.checked_shl(region.0.into()));
        Regions(bits.fold(0, |all, bit| all | bit))
    }
}

impl Core {
    /// Whether any device is in one of these regions, whether it is in service or not.
    pub(crate) fn is_anywhere(&self, regions: Regions) -> bool {
        (self.devices.values()).any(|device| regions.contains(device.region))
    }

    /// A tenant is bound to other regions than before.
    pub(crate) fn follow_residency(&mut self, id: TenantId, effects: &mut Vec<Effect>) {
        for (worker, astray) in self.workers_of(id) {
            match astray {
                true => self.leave_region(worker, effects),
                false => self.stay(worker),
            }
        }
        self.reindex(id);
        self.end_what_waits(effects);
    }

    /// Those that serve one of its queues, and whether they are where it may not be.
    fn workers_of(&self, id: TenantId) -> Vec<(WorkerId, bool)> {
        let Some(tenant) = self.tenants.get(&id) else {
            return Vec::new();
        };
        let workers = (tenant.flows.values()).filter_map(|flow| flow.worker);
        let workers = workers.filter_map(|worker| self.workers.get(&worker));
        let workers = workers.map(|worker| (worker.id, !self.is_resident(worker)));
        workers.collect()
    }

    fn leave_region(&mut self, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(&id) else {
            return;
        };
        match worker.life {
            Life::Starting => self.abandon(id, KillReason::Residency, effects),
            Life::Ready => {
                worker.astray = true;
                self.retire(id);
            }
            Life::Stopping | Life::Killed => {}
        }
    }

    /// It may stay after all.
    fn stay(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id)
            && std::mem::take(&mut worker.astray)
        {
            worker.retiring = false;
            self.retiring.remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_it_was_made_of() {
        let some: Regions = [RegionId(0), RegionId(63), RegionId(64)]
            .into_iter()
            .collect();
        assert!(some.contains(RegionId(0)) && some.contains(RegionId(63)));
        assert!(!some.contains(RegionId(1)) && !some.contains(RegionId(64)));
        assert!(Regions::ANY.contains(RegionId(63)) && !Regions::NONE.contains(RegionId(0)));
        assert_eq!((some.count(), Regions::ANY.count()), (2, 64));
        assert!(some.overlaps(Regions::ANY) && !some.overlaps(Regions::NONE));
    }
}
