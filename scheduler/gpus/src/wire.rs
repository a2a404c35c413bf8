//! A snapshot in a packet, and out of one.
//!
//! Both directions are bounded, so that a packet always fits and what arrives can neither fill memory nor
//! name a device in words that do not belong into a metric or a log.

use bulkhead_kernels::device::{DeviceInfo, DeviceKind, Process, Reading, Snapshot, Xid};
use bulkhead_proto::internal::{Gpu, GpuProcess, GpuXid, GpusSeen};

/// GPUs and instances that are told: eight GPUs in seven instances each.
pub const DEVICES_MAX: usize = 64;
/// Processes of one device that are told, those with the most memory.
pub const PROCESSES_MAX: usize = 16;
/// Errors that are told at once.
pub const XIDS_MAX: usize = 128;
/// Bytes of a name.
const NAME_BYTES_MAX: usize = 64;

/// What a packet says of a snapshot.
pub fn seen(snapshot: &Snapshot) -> GpusSeen {
    GpusSeen {
        gpus: snapshot.devices.iter().take(DEVICES_MAX).map(gpu).collect(),
        xids: (snapshot.xids.iter().take(XIDS_MAX))
            .map(|xid| GpuXid {
                uuid: word(&xid.uuid),
                code: xid.code,
            })
            .collect(),
    }
}

/// The snapshot that a packet told of.
pub fn snapshot(seen: GpusSeen) -> Snapshot {
    let devices = seen.gpus.into_iter().take(DEVICES_MAX).map(device);
    let xids = seen.xids.into_iter().take(XIDS_MAX);
    Snapshot {
        // Without a name there is nothing to tell it from others by.
        devices: devices
            .filter(|one| !one.uuid.is_empty() && !one.id.is_empty())
            .collect(),
        xids: xids
            .map(|xid| Xid {
                uuid: word(&xid.uuid),
                code: xid.code,
            })
            .collect(),
    }
}

fn gpu(device: &DeviceInfo) -> Gpu {
    let reading = &device.reading;
    Gpu {
        id: word(&device.id),
        uuid: word(&device.uuid),
        minor: device.minor,
        name: word(&device.name),
        parent: device.parent.as_deref().map(word).unwrap_or_default(),
        split: device.split,
        pcie: device.pcie.as_deref().map(word).unwrap_or_default(),
        numa_node: device.numa_node,
        memory_bytes: device.memory_bytes,
        memory_free_bytes: device.memory_free_bytes,
        mute: !device.answers,
        utilisation_percent: reading.utilisation_percent,
        temperature_c: reading.temperature_c,
        power_mw: reading.power_mw,
        throttle: reading.throttle,
        ecc_uncorrected: reading.ecc_uncorrected,
        processes: largest(&reading.processes),
    }
}

fn largest(processes: &[Process]) -> Vec<GpuProcess> {
    let mut all = processes.to_vec();
    all.sort_by_key(|process| (std::cmp::Reverse(process.memory_bytes), process.pid));
    let told = all.into_iter().take(PROCESSES_MAX);
    told.map(|process| GpuProcess {
        pid: process.pid,
        memory_bytes: process.memory_bytes,
    })
    .collect()
}

fn device(gpu: Gpu) -> DeviceInfo {
    let processes = gpu.processes.into_iter().take(PROCESSES_MAX);
    DeviceInfo {
        id: word(&gpu.id),
        kind: DeviceKind::Cuda,
        name: word(&gpu.name),
        uuid: word(&gpu.uuid),
        minor: gpu.minor,
        parent: Some(word(&gpu.parent)).filter(|parent| !parent.is_empty()),
        split: gpu.split,
        pcie: Some(word(&gpu.pcie)).filter(|pcie| !pcie.is_empty()),
        numa_node: gpu.numa_node,
        memory_bytes: gpu.memory_bytes,
        memory_free_bytes: gpu.memory_free_bytes,
        answers: !gpu.mute,
        reading: Reading {
            utilisation_percent: gpu.utilisation_percent,
            temperature_c: gpu.temperature_c,
            power_mw: gpu.power_mw,
            throttle: gpu.throttle,
            ecc_uncorrected: gpu.ecc_uncorrected,
            processes: processes
                .map(|process| Process {
                    pid: process.pid,
                    memory_bytes: process.memory_bytes,
                })
                .collect(),
        },
    }
}

/// A name of letters, digits and what stands between them, cut where it is too long.
fn word(text: &str) -> String {
    let plain = |c: &char| c.is_ascii_alphanumeric() || " -_:./()".contains(*c);
    text.chars().filter(plain).take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::packet::{self, PACKET_BYTES_MAX};
    use std::os::fd::AsFd as _;

    fn full() -> Snapshot {
        let long = "x".repeat(200);
        let process = Process {
            pid: u32::MAX,
            memory_bytes: u64::MAX,
        };
        let device = DeviceInfo {
            id: long.clone(),
            kind: DeviceKind::Cuda,
            name: long.clone(),
            uuid: long.clone(),
            minor: Some(u32::MAX),
            parent: Some(long.clone()),
            split: true,
            pcie: Some(long.clone()),
            numa_node: Some(u32::MAX),
            memory_bytes: u64::MAX,
            memory_free_bytes: u64::MAX,
            answers: false,
            reading: Reading {
                utilisation_percent: Some(u32::MAX),
                temperature_c: Some(u32::MAX),
                power_mw: Some(u32::MAX),
                throttle: Some(u64::MAX),
                ecc_uncorrected: Some(u64::MAX),
                processes: vec![process; 1_000],
            },
        };
        let xid = Xid {
            uuid: "GPU-0123456789012345678901234567890123".to_owned(),
            code: u64::MAX,
        };
        Snapshot {
            devices: vec![device; 1_000],
            xids: vec![xid; 1_000],
        }
    }

    #[test]
    fn the_fullest_snapshot_fits_into_a_packet_and_comes_out_bounded() {
        let seen = seen(&full());
        let (left, right) = packet::pair().unwrap();
        packet::send(left.as_fd(), &seen, None)
            .unwrap_or_else(|error| panic!("{error}, of at most {PACKET_BYTES_MAX}"));
        let (got, _) = packet::recv::<GpusSeen>(right.as_fd()).unwrap().unwrap();
        let snapshot = snapshot(got);
        assert_eq!(snapshot.devices.len(), DEVICES_MAX);
        assert_eq!(snapshot.xids.len(), XIDS_MAX);
        let device = &snapshot.devices[0];
        assert_eq!(device.reading.processes.len(), PROCESSES_MAX);
        assert!(!device.answers && device.name.len() == NAME_BYTES_MAX);
    }

    #[test]
    fn words_that_do_not_belong_into_a_label_are_left_out() {
        let gpu = Gpu {
            id: "cuda:0\"} 1\nbulkhead_".into(),
            uuid: "GPU-1".into(),
            ..Gpu::default()
        };
        let nameless = Gpu::default();
        let seen = GpusSeen {
            gpus: vec![gpu, nameless],
            xids: Vec::new(),
        };
        let snapshot = snapshot(seen);
        assert_eq!(snapshot.devices.len(), 1, "one without a name is none");
        assert_eq!(snapshot.devices[0].id, "cuda:0 1bulkhead_");
    }
}
