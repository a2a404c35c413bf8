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
    /// Mean of runnable tasks over the minute before: other programs, since the scenario had not begun.
    pub load_before: f64,
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
            load_before: load(),
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

    /// True where other programs took so much of it that figures tell of them too.
    pub fn busy(&self) -> bool {
        self.load_before > self.cores as f64 / 4.0
    }

    /// In one line, for people.
    pub fn line(&self) -> String {
        format!(
            "{}, {} cores, {} GiB, {}, load {} before, {} build",
            self.cpu,
            self.cores,
            self.memory_bytes >> 30,
            self.kernel,
            self.load_before,
            self.build
        )
    }
}

fn load() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split_whitespace().next();
    first.and_then(|word| word.parse().ok()).unwrap_or(0.0)
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
