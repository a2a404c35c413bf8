//! Kinds of devices, and which of them a queue waits for.
//!
//! A processor takes every model. An accelerator takes those that accelerate, and where one takes part and has room for
//! any worker they wait for a place there, however many a processor has: slow beside fast would be no help, and a
//! processor's memory is others'. Where none does, they wait as all others do. Which it is follows from the devices as
//! they are now; a worker that runs stays where it is.
//!
//! Only devices count that are in regions where a tenant may be (`regions`). Queues that may have the same places wait in
//! one group, and who is first there keeps nobody of another group waiting for places that he may not have.

use std::collections::{BTreeMap, BTreeSet};

use crate::core::Core;
use crate::index::replace;
use crate::lane::Device;
use crate::tenant::WantKey;
use crate::worker::Worker;
use crate::{DeviceId, DeviceKind, ModelId, Regions, TenantId};

pub(crate) const KINDS: [DeviceKind; 2] = [DeviceKind::Processor, DeviceKind::Accelerator];

/// Queues that may have the same places: of models that accelerate or of those that do not, of tenants that may be in these
/// regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Group {
    pub accelerates: bool,
    pub regions: Regions,
}

/// Queues that have work and no worker, of each group in the order in which they get one. No group is empty.
#[derive(Debug)]
pub(crate) struct Wanted {
    groups: BTreeMap<Group, BTreeSet<WantKey>>,
    /// Regions in which an accelerator takes part and has room.
    accelerators: Regions,
}

impl Default for Wanted {
    fn default() -> Self {
        Wanted {
            groups: BTreeMap::new(),
            accelerators: Regions::NONE,
        }
    }
}

impl Wanted {
    /// Brings the place of a queue in step, which has this one now.
    pub(crate) fn change(
        &mut self,
        group: Group,
        held: &mut Option<WantKey>,
        new: Option<WantKey>,
    ) {
        if *held == new {
            return;
        }
        let queues = self.groups.entry(group).or_default();
        replace(queues, held, new);
        if queues.is_empty() {
            self.groups.remove(&group);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(crate) fn holds(&self, group: Group, key: &WantKey) -> bool {
        let queues = self.groups.get(&group);
        queues.is_some_and(|queues| queues.contains(key))
    }

    /// The kind of devices that queues of this group wait for.
    pub(crate) fn kind_for(&self, group: Group) -> DeviceKind {
        match group.accelerates && self.accelerators.overlaps(group.regions) {
            true => DeviceKind::Accelerator,
            false => DeviceKind::Processor,
        }
    }

    /// The groups that wait for devices of this kind now, each with whose turn it is there and how many they are.
    pub(crate) fn waiting_for(
        &self,
        kind: DeviceKind,
    ) -> impl Iterator<Item = (Group, WantKey, usize)> {
        let of_kind = self.groups.iter();
        let of_kind = of_kind.filter(move |(group, _)| self.kind_for(**group) == kind);
        of_kind.filter_map(|(group, queues)| Some((*group, *queues.first()?, queues.len())))
    }
}

impl Core {
    /// To be told before a model's first request: of one that has queues nothing is learnt any more.
    pub(crate) fn model_accelerates(&mut self, model: ModelId) {
        let mut tenants = self.tenants.values();
        let queued = tenants.any(|tenant| tenant.flows.contains_key(&model));
        if !self.accelerates(model) && !queued {
            self.accelerated.insert(model);
        }
    }

    pub(crate) fn accelerates(&self, model: ModelId) -> bool {
        self.accelerated.contains(&model)
    }

    /// Devices of a kind in these regions.
    pub(crate) fn devices_of(
        &self,
        kind: DeviceKind,
        regions: Regions,
    ) -> impl Iterator<Item = (DeviceId, &Device)> {
        let devices = self.devices.iter();
        devices.filter(move |(_, one)| one.kind == kind && regions.contains(one.region))
    }

    /// Whether a worker for this model could be started anywhere in these regions, were there a place free.
    pub(crate) fn is_served(&self, model: ModelId, regions: Regions) -> bool {
        let may_start_on = |kind| (self.devices_of(kind, regions)).any(|(_, one)| one.may_start());
        may_start_on(DeviceKind::Processor)
            || self.accelerates(model) && may_start_on(DeviceKind::Accelerator)
    }

    /// The first accelerator of a region that takes part has come, or the last has gone: who waits for the other kind now
    /// stands in the order there.
    pub(crate) fn follow_kinds(&mut self) {
        let accelerators = self.devices_of(DeviceKind::Accelerator, Regions::ANY);
        let accelerators = accelerators.filter(|(_, device)| device.may_start());
        let accelerators = accelerators.map(|(_, device)| device.region).collect();
        if std::mem::replace(&mut self.wanted.accelerators, accelerators) == accelerators {
            return;
        }
        let accelerated = (self.wanted.groups.iter()).filter(|(group, _)| group.accelerates);
        let queues = accelerated.flat_map(|(_, queues)| queues);
        let tenants: BTreeSet<TenantId> = queues.map(|key| key.2).collect();
        tenants.into_iter().for_each(|tenant| self.reindex(tenant));
    }

    pub(crate) fn is_on(&self, worker: &Worker, kind: DeviceKind, regions: Regions) -> bool {
        let device = self.devices.get(&worker.device);
        device.is_some_and(|one| one.kind == kind && regions.contains(one.region))
    }

    /// Whether a worker is where its tenant may be.
    pub(crate) fn is_resident(&self, worker: &Worker) -> bool {
        let regions = (self.tenants.get(&worker.tenant)).map(|tenant| tenant.settings.regions);
        let device = self.devices.get(&worker.device);
        (regions.zip(device)).is_some_and(|(regions, device)| regions.contains(device.region))
    }
}
