//! The machine: kernel, processors, memory, devices, ports.

use super::{Check, output};
use crate::{
    config::{Config, GpuUse},
    launcher::programs,
};
use bulkhead_kernels::device::{self, DeviceInfo, DeviceKind, THROTTLE_THERMAL};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
};

const GROUP: &str = "machine";
/// `pidfd_open`, `close_range` with CLOSE_RANGE_CLOEXEC: what the launcher calls.
const KERNEL_LEAST: (u32, u32) = (5, 11);

/// What the machine is.
pub fn checks(config: &Config) -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut checks = vec![kernel(), Check::found(GROUP, "cores", cores.to_string())];
    let devices = device::discover();
    let use_ = use_of_gpus(config.gpu.use_, programs::cuda_worker().is_some());
    checks.extend((devices.devices).into_iter().map(|found| {
        let detail = describe(&found, use_);
        Check::found(GROUP, found.id, detail)
    }));
    for reason in devices.reasons {
        checks.push(Check::found(GROUP, "gpu", reason).lacking());
    }
    checks
}

/// What becomes of the GPUs that there are.
fn use_of_gpus(use_: GpuUse, has_worker: bool) -> &'static str {
    match (use_, has_worker) {
        (GpuUse::Off, _) => "watched, and not used: gpu.use is \"off\"",
        (GpuUse::Auto, true) => "used",
        (GpuUse::Auto, false) => {
            "watched, and not used: there is no bulkhead-worker-cuda (deploy/cuda/setup builds it)"
        }
    }
}

/// A device and how it is, as far as it says.
fn describe(device: &DeviceInfo, use_: &str) -> String {
    let mut parts = vec![
        device.name.clone(),
        format!(
            "{} of {} free",
            output::bytes(device.memory_free_bytes),
            output::bytes(device.memory_bytes)
        ),
    ];
    if device.kind == DeviceKind::Cpu {
        return parts.join(", ");
    }
    let reading = &device.reading;
    parts.push(device.uuid.clone());
    parts.extend(device.pcie.as_ref().map(|at| format!("PCIe {at}")));
    parts.extend(device.numa_node.map(|node| format!("NUMA node {node}")));
    parts.extend(reading.utilisation_percent.map(|n| format!("{n} % busy")));
    parts.extend(reading.temperature_c.map(|n| format!("{n} °C")));
    let hot = reading.throttle.unwrap_or(0) & THROTTLE_THERMAL != 0;
    parts.extend(hot.then(|| "slowed down by heat".to_owned()));
    parts.extend(reading.power_mw.map(|n| format!("{} W", n / 1000)));
    let errors = reading.ecc_uncorrected;
    parts.extend(errors.map(|n| format!("{n} uncorrected memory errors")));
    match reading.processes.len() {
        0 => {}
        1 => parts.push("1 process on it".to_owned()),
        n => parts.push(format!("{n} processes on it")),
    }
    parts.push(match (device.split, &device.parent) {
        (true, _) => "split into MIG instances".to_owned(),
        (false, Some(_)) => "watched, and not used: nothing runs on instances yet".to_owned(),
        (false, None) => use_.to_owned(),
    });
    let trust = "; its driver's device nodes are shared between tenants and trusted";
    parts.join(", ") + trust
}

fn kernel() -> Check {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map_while(|n| n.parse().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let check = Check::found(GROUP, "kernel", release).required();
    if version >= KERNEL_LEAST {
        return check;
    }
    let (major, minor) = KERNEL_LEAST;
    Check {
        detail: format!("{release:?}: Linux {major}.{minor} or later is needed"),
        ..check.lacking()
    }
}

/// Whether the server could listen; a server of this data folder that runs already is fine.
pub fn ports(config: &Config) -> Vec<Check> {
    let running = UnixStream::connect(config.paths().admin_socket()).is_ok();
    let port = |name: &str, address: SocketAddr| {
        let check = Check::found("network", name, format!("{address} is free")).required();
        match TcpListener::bind(address) {
            Ok(_) => check,
            Err(e) if running && e.kind() == io::ErrorKind::AddrInUse => Check {
                detail: format!("{address} is in use while a server of this data folder runs"),
                ..check
            },
            Err(e) => Check {
                detail: format!("{address}: {e}; choose another in bulkhead.toml"),
                ..check.lacking()
            },
        }
    };
    vec![
        port("agents", config.server.listen),
        port("operators", config.server.operators),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_kernels::device::{Reading, list};

    #[test]
    fn a_gpu_is_listed_with_what_it_says_and_without_what_it_does_not() {
        let cpu = list().into_iter().next().expect("there is always one");
        let unused = use_of_gpus(GpuUse::Auto, false);
        assert!(describe(&cpu, unused).ends_with(" free"));
        let gpu = DeviceInfo {
            kind: DeviceKind::Cuda,
            uuid: "GPU-1".into(),
            numa_node: Some(1),
            reading: Reading {
                temperature_c: Some(91),
                throttle: Some(THROTTLE_THERMAL),
                ..Reading::default()
            },
            ..cpu
        };
        let told = describe(&gpu, unused);
        let words = "free, GPU-1, NUMA node 1, 91 °C, slowed down by heat, watched, and not used";
        assert!(told.contains(words), "{told}");
    }
}
