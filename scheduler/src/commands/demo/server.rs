//! The server that the demo runs: this very program, in a folder of its own, on free ports.
//!
//! It never outlives the demo unless it is asked to: when this value goes, the process is killed.

use super::Failure;
use crate::{client::Operators, config::Config};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tokio::process::{Child, Command};

/// From the start until requests are served. Models load later, with the first request.
const READY_MAX: Duration = Duration::from_secs(30);
/// From SIGTERM until the process is gone: its drain and the sealing of the log.
const STOP_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// Lines of the log that are shown when something fails.
const LOG_LINES_SHOWN: usize = 40;

/// Where the server can be reached, as it wrote it down itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    pub agents: String,
    pub operators: String,
    pub admin: PathBuf,
    pub ca: PathBuf,
}

/// A running server.
pub struct Server {
    child: Option<Child>,
    data: PathBuf,
}

impl Server {
    /// Writes the configuration and starts the server.
    pub fn start(config: &Config) -> Result<Server, Failure> {
        let data = config.data.clone();
        let file = data.join("bulkhead.toml");
        fs::write(&file, toml::to_string(config)?)?;
        let log = fs::File::create(log_path(&data))?;
        let child = Command::new(std::env::current_exe()?)
            .arg("--data")
            .arg(&data)
            .arg("--config")
            .arg(&file)
            .arg("serve")
            // Its log is shown where something fails, without a terminal's colours.
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C reaches the demo, which then stops its server in order.
            .process_group(0)
            .spawn()?;
        Ok(Server {
            child: Some(child),
            data,
        })
    }

    /// Waits until the server says that it would serve.
    pub async fn ready(&mut self) -> Result<Endpoints, Failure> {
        let started = Instant::now();
        while started.elapsed() < READY_MAX {
            if let Some(status) = self.exited()? {
                return Err(format!("the server ended at its start: {status}").into());
            }
            if let Some(endpoints) = self.endpoints()
                && Operators::new(&endpoints.operators).ready().await
            {
                return Ok(endpoints);
            }
            tokio::time::sleep(POLL).await;
        }
        Err(format!("the server was not ready within {} s", READY_MAX.as_secs()).into())
    }

    /// Ends the server as an operator would, and waits for its orderly end.
    pub async fn stop(&mut self) -> Result<(), Failure> {
        let Some(child) = self.child.as_mut() else {
            return Ok(());
        };
        if let Some(pid) = child.id() {
            kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
        }
        let status = tokio::time::timeout(STOP_MAX, child.wait())
            .await
            .map_err(|_| format!("the server did not stop within {} s", STOP_MAX.as_secs()))??;
        self.child = None;
        match status.success() {
            true => Ok(()),
            false => Err(format!("the server did not end in order: {status}").into()),
        }
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Leaves the server running after the demo.
    pub fn keep(&mut self) {
        self.child = None;
    }

    /// The last lines of what the server said.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(log_path(&self.data)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
    }

    fn endpoints(&self) -> Option<Endpoints> {
        let text = fs::read_to_string(self.data.join("endpoints.json")).ok()?;
        serde_json::from_str(&text).ok()
    }

    fn exited(&mut self) -> Result<Option<ExitStatus>, Failure> {
        match self.child.as_mut() {
            Some(child) => Ok(child.try_wait()?),
            None => Ok(None),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(child) = self.child.as_mut() {
            // An error here means that the process is gone already.
            let _gone = child.start_kill();
        }
    }
}

fn log_path(data: &Path) -> PathBuf {
    data.join("serve.log")
}
