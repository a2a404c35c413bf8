//! The judge: keeps what it has to know of each device from one sight to the next.

use super::{
    Health, Trouble, Verdict, memory,
    xid::{self, Class},
};
use bulkhead_kernels::device::{DeviceInfo, Snapshot, THROTTLE_THERMAL, Xid};
use std::collections::{BTreeMap, BTreeSet};

/// Devices that are remembered; those that are gone are forgotten beyond it.
const REMEMBERED_MAX: usize = 256;

/// What is known of all devices that were ever seen, by unique id.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    devices: BTreeMap<String, Known>,
}

#[derive(Clone, Debug)]
struct Known {
    device: DeviceInfo,
    health: Health,
    here: bool,
    /// What is bad about it until it has been gone.
    fault: Option<Trouble>,
    /// What is worn about it until then.
    wear: Option<Trouble>,
    /// Uncorrected errors at the last count.
    ecc: Option<u64>,
}

impl Judge {
    /// Judges what is seen now, with `ours` as the numbers of our own processes. Gone devices come first, so
    /// that a name that went over to another device says in the end what that one is. Instances that are
    /// no more are told once and forgotten.
    pub fn judge(&mut self, seen: &Snapshot, ours: &BTreeSet<u32>) -> Vec<Verdict> {
        let here: BTreeSet<&str> = seen.devices.iter().map(|one| one.uuid.as_str()).collect();
        let mut verdicts = Vec::new();
        for (uuid, known) in &mut self.devices {
            if !here.contains(uuid.as_str()) {
                let parent = known.device.parent.as_deref();
                let divided = parent.is_some_and(|parent| here.contains(parent));
                verdicts.push(known.missing(&reported(&known.device, &seen.xids), divided));
            }
        }
        for device in &seen.devices {
            let xids = reported(device, &seen.xids);
            let stranger_bytes = memory::of_strangers(device, ours);
            let known = self.devices.get(&device.uuid);
            let before = known.map(|known| known.health);
            let known = (self.devices.entry(device.uuid.clone()))
                .or_insert_with(|| Known::new(device.clone()));
            known.see(device, &xids, stranger_bytes);
            verdicts.push(Verdict {
                device: device.clone(),
                here: true,
                health: known.health,
                before,
                strangers_bytes: stranger_bytes,
                usable_bytes: device.memory_bytes - stranger_bytes,
                xids,
            });
        }
        self.forget(&here);
        verdicts
    }

    fn forget(&mut self, here: &BTreeSet<&str>) {
        self.devices.retain(|_, known| {
            let parent = known.device.parent.as_deref();
            known.here || parent.is_none_or(|parent| !here.contains(parent))
        });
        if self.devices.len() > REMEMBERED_MAX {
            self.devices.retain(|_, known| known.here);
        }
    }
}

impl Known {
    fn new(device: DeviceInfo) -> Known {
        Known {
            ecc: device.reading.ecc_uncorrected,
            device,
            health: Health::Healthy,
            here: true,
            fault: None,
            wear: None,
        }
    }

    /// It is not there.
    fn missing(&mut self, xids: &[u64], divided: bool) -> Verdict {
        let before = self.health;
        self.here = false;
        self.note(xids);
        if !self.health.is_bad() {
            let why = match divided {
                true => Trouble::MigReconfigured,
                false => self.fault.unwrap_or(Trouble::Gone),
            };
            self.health = Health::Bad(why);
        }
        Verdict {
            device: self.device.clone(),
            here: false,
            health: self.health,
            before: Some(before),
            strangers_bytes: 0,
            usable_bytes: 0,
            xids: xids.to_vec(),
        }
    }

    /// It is there.
    fn see(&mut self, device: &DeviceInfo, xids: &[u64], strangers_bytes: u64) {
        if !self.here {
            *self = Known::new(device.clone());
        }
        self.note(xids);
        if device.answers {
            self.count_errors(device.reading.ecc_uncorrected);
            self.see_division(device.split);
            self.device = device.clone();
        }
        let heat = device.reading.throttle.unwrap_or(0) & THROTTLE_THERMAL;
        let lesser = [
            (!device.answers).then_some(Trouble::Mute),
            self.wear,
            (strangers_bytes > 0).then_some(Trouble::Strangers),
            (heat != 0).then_some(Trouble::Hot),
        ];
        self.health = match (self.fault, lesser.into_iter().flatten().next()) {
            (Some(fault), _) => Health::Bad(fault),
            (None, Some(trouble)) => Health::Degraded(trouble),
            (None, None) => Health::Healthy,
        };
    }

    /// The first fault and the first wear count.
    fn note(&mut self, xids: &[u64]) {
        for code in xids {
            let into = match xid::class(*code) {
                Class::Fault => &mut self.fault,
                Class::Wear => &mut self.wear,
                Class::Application | Class::Unlisted => continue,
            };
            into.get_or_insert(Trouble::Xid(*code));
        }
    }

    /// A count that went down was reset. The first that is told is none that grew.
    fn count_errors(&mut self, now: Option<u64>) {
        if let (Some(before), Some(now)) = (self.ecc, now)
            && now > before
        {
            self.fault.get_or_insert(Trouble::EccUncorrected);
        }
        self.ecc = now.or(self.ecc);
    }

    /// A GPU that was whole and is divided is no device any more, until it is whole again.
    fn see_division(&mut self, split: bool) {
        match (self.device.split, split) {
            (false, true) => drop(self.fault.get_or_insert(Trouble::MigReconfigured)),
            (true, false) if self.fault == Some(Trouble::MigReconfigured) => self.fault = None,
            _ => {}
        }
    }
}

/// What was reported of a device, or of the GPU that it is a part of.
fn reported(device: &DeviceInfo, xids: &[Xid]) -> Vec<u64> {
    let of_it = |xid: &&Xid| xid.uuid == device.uuid || Some(&xid.uuid) == device.parent.as_ref();
    xids.iter().filter(of_it).map(|xid| xid.code).collect()
}
