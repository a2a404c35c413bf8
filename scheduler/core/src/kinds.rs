//! Kinds of devices, and which of them a queue waits for.
//!
//! A processor takes every model. An accelerator takes those that accelerate, and where one takes part and has room for
//! any worker they wait for a place there, however many a processor has: slow beside fast would be no help, and a
//! processor's memory is others'. Where none does, they wait as all others do. Which it is follows from the devices as
//! they are now; a worker that runs stays where it is.

use std::collections::BTreeSet;

use crate::core::Core;
use crate::lane::Device;
use crate::tenant::WantKey;
use crate::worker::Worker;
use crate::{DeviceKind, ModelId, TenantId};

pub(crate) const KINDS: [DeviceKind; 2] = [DeviceKind::Processor, DeviceKind::Accelerator];

/// Queues that have work and no worker, in the order in which they get one: of models that do not accelerate, and of
/// those that do.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    queues: [BTreeSet<WantKey>; 2],
    /// An accelerator takes part and has room.
    accelerators: bool,
}

impl Wanted {
    pub(crate) fn of(&mut self, accelerates: bool) -> &mut BTreeSet<WantKey> {
        &mut self.queues[usize::from(accelerates)]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queues.iter().all(BTreeSet::is_empty)
    }

    pub(crate) fn holds(&self, accelerates: bool, key: &WantKey) -> bool {
        self.queues[usize::from(accelerates)].contains(key)
    }

    /// The kind of devices that queues wait for.
    pub(crate) fn kind_for(&self, accelerates: bool) -> DeviceKind {
        match accelerates && self.accelerators {
            true => DeviceKind::Accelerator,
            false => DeviceKind::Processor,
        }
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

    /// Whether a worker for this model could be started anywhere, were there a place free.
    pub(crate) fn is_served(&self, model: ModelId) -> bool {
        self.may_start_on(DeviceKind::Processor)
            || self.accelerates(model) && self.may_start_on(DeviceKind::Accelerator)
    }

    fn may_start_on(&self, kind: DeviceKind) -> bool {
        let mut devices = self.devices.values().filter(|device| device.kind == kind);
        devices.any(Device::may_start)
    }

    /// The first accelerator that takes part has come, or the last has gone: who waits for the other kind now stands in the
    /// order there.
    pub(crate) fn follow_kinds(&mut self) {
        let accelerators = self.may_start_on(DeviceKind::Accelerator);
        if std::mem::replace(&mut self.wanted.accelerators, accelerators) == accelerators {
            return;
        }
        let [_, accelerated] = &self.wanted.queues;
        let tenants: BTreeSet<TenantId> = accelerated.iter().map(|key| key.2).collect();
        tenants.into_iter().for_each(|tenant| self.reindex(tenant));
    }

    /// The queues that wait for devices of this kind now.
    fn waiting_for(&self, kind: DeviceKind) -> impl Iterator<Item = &BTreeSet<WantKey>> {
        let queues = [false, true].into_iter().zip(&self.wanted.queues);
        let of_kind =
            queues.filter(move |(accelerate, _)| self.wanted.kind_for(*accelerate) == kind);
        of_kind.map(|(_, queues)| queues)
    }

    /// Of those, whose turn it is.
    pub(crate) fn first_wanted(&self, kind: DeviceKind) -> Option<WantKey> {
        self.waiting_for(kind)
            .filter_map(BTreeSet::first)
            .min()
            .copied()
    }

    /// How many they are.
    pub(crate) fn wanted_on(&self, kind: DeviceKind) -> usize {
        self.waiting_for(kind).map(BTreeSet::len).sum()
    }

    pub(crate) fn is_on(&self, worker: &Worker, kind: DeviceKind) -> bool {
        let device = self.devices.get(&worker.device);
        device.is_some_and(|device| device.kind == kind)
    }
}
