//! What the kernel says of a process's memory.
//!
//! Workers are sealed: reading their account takes root.

use crate::Failure;
use std::fs;

/// A process's memory by the kernel's account, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What it has alone, and of each page that it shares one part in as many as share it.
    pub proportional: u64,
    /// What it has alone and has written.
    pub private_dirty: u64,
}

/// The memory of a process now.
pub fn of(pid: i32) -> Result<Memory, Failure> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)
        .map_err(|error| format!("{path}: {error}; run this scenario as root"))?;
    parse(&text).ok_or_else(|| format!("{path} is not as expected").into())
}

fn parse(text: &str) -> Option<Memory> {
    let bytes = |field: &str| -> Option<u64> {
        let mut lines = text.lines();
        let value = lines.find_map(|line| line.strip_prefix(field)?.strip_suffix(" kB"))?;
        Some(value.trim().parse::<u64>().ok()? << 10)
    };
    Some(Memory {
        proportional: bytes("Pss:")?,
        private_dirty: bytes("Private_Dirty:")?,
    })
}

/// The children of `parent` that the kernel calls `name`.
pub fn children(parent: i32, name: &str) -> Result<Vec<i32>, Failure> {
    let path = format!("/proc/{parent}/task/{parent}/children");
    let pids = fs::read_to_string(path)?;
    let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
    let named = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    Ok(pids.filter(named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollup_is_read_in_bytes_and_another_text_is_none() {
        let text = "1-2 ---p 0 0:0 0 [rollup]\nRss: 9 kB\nPss:      12 kB\nPss_Dirty: 3 kB\nPrivate_Dirty:  4 kB\n";
        let memory = parse(text).expect("a rollup");
        assert_eq!(
            (memory.proportional, memory.private_dirty),
            (12 << 10, 4 << 10)
        );
        assert_eq!(parse("Pss: much\n"), None);
    }
}
