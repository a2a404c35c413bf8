//! A real server for a scenario: the program beside this one, in a temporary folder, on free ports.
//!
//! It is reached over its sockets alone, as agents and operators reach it, and is gone with this value.

use crate::{Failure, args::ServerArgs, process};
use bulkhead_client::{Admin, AgentClient, Credentials, Metrics, Operators};
use bulkhead_proto::v1::{CreateAgentRequest, CreateTenantRequest};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// From the start until requests would be served. Models load with the first request.
const READY_MAX: Duration = Duration::from_secs(60);
/// From SIGTERM until the process is gone.
const STOP_MAX: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
/// Lines of its log that are shown when it fails.
const LOG_LINES_SHOWN: usize = 20;

/// Where it can be reached, as it wrote it down itself.
#[derive(Deserialize)]
struct Endpoints {
    operators: String,
}

/// A running server.
pub struct Server {
    child: Child,
    folder: TempDir,
    operators: Operators,
    admin: Admin,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub async fn start(args: &ServerArgs) -> Result<Server, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("bulkhead-bench-")
            .tempdir()?;
        let file = folder.path().join("bulkhead.toml");
        fs::write(&file, config(args)?)?;
        let log = fs::File::create(log_path(folder.path()))?;
        let mut child = Command::new(beside("bulkhead")?)
            .arg("--data")
            .arg(folder.path())
            .arg("--config")
            .arg(&file)
            .arg("serve")
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C reaches this program alone, which then ends the server.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let operators = match ready(&mut child, folder.path()).await {
            Ok(operators) => operators,
            Err(failure) => return Err(with_log(&failure, folder.path())),
        };
        Ok(Server {
            admin: Admin::connect(folder.path()).await?,
            child,
            folder,
            operators,
        })
    }

    /// A new tenant's one agent, connected.
    pub async fn tenant(&self, name: &str) -> Result<AgentClient, Failure> {
        let tenant = CreateTenantRequest {
            name: name.into(),
            ..CreateTenantRequest::default()
        };
        self.admin.create_tenant(tenant).await?;
        let credentials = self.agent(name, "load").await?;
        Ok(AgentClient::connect(credentials, None).await?)
    }

    /// The credentials of a new tenant's agents, so many.
    pub async fn agents(&self, tenant: &str, count: usize) -> Result<Vec<Credentials>, Failure> {
        let new = CreateTenantRequest {
            name: tenant.into(),
            ..CreateTenantRequest::default()
        };
        self.admin.create_tenant(new).await?;
        let mut agents = Vec::with_capacity(count);
        for nth in 0..count {
            agents.push(self.agent(tenant, &format!("load-{nth}")).await?);
        }
        Ok(agents)
    }

    async fn agent(&self, tenant: &str, name: &str) -> Result<Credentials, Failure> {
        let agent = CreateAgentRequest {
            tenant: tenant.into(),
            name: name.into(),
            scopes: Vec::new(),
        };
        Ok(Credentials::from(self.admin.create_agent(agent).await?))
    }

    /// Its data folder.
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    /// All its processes now, by what the kernel calls them.
    pub fn processes(&self) -> Result<Vec<(String, i32)>, Failure> {
        let family = process::family(self.pid()?);
        Ok(family
            .into_iter()
            .filter_map(|pid| Some((process::name(pid)?, pid)))
            .collect())
    }

    /// This failure, with the end of what it said.
    pub fn explain(&self, failure: &Failure) -> Failure {
        with_log(failure, self.data())
    }

    /// The launcher's process number.
    pub fn pid(&self) -> Result<i32, Failure> {
        let pid = self.child.id().ok_or("the server has ended")?;
        Ok(i32::try_from(pid)?)
    }

    /// The process numbers of all workers.
    pub async fn workers(&self) -> Result<Vec<i32>, Failure> {
        let status = self.admin.status().await?;
        Ok(status.workers.iter().map(|worker| worker.pid).collect())
    }

    /// The server's metrics as they are now.
    pub async fn metrics(&self) -> Result<Metrics, Failure> {
        Ok(self.operators.metrics().await?)
    }

    /// Ends it as an operator would. What it measured counts only if it ended in order.
    pub async fn stop(mut self) -> Result<(), Failure> {
        if let Ok(pid) = self.pid() {
            kill(Pid::from_raw(pid), Signal::SIGTERM)?;
        }
        let ended = tokio::time::timeout(STOP_MAX, self.child.wait()).await;
        let failure = match ended {
            Ok(Ok(status)) if status.success() => return Ok(()),
            Ok(Ok(status)) => format!("the server did not end in order: {status}").into(),
            Ok(Err(error)) => error.into(),
            Err(_) => format!("the server did not stop within {} s", STOP_MAX.as_secs()).into(),
        };
        Err(with_log(&failure, self.folder.path()))
    }
}

/// Our program of this name, which has to lie beside this one.
pub fn beside(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    match path.is_file() {
        true => Ok(path),
        false => Err(format!(
            "{} is not there; build all programs in this profile: cargo build --workspace",
            path.display()
        )
        .into()),
    }
}

/// Defaults, free ports, and what the command line asks for.
fn config(args: &ServerArgs) -> Result<String, Failure> {
    let mut lines = vec![
        "server.listen = \"127.0.0.1:0\"".to_owned(),
        "server.operators = \"127.0.0.1:0\"".to_owned(),
    ];
    if let Some(models) = &args.models {
        let models = std::path::absolute(models)?;
        lines.push(format!("models.dir = {:?}", models.to_string_lossy()));
    }
    for setting in &args.settings {
        let (key, value) = setting
            .split_once('=')
            .ok_or_else(|| format!("--set {setting}: write KEY=VALUE"))?;
        lines.push(format!("{key} = {value}"));
    }
    lines.push(String::new());
    Ok(lines.join("\n"))
}

async fn ready(child: &mut Child, folder: &Path) -> Result<Operators, Failure> {
    let started = Instant::now();
    while started.elapsed() < READY_MAX {
        if let Some(status) = child.try_wait()? {
            return Err(format!("the server ended at its start: {status}").into());
        }
        if let Ok(text) = fs::read_to_string(folder.join("endpoints.json"))
            && let Ok(endpoints) = serde_json::from_str::<Endpoints>(&text)
        {
            let operators = Operators::new(&endpoints.operators);
            if operators.ready().await {
                return Ok(operators);
            }
        }
        tokio::time::sleep(POLL).await;
    }
    Err(format!("the server was not ready within {} s", READY_MAX.as_secs()).into())
}

fn with_log(failure: &Failure, folder: &Path) -> Failure {
    let text = fs::read_to_string(log_path(folder)).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
    format!("{failure}\nThe server's last words:\n{}", tail.join("\n")).into()
}

fn log_path(folder: &Path) -> PathBuf {
    folder.join("serve.log")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_lines_of_the_configuration() {
        let mut args = ServerArgs {
            models: Some("/models".into()),
            settings: vec!["scheduling.quantum_ms=20".into()],
        };
        let text = config(&args).unwrap();
        assert!(text.contains("models.dir = \"/models\"\n"), "{text}");
        assert!(text.ends_with("scheduling.quantum_ms = 20\n"), "{text}");
        args.settings = vec!["nonsense".into()];
        let error = config(&args).unwrap_err().to_string();
        assert!(error.contains("KEY=VALUE"), "{error}");
    }
}
