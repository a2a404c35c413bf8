//! The machine: kernel, processors, memory, devices, ports.

use super::{Check, output};
use crate::config::Config;
use bulkhead_kernels::device::{self, DeviceKind};
use std::{
    fs, io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixStream,
};

const GROUP: &str = "machine";
/// `pidfd_open`, `close_range` with CLOSE_RANGE_CLOEXEC: what the launcher calls.
const KERNEL_LEAST: (u32, u32) = (5, 11);

/// What the machine is.
pub fn checks() -> Vec<Check> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let mut checks = vec![kernel(), Check::found(GROUP, "cores", cores.to_string())];
    let devices = device::discover();
    for found in devices.devices {
        let mut detail = format!(
            "{}, {} of {} free",
            found.name,
            output::bytes(found.memory_free_bytes),
            output::bytes(found.memory_bytes)
        );
        if found.mig {
            detail += ", split into MIG instances";
        }
        if found.kind == DeviceKind::Cuda {
            detail += "; its driver's device nodes are shared between tenants and trusted";
        }
        checks.push(Check::found(GROUP, found.id, detail));
    }
    for reason in devices.reasons {
        checks.push(Check::found(GROUP, "gpu", reason).lacking());
    }
    checks
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
