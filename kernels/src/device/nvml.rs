//! GPUs, as NVML describes them. Built everywhere, and not yet run on a GPU.
//!
//! The library is loaded at run time. What one call cannot say, because the device does not have it or this
//! user may not ask, is missing from the answer and nothing more. A GPU that NVML says is lost is left out; one
//! that only failed to answer is told as it was, so that a hiccup is not taken for an unplugged card.

use super::{DeviceInfo, DeviceKind, Process, Reading, Snapshot, Source, Xid};
use nvml_wrapper::{
    Device, EventSet, Nvml,
    bitmasks::event::EventTypes,
    enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor},
    enums::{device::UsedGpuMemory, event::XidError},
    error::NvmlError,
};
use std::{collections::BTreeMap, fs};

/// Events of one GPU that are taken in one look.
const EVENTS_PER_LOOK: usize = 32;

/// The library, loaded and initialised.
pub struct Library(Nvml);

impl Library {
    /// Loads it.
    ///
    /// # Errors
    /// One line that says why there are no GPUs.
    pub fn open() -> Result<Library, String> {
        Nvml::init()
            .map(Library)
            .map_err(|error| no_gpus(&format!("NVML cannot be used: {}", one_line(&error))))
    }

    /// A source of snapshots.
    ///
    /// # Errors
    /// One line, where NVML finds no GPU.
    pub fn source(&self) -> Result<NvmlSource<'_>, String> {
        match self.0.device_count() {
            Ok(0) => Err(no_gpus("NVML finds none")),
            Ok(_) => Ok(NvmlSource {
                nvml: &self.0,
                events: BTreeMap::new(),
                last: BTreeMap::new(),
            }),
            Err(error) => Err(no_gpus(&format!("NVML cannot count them: {error}"))),
        }
    }
}

fn no_gpus(why: &str) -> String {
    format!("no GPUs: {why}")
}

/// Errors of the loader can quote several lines.
fn one_line(error: &NvmlError) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// NVML, asked again and again.
pub struct NvmlSource<'a> {
    nvml: &'a Nvml,
    /// Reported errors of each GPU; `None` where it reports none. A set for each, since one that cannot be
    /// registered would spoil the set of the others.
    events: BTreeMap<String, Option<EventSet<'a>>>,
    /// What was found at each index: a GPU, then its instances.
    last: BTreeMap<u32, Vec<DeviceInfo>>,
}

impl Source for NvmlSource<'_> {
    fn look(&mut self) -> Result<Snapshot, String> {
        let count = self.nvml.device_count();
        let count = count.map_err(|error| format!("NVML cannot count GPUs: {error}"))?;
        let mut snapshot = Snapshot::default();
        for index in 0..count {
            match self.gpu(index) {
                Ok(found) => {
                    snapshot.devices.extend(found.iter().cloned());
                    self.last.insert(index, found);
                }
                Err(error) if is_loss(&error) => drop(self.last.remove(&index)),
                Err(_) => {
                    let before = self.last.get(&index).into_iter().flatten().cloned();
                    let mute = |device| DeviceInfo {
                        answers: false,
                        ..device
                    };
                    snapshot.devices.extend(before.map(mute));
                }
            }
        }
        self.last.retain(|index, _| *index < count);
        snapshot.xids = self.xids();
        Ok(snapshot)
    }
}

impl<'a> NvmlSource<'a> {
    /// A GPU and its instances.
    fn gpu(&mut self, index: u32) -> Result<Vec<DeviceInfo>, NvmlError> {
        let nvml: &'a Nvml = self.nvml;
        let gpu = nvml.device_by_index(index)?;
        let id = format!("cuda:{index}");
        let mut info = describe(id.clone(), &gpu)?;
        info.minor = gpu.minor_number().ok();
        info.split = gpu.mig_mode().is_ok_and(|mode| mode.current != 0);
        info.pcie = gpu.pci_info().ok().map(|pci| short(&pci.bus_id));
        info.numa_node = info.pcie.as_deref().and_then(node_of);
        self.listen(&info.uuid, &gpu);
        let mut found = vec![info];
        if found[0].split {
            let instances = gpu.mig_device_count().unwrap_or(0);
            for at in 0..instances {
                // Places that no instance has answer that there is none.
                let Ok(instance) = gpu.mig_device_by_index(at) else {
                    continue;
                };
                let mut info = describe(format!("{id}/mig:{at}"), &instance)?;
                info.parent = Some(found[0].uuid.clone());
                info.pcie = found[0].pcie.clone();
                info.numa_node = found[0].numa_node;
                found.push(info);
            }
        }
        Ok(found)
    }

