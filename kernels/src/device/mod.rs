//! Which devices this machine has.
//!
//! The CPU is always one of them. GPUs come from NVML, behind the feature `nvml`; a machine without
//! the library or the driver is a machine without GPUs, never an error.

mod cpu;
#[cfg(feature = "nvml")]
mod nvml;

/// A device as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name by which configuration and placement know it: "cpu", "cuda:0", …
    pub id: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// The maker's name for it.
    pub name: String,
    /// The maker's unique id; empty for the CPU.
    pub uuid: String,
    /// All of its memory, bytes.
    pub memory_bytes: u64,
    /// What was free when it was asked, bytes.
    pub memory_free_bytes: u64,
    /// True where the operator split it into MIG instances.
    pub mig: bool,
    /// Degrees Celsius, where it says.
    pub temperature_c: Option<u32>,
}

/// Kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The host's processors.
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

/// The devices found, and why there are not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The CPU first, then GPUs in NVML's order.
    pub devices: Vec<DeviceInfo>,
    /// One reason for each kind of device, or each GPU, that could not be asked.
    pub reasons: Vec<String>,
}

/// The devices of this machine, the CPU first.
pub fn list() -> Vec<DeviceInfo> {
    discover().devices
}

/// The devices of this machine, and why there are not more.
pub fn discover() -> Discovery {
    let mut found = Discovery {
        devices: vec![cpu::info()],
        reasons: Vec::new(),
    };
    add_gpus(&mut found);
    found
}

#[cfg(feature = "nvml")]
fn add_gpus(found: &mut Discovery) {
    let (gpus, reasons) = nvml::list();
    found.devices.extend(gpus);
    found.reasons.extend(reasons);
}

#[cfg(not(feature = "nvml"))]
fn add_gpus(found: &mut Discovery) {
    found
        .reasons
        .push("GPUs were not looked for: this build has no NVML".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there_and_has_memory() {
        let found = discover();
        let cpu = &found.devices[0];
        assert_eq!((cpu.id.as_str(), cpu.kind), ("cpu", DeviceKind::Cpu));
        assert!(!cpu.name.is_empty() && cpu.memory_bytes >= cpu.memory_free_bytes);
        assert!(cpu.memory_bytes > 0);
    }

    #[test]
    fn no_gpu_comes_with_a_reason() {
        let found = discover();
        assert!(
            found.devices.len() > 1 || found.reasons.len() == 1,
            "{found:?}"
        );
    }
}
