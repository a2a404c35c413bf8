//! What the worker program says that this machine grants of its seal: it seals a child of its own, and tells.
//!
//! Asked before anything is started, so that a server without a layer that it requires does not begin to serve. Nothing
//! here decides which layers those are.

use super::sys;
use nix::unistd::Pid;
use serde::Deserialize;
use std::{
    io::Read as _,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// How long it may take.
const PROBE_MAX: Duration = Duration::from_secs(30);

/// One layer.
#[derive(Clone, Debug, Deserialize)]
pub struct Layer {
    pub name: String,
    pub available: bool,
    /// How far it goes, or why it is not to be had.
    pub detail: String,
}

/// What `bulkhead-worker --probe` prints.
#[derive(Deserialize)]
struct Probe {
    layers: Vec<Layer>,
}

/// Asks this program. An error says which program, and what became of it.
pub fn layers(program: &Path) -> Result<Vec<Layer>, String> {
    let failed = |what: &dyn std::fmt::Display| format!("{} --probe: {what}", program.display());
    let mut child = Command::new(program)
        .arg("--probe")
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    let pid = Pid::from_raw(child.id() as i32);
    // What it prints fits into a pipe.
    let ended = sys::ended_by(pid, Instant::now() + PROBE_MAX).map_err(|error| failed(&error))?;
    let Some(how) = ended else {
        sys::kill_and_wait(pid);
        return Err(failed(&"it did not end"));
    };
    let mut said = String::new();
    if let Some(stdout) = &mut child.stdout {
        stdout
            .read_to_string(&mut said)
            .map_err(|error| failed(&error))?;
    }
    let probe: Probe = serde_json::from_str(&said)
        .map_err(|error| failed(&format_args!("it ended with {how}: {error}")))?;
    Ok(probe.layers)
}
