//! Which devices this machine has, and how they are.
//!
//! The CPU is always one of them. GPUs, and the MIG instances that an operator split them into, come from
//! NVML, whose library is loaded at run time: a machine without it or without the driver is a machine
//! without GPUs, never an error. What a device cannot tell is `None`. Whoever watches GPUs asks a
//! [`Source`], which is NVML, or in tests a machine of pretend ([`fake`]). Nothing here judges what it finds.

mod cpu;
pub mod fake;
mod nvml;

pub use nvml::{Library, NvmlSource};

/// A device as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// The name by which configuration and placement know it: "cpu", "cuda:0", "cuda:0/mig:1", …
    pub id: String,
    /// What kind of device it is.
    pub kind: DeviceKind,
    /// The maker's name for it.
    pub name: String,
    /// The maker's unique id; empty for the CPU.
    pub uuid: String,
    /// The number of its node in `/dev`, of a GPU; of a MIG instance nobody asks it yet.
    pub minor: Option<u32>,
    /// Of a MIG instance: the unique id of the GPU that it is a part of.
    pub parent: Option<String>,
    /// True of a GPU that the operator split into MIG instances: they are the devices, not it.
    pub split: bool,
    /// Where it is on the PCIe bus, as `domain:bus:device.function` in hex; of an instance, its GPU's.
    pub pcie: Option<String>,
    /// The node of the host's memory that is nearest to it.
    pub numa_node: Option<u32>,
    /// All of its memory, bytes.
    pub memory_bytes: u64,
    /// What was free when it was asked, bytes.
    pub memory_free_bytes: u64,
    /// False where it is there and could not be asked this time; what is said of it is then of before.
    pub answers: bool,
    /// How it was when it was asked.
    pub reading: Reading,
}

/// Kinds of device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// The host's processors.
    Cpu,
    /// An NVIDIA GPU, or a MIG instance of one.
    Cuda,
}

/// How a device is, as far as it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Part of the last moments in which something ran on it, percent.
    pub utilisation_percent: Option<u32>,
    /// Degrees Celsius.
    pub temperature_c: Option<u32>,
    /// What it draws, milliwatts.
    pub power_mw: Option<u32>,
    /// Why its clocks are lower than they could be: NVML's bits (`nvmlClocksEventReasons`).
    pub throttle: Option<u64>,
    /// Memory errors since its driver was loaded that could not be corrected.
    pub ecc_uncorrected: Option<u64>,
    /// Processes that have memory on it.
    pub processes: Vec<Process>,
}

/// NVML's bits that say that a device is slowed down by heat: by software, and by hardware.
pub const THROTTLE_THERMAL: u64 = 0x20 | 0x40;

/// A process on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    /// Its number, as NVML sees processes.
    pub pid: u32,
    /// What it has there, bytes.
    pub memory_bytes: u64,
}

/// An error that the driver reported of a GPU, by NVIDIA's number for its kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xid {
    /// The GPU's unique id.
    pub uuid: String,
    /// The number.
    pub code: u64,
}

/// All GPUs at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// GPUs in NVML's order, each followed by its instances. One that was here and is not is gone.
    pub devices: Vec<DeviceInfo>,
    /// What was reported since the last time. Of several that one GPU reported in between, NVML may tell the
    /// last alone.
    pub xids: Vec<Xid>,
}

/// Whoever can be asked again and again how the GPUs are.
pub trait Source {
    /// How they are now. May take as long as a driver that hangs.
    ///
    /// # Errors
    /// A sentence, where none can be asked at all and a new source would have to be opened.
    fn look(&mut self) -> Result<Snapshot, String>;
}

/// The devices found, and why there are not more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Discovery {
    /// The CPU first, then GPUs in NVML's order.
    pub devices: Vec<DeviceInfo>,
    /// One reason, where there are no GPUs.
    pub reasons: Vec<String>,
}

/// The devices of this machine, the CPU first.
pub fn list() -> Vec<DeviceInfo> {
    discover().devices
}

/// The devices of this machine, and why there are not more.
pub fn discover() -> Discovery {
    let mut devices = vec![cpu::info()];
    let looked = Library::open().and_then(|library| library.source()?.look());
    let reasons = match looked {
        Ok(snapshot) => {
            devices.extend(snapshot.devices);
            Vec::new()
        }
        Err(reason) => vec![reason],
    };
    Discovery { devices, reasons }
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
    fn no_gpu_comes_with_a_reason_in_one_line() {
        let found = discover();
        assert_eq!(
            found.devices.len() == 1,
            found.reasons.len() == 1,
            "{found:?}"
        );
        assert!(found.reasons.iter().all(|reason| !reason.contains('\n')));
    }
}
