//! `--device`: which device a scenario measures, and a clear answer where it cannot.

use bulkhead_kernels::device::{Discovery, discover};

/// A device that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    /// By its ordinal.
    Cuda(usize),
}

/// Why a device cannot be measured: the caller's to mend.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DeviceError {
    #[error("{0:?} names no device: write cpu, or cuda:0, cuda:1 and so on")]
    Name(String),
    #[error("{name} is not there; found: {found}. {reasons}")]
    Missing {
        name: String,
        found: String,
        reasons: String,
    },
    #[error("this scenario runs on the CPU only so far; use --device cpu")]
    CpuOnly,
}

impl Device {
    /// For scenarios whose server places work on the CPU alone.
    pub fn must_be_cpu(&self) -> Result<(), DeviceError> {
        match self {
            Device::Cpu => Ok(()),
            Device::Cuda(_) => Err(DeviceError::CpuOnly),
        }
    }
}

/// The device of this name.
pub fn find(name: &str) -> Result<Device, DeviceError> {
    among(name, &discover())
}

fn among(name: &str, found: &Discovery) -> Result<Device, DeviceError> {
    let device = parse(name).ok_or_else(|| DeviceError::Name(name.into()))?;
    if found.devices.iter().any(|device| device.id == name) {
        return Ok(device);
    }
    let ids: Vec<&str> = found.devices.iter().map(|d| d.id.as_str()).collect();
    Err(DeviceError::Missing {
        name: name.into(),
        found: ids.join(", "),
        reasons: found.reasons.join("; "),
    })
}

fn parse(name: &str) -> Option<Device> {
    match name.split_once(':') {
        None => (name == "cpu").then_some(Device::Cpu),
        Some(("cuda", ordinal)) => ordinal.parse().ok().map(Device::Cuda),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_always_there() {
        assert_eq!(find("cpu"), Ok(Device::Cpu));
        assert_eq!(Device::Cuda(0).must_be_cpu(), Err(DeviceError::CpuOnly));
    }

    #[test]
    fn a_gpu_that_is_not_there_is_named_with_the_reason() {
        let mut found = discover();
        found.devices.truncate(1);
        found.reasons = vec!["no driver".into()];
        let error = among("cuda:7", &found).unwrap_err().to_string();
        assert!(error.contains("cuda:7 is not there"), "{error}");
        assert!(error.contains("no driver"), "{error}");
    }

    #[test]
    fn nonsense_is_told_from_absence() {
        for name in ["gpu", "cuda", "cuda:x", "cpu:0", ""] {
            assert_eq!(find(name), Err(DeviceError::Name(name.into())));
        }
    }
}
