//! Memory that strangers have on a device.

use bulkhead_kernels::device::DeviceInfo;
use std::collections::BTreeSet;

/// Bytes that processes have on it that are not `ours`; never more than it has. Of a GPU that is split nothing
/// is said: its instances say it.
pub fn of_strangers(device: &DeviceInfo, ours: &BTreeSet<u32>) -> u64 {
    if device.split {
        return 0;
    }
    let strangers = (device.reading.processes.iter()).filter(|one| !ours.contains(&one.pid));
    let taken = strangers.fold(0u64, |sum, one| sum.saturating_add(one.memory_bytes));
    taken.min(device.memory_bytes)
}