    fn listen(&mut self, uuid: &str, gpu: &Device<'a>) {
        let nvml: &'a Nvml = self.nvml;
        self.events.entry(uuid.to_owned()).or_insert_with(|| {
            let set = nvml.create_event_set().ok()?;
            gpu.register_events(EventTypes::CRITICAL_XID_ERROR, set)
                .ok()
        });
    }

    fn xids(&self) -> Vec<Xid> {
        let mut xids = Vec::new();
        for (uuid, set) in &self.events {
            let Some(set) = set else { continue };
            // Does not wait: an empty set answers that time is up.
            let events = std::iter::from_fn(|| set.wait(0).ok()).take(EVENTS_PER_LOOK);
            xids.extend(events.filter_map(|event| match event.event_data {
                Some(XidError::Value(code)) => Some(Xid {
                    uuid: uuid.clone(),
                    code,
                }),
                Some(XidError::Unknown) | None => None,
            }));
        }
        xids
    }
}

/// What makes a device one: who it is and how much memory it has. All else may be missing.
fn describe(id: String, device: &Device<'_>) -> Result<DeviceInfo, NvmlError> {
    let memory = device.memory_info()?;
    Ok(DeviceInfo {
        id,
        kind: DeviceKind::Cuda,
        name: device.name()?,
        uuid: device.uuid()?,
        minor: None,
        parent: None,
        split: false,
        pcie: None,
        numa_node: None,
        memory_bytes: memory.total,
        memory_free_bytes: memory.free,
        answers: true,
        reading: read(device),
    })
}

fn read(device: &Device<'_>) -> Reading {
    let uncorrected = MemoryError::Uncorrected;
    let compute = device.running_compute_processes().unwrap_or_default();
    let graphics = device.running_graphics_processes().unwrap_or_default();
    let mut processes = BTreeMap::new();
    for process in compute.into_iter().chain(graphics) {
        if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
            // One that does both is listed twice, with all of its memory each time.
            let most = processes.entry(process.pid).or_insert(bytes);
            *most = bytes.max(*most);
        }
    }
    let processes = processes.into_iter();
    Reading {
        utilisation_percent: device.utilization_rates().ok().map(|rates| rates.gpu),
        temperature_c: device.temperature(TemperatureSensor::Gpu).ok(),
        power_mw: device.power_usage().ok(),
        throttle: device.current_throttle_reasons().ok().map(|r| r.bits()),
        ecc_uncorrected: device
            .total_ecc_errors(uncorrected, EccCounter::Volatile)
            .ok(),
        processes: processes
            .map(|(pid, memory_bytes)| Process { pid, memory_bytes })
            .collect(),
    }
}

/// Whether an error says that the GPU is not there any more.
fn is_loss(error: &NvmlError) -> bool {
    matches!(error, NvmlError::GpuLost | NvmlError::NotFound)
}

/// NVML writes the domain with eight digits, the kernel with four.
fn short(bus_id: &str) -> String {
    let lower = bus_id.to_ascii_lowercase();
    match lower.strip_prefix("0000") {
        Some(rest) if rest.len() == "0000:00:00.0".len() => rest.to_owned(),
        _ => lower,
    }
}

/// The kernel's word on which memory a PCIe device is near to; it writes -1 where all is alike.
fn node_of(pcie: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/sys/bus/pci/devices/{pcie}/numa_node")).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        assert_eq!(short("00000000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(short("0000:3B:00.0"), "0000:3b:00.0");
        assert_eq!(short("00010000:3B:00.0"), "00010000:3b:00.0");
    }

    #[test]
    fn a_lost_gpu_is_gone_and_one_that_does_not_answer_is_not() {
        assert!(is_loss(&NvmlError::GpuLost));
        assert!(!is_loss(&NvmlError::Unknown) && !is_loss(&NvmlError::NotSupported));
    }
}
