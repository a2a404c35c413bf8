//! What a figure was measured on: a figure without it cannot be compared with another.

use bulkhead_kernels::device;
use serde::Serialize;
use std::process::{Command, Stdio};

/// The machine and the build.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// "release" or "dev": how this program was built, and with it those beside it.
    pub build: &'static str,
}

impl Machine {
    /// This one.
    pub fn this() -> Machine {
        let cpu = device::list().into_iter().next();
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: cpu.as_ref().map_or(0, |cpu| cpu.memory_bytes),
            cpu: cpu.map_or_else(|| "unknown".into(), |cpu| cpu.name),
            kernel: format!("{} {}", std::env::consts::OS, kernel.trim()),
            build: if cfg!(debug_assertions) {
                "dev"
            } else {
                "release"
            },
        }
    }

    /// In one line, for people.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores, {} GiB, {}, {} build",
            self.cpu,
            self.cores,
            self.memory_bytes >> 30,
            self.kernel,
            self.build
        )
    }
}

/// The commit that this program lies in the working tree of, with `-dirty` where that was changed;
/// "unknown" outside one. It says where the program lies, not what it was built from.
pub fn commit() -> String {
    let describe = || -> Option<String> {
        let me = std::env::current_exe().ok()?;
        let output = Command::new("git")
            .arg("-C")
            .arg(me.parent()?)
            .args(["describe", "--always", "--dirty"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let text = text.trim();
        (output.status.success() && !text.is_empty()).then(|| text.to_owned())
    };
    describe().unwrap_or_else(|| "unknown".into())
}
