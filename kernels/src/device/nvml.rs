//! GPUs, as NVML describes them.
//!
//! The library is loaded at run time. Without it, or without a driver, there are no GPUs and one reason;
//! a GPU that cannot be asked is left out with a reason of its own, and the others stay.

use super::{DeviceInfo, DeviceKind};
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};

/// GPUs, and reasons for what is missing.
pub(super) fn list() -> (Vec<DeviceInfo>, Vec<String>) {
    let nvml = match Nvml::init() {
        Ok(nvml) => nvml,
        Err(error) => {
            return (
                Vec::new(),
                vec![format!("no GPUs: NVML cannot be used: {error}")],
            );
        }
    };
    let count = match nvml.device_count() {
        Ok(count) => count,
        Err(error) => {
            return (
                Vec::new(),
                vec![format!("no GPUs: NVML cannot count them: {error}")],
            );
        }
    };
    let mut gpus = Vec::new();
    let mut reasons = Vec::new();
    for index in 0..count {
        match nvml
            .device_by_index(index)
            .and_then(|gpu| describe(index, &gpu))
        {
            Ok(gpu) => gpus.push(gpu),
            Err(error) => reasons.push(format!("GPU {index} is left out: {error}")),
        }
    }
    if count == 0 {
        reasons.push("no GPUs: NVML finds none".to_owned());
    }
    (gpus, reasons)
}

fn describe(index: u32, gpu: &Device<'_>) -> Result<DeviceInfo, NvmlError> {
    let memory = gpu.memory_info()?;
    Ok(DeviceInfo {
        id: format!("cuda:{index}"),
        kind: DeviceKind::Cuda,
        name: gpu.name()?,
        uuid: gpu.uuid()?,
        memory_bytes: memory.total,
        memory_free_bytes: memory.free,
        mig: is_split(gpu),
        temperature_c: gpu.temperature(TemperatureSensor::Gpu).ok(),
    })
}

/// GPUs without MIG answer with an error, which means no.
fn is_split(gpu: &Device<'_>) -> bool {
    gpu.mig_mode().is_ok_and(|mode| mode.current != 0)
}
