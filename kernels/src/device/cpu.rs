//! The host's processors as a device: name and memory from `/proc`.

use super::{DeviceInfo, DeviceKind, Reading};

pub(super) fn info() -> DeviceInfo {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    DeviceInfo {
        id: "cpu".to_owned(),
        kind: DeviceKind::Cpu,
        name: name(&cpuinfo).unwrap_or("unnamed processor").to_owned(),
        uuid: String::new(),
        minor: None,
        parent: None,
        split: false,
        pcie: None,
        numa_node: None,
        memory_bytes: kib(&meminfo, "MemTotal").unwrap_or(0) << 10,
        memory_free_bytes: kib(&meminfo, "MemAvailable").unwrap_or(0) << 10,
        answers: true,
        reading: Reading::default(),
    }
}

/// x86 says "model name", many ARM kernels "Model" or nothing.
fn name(cpuinfo: &str) -> Option<&str> {
    ["model name", "Model", "Processor"]
        .iter()
        .find_map(|key| field(cpuinfo, key))
}

fn kib(meminfo: &str, key: &str) -> Option<u64> {
    field(meminfo, key)?
        .trim_end_matches("kB")
        .trim_end()
        .parse()
        .ok()
}

fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim_end() == key).then(|| value.trim())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_as_the_kernel_writes_them() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 3.00GHz\nmodel name\t: another\n";
        assert_eq!(name(cpuinfo), Some("Some CPU @ 3.00GHz"));
        let meminfo = "MemTotal:       24563436 kB\nMemAvailable:   23000000 kB\n";
        assert_eq!(kib(meminfo, "MemTotal"), Some(24_563_436));
        assert_eq!(kib(meminfo, "HugePages_Total"), None);
    }
}
