//! What the kernel says of a process: its memory, its children, its time.
//!
//! Workers are sealed: reading their memory's account takes root.

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
pub fn memory(pid: i32) -> Result<Memory, Failure> {
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

/// The children of `parent`, whichever of its threads started them.
pub fn children(parent: i32) -> Result<Vec<i32>, Failure> {
    let mut found = Vec::new();
    for thread in fs::read_dir(format!("/proc/{parent}/task"))? {
        // A thread that ended meanwhile has none of its own any more.
        let Ok(pids) = fs::read_to_string(thread?.path().join("children")) else {
            continue;
        };
        found.extend(
            pids.split_whitespace()
                .filter_map(|pid| pid.parse::<i32>().ok()),
        );
    }
    Ok(found)
}

/// `first` and all that it started, with what those started.
pub fn family(first: i32) -> Vec<i32> {
    let mut found = vec![first];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        // Whoever ended meanwhile has none.
        found.extend(children(*parent).unwrap_or_default());
        next += 1;
    }
    found
}

/// Those of them that the kernel calls `name`.
pub fn children_named(parent: i32, name: &str) -> Result<Vec<i32>, Failure> {
    let named = |pid: &i32| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.trim() == name)
    };
    Ok(children(parent)?.into_iter().filter(named).collect())
}

/// What the kernel calls a process. `None` once it is gone.
pub fn name(pid: i32) -> Option<String> {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(comm.trim().to_owned())
}

/// Time that a process spent on processors, in user and in kernel mode, clock ticks. `None` once it is gone.
pub fn cpu_ticks(pid: i32) -> Option<u64> {
    /// Places behind the name in `/proc/PID/stat`.
    const USER: usize = 11;
    const KERNEL: usize = 12;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<_> = fields.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<u64>().ok();
    Some(ticks(USER)? + ticks(KERNEL)?)
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

    #[test]
    fn a_family_is_a_process_and_what_it_started() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        let (me, started) = (std::process::id() as i32, child.id() as i32);
        let family = family(me);
        child.kill().and_then(|()| child.wait()).unwrap();
        assert!(
            family.contains(&me) && family.contains(&started),
            "{family:?}"
        );
    }

    #[test]
    fn this_process_has_spent_time_and_none_has_the_last_number() {
        assert!(cpu_ticks(std::process::id() as i32).is_some());
        assert_eq!(cpu_ticks(i32::MAX), None);
    }
}
