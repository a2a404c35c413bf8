//! The metrics of GPUs, by device. What a device does not tell, or one that is gone, is NaN.
//!
//! Labels are bounded: by the devices that a packet can tell of, and by the errors that have a meaning here.

use bulkhead_gpus::health::Verdict;
use bulkhead_kernels::device::THROTTLE_THERMAL;
use metrics::{counter, describe_counter, describe_gauge, gauge};

pub(super) fn describe() {
    describe_gauge!(
        "bulkhead_device_memory_bytes",
        "Memory of a device: all of it, free, taken by processes that are not ours (strangers), and all but that (usable)"
    );
    describe_gauge!(
        "bulkhead_device_utilisation_ratio",
        "Part of the last moments in which something ran on a device"
    );
    describe_gauge!("bulkhead_device_temperature_celsius", "How hot a device is");
    describe_gauge!("bulkhead_device_power_watts", "What a device draws");
    describe_gauge!(
        "bulkhead_device_hot",
        "1 while a device is slowed down by heat"
    );
    describe_gauge!(
        "bulkhead_device_ecc_uncorrected",
        "Memory errors since its driver was loaded that could not be corrected"
    );
    describe_gauge!(
        "bulkhead_device_health",
        "1 for what a device is: healthy, degraded (it serves, and somebody should look) or bad (nothing runs on it)"
    );
    describe_gauge!(
        "bulkhead_device_serves",
        "1 where work may be placed on a device"
    );
    describe_counter!(
        "bulkhead_device_xids_total",
        "Errors that the driver reported, by device and NVIDIA's number (other: one that is not listed)"
    );
    describe_gauge!(
        "bulkhead_devices_watched",
        "1 while GPUs are heard of; 0 once they are not, and count as they were last"
    );
}

/// How a device is, and whether work may be placed on it.
pub fn device(verdict: &Verdict, serves: bool) {
    let (device, health) = (&verdict.device, verdict.health);
    let reading = &device.reading;
    let here = verdict.here;
    let set = |name: &'static str, value: Option<f64>| {
        let value = value.filter(|_| here).unwrap_or(f64::NAN);
        gauge!(name, "device" => device.id.clone()).set(value);
    };
    let milli = |n: u32| f64::from(n) / 1000.0;
    set(
        "bulkhead_device_utilisation_ratio",
        reading.utilisation_percent.map(|n| f64::from(n) / 100.0),
    );
    set(
        "bulkhead_device_temperature_celsius",
        reading.temperature_c.map(f64::from),
    );
    set("bulkhead_device_power_watts", reading.power_mw.map(milli));
    let hot = |bits: u64| f64::from(u8::from(bits & THROTTLE_THERMAL != 0));
    set("bulkhead_device_hot", reading.throttle.map(hot));
    set(
        "bulkhead_device_ecc_uncorrected",
        reading.ecc_uncorrected.map(|n| n as f64),
    );
    for (kind, bytes) in [
        ("total", device.memory_bytes),
        ("free", device.memory_free_bytes),
        ("strangers", verdict.strangers_bytes),
        ("usable", verdict.usable_bytes),
    ] {
        gauge!("bulkhead_device_memory_bytes", "device" => device.id.clone(), "kind" => kind)
            .set(if here { bytes as f64 } else { f64::NAN });
    }
    for state in ["healthy", "degraded", "bad"] {
        gauge!("bulkhead_device_health", "device" => device.id.clone(), "state" => state)
            .set(f64::from(u8::from(state == health.word())));
    }
    set("bulkhead_device_serves", Some(f64::from(u8::from(serves))));
}

/// The driver reported an error; `None` is one that is not listed.
pub fn device_xid(device: &str, code: Option<u64>) {
    let code = code.map_or_else(|| "other".to_owned(), |code| code.to_string());
    counter!("bulkhead_device_xids_total", "device" => device.to_owned(), "code" => code)
        .increment(1);
}

/// Whether GPUs are heard of.
pub fn devices_watched(watched: bool) {
    gauge!("bulkhead_devices_watched").set(f64::from(u8::from(watched)));
}
