//! A real server in a folder of its own: the same program, arguments and files as an operator's.
//!
//! It is killed with all its processes when the value goes, and what it said is shown if the test
//! failed. Nothing here reaches into it.

use crate::{
    admin::Admin,
    agent::Agent,
    options::Options,
    ports::Port,
    process::{self, Process},
    programs,
    wait::eventually,
};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use serde::Deserialize;
use std::{
    fs::{self, File, OpenOptions},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

/// From the start until it is ready: keys and a log are made, models are hashed.
const READY_MAX: Duration = Duration::from_secs(60);
/// From SIGTERM until it is gone: its drain and the sealing of its log.
const STOP_MAX: Duration = Duration::from_secs(30);
/// From the death of one of its processes until all is well again.
pub const RECOVERY_MAX: Duration = Duration::from_secs(30);

/// Where it can be reached, as it wrote it down itself.
#[derive(Clone, Debug, Deserialize)]
pub struct Endpoints {
    pub agents: String,
    pub operators: String,
    pub admin: PathBuf,
    pub ca: PathBuf,
}

/// A running server.
pub struct Server {
    folder: tempfile::TempDir,
    /// Its own until it is gone, also while it is down.
    _ports: [Port; 2],
    child: Child,
    programs: Vec<(&'static str, PathBuf)>,
    endpoints: Endpoints,
}

impl Server {
    /// Starts one and waits until it is ready.
    pub async fn start(options: Options) -> Server {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let ports = [Port::take(), Port::take()];
        let options = options
            .with("server.listen", ports[0].address())
            .with("server.operators", ports[1].address());
        let config = folder.path().join("bulkhead.toml");
        fs::write(&config, options.to_toml()).expect("the configuration is written");
        let programs = options.programs();
        let child = spawn(folder.path(), &programs);
        let mut server = Server {
            folder,
            _ports: ports,
            child,
            programs,
            endpoints: Endpoints {
                agents: String::new(),
                operators: String::new(),
                admin: PathBuf::new(),
                ca: PathBuf::new(),
            },
        };
        server.become_ready().await;
        server
    }

    /// Starts it again in the same folder, on the same ports. Stop or kill it first.
    pub async fn restart(&mut self) {
        let _ = fs::remove_file(self.data().join("endpoints.json"));
        self.child = spawn(self.data(), &self.programs);
        self.become_ready().await;
    }

    async fn become_ready(&mut self) {
        let file = self.data().join("endpoints.json");
        self.endpoints = eventually(READY_MAX, "the server writes its addresses", async || {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                panic!("the server ended at its start: {status}\n{}", self.log());
            }
            serde_json::from_str(&fs::read_to_string(&file).ok()?).ok()
        })
        .await;
        self.ready().await;
    }

    /// Waits until `/readyz` says that it would serve.
    pub async fn ready(&self) {
        eventually(READY_MAX, "the server is ready", async || {
            (self.get("/readyz").await?.0 == 200).then_some(())
        })
        .await;
    }

    /// Fetches a page of the operators' port: its status and body. `None` where nobody answers.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        crate::http::get_plain(&self.endpoints.operators, path)
            .await
            .ok()
    }

    /// The value of a metric, summed over all its labels that hold `label` (as `name="value"`).
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.expect("metrics are served");
        let lines = text.lines().filter_map(|line| line.strip_prefix(name));
        lines
            .filter(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// The operator's connection.
    pub async fn admin(&self) -> Admin {
        Admin::connect(&self.endpoints.admin).await
    }

    /// A new agent that may do everything, of a tenant that is made where it is not there yet.
    pub async fn agent(&self, tenant: &str, name: &str) -> Agent {
        let mut admin = self.admin().await;
        admin.ensure_tenant(tenant).await;
        admin.create_agent(tenant, name, &[]).await
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        self.folder.path()
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The launcher's process number.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("process numbers fit")
    }

    /// Its processes of this name: "bulkhead" is the scheduler.
    pub fn processes(&self, name: &str) -> Vec<Process> {
        let mut all = self.all_processes();
        all.retain(|process| process.name == name);
        all
    }

    /// All its processes but the launcher.
    pub fn all_processes(&self) -> Vec<Process> {
        process::descendants(self.pid())
    }

    /// The scheduler's process number.
    pub fn scheduler(&self) -> i32 {
        let found = self.processes("bulkhead");
        found.first().expect("a scheduler runs").pid
    }

    /// The audit process's number.
    pub fn audit(&self) -> i32 {
        let found = self.processes("bulkhead-audit");
        found.first().expect("an audit process runs").pid
    }

    /// The worker of this tenant, once it serves.
    pub async fn worker(&self, tenant: &str) -> i32 {
        let mut admin = self.admin().await;
        eventually(Duration::from_secs(20), "a worker serves", async || {
            let workers = admin.status().await.workers;
            let mut own = workers.iter().filter(|w| w.tenant == tenant && w.pid > 0);
            own.next().map(|w| w.pid)
        })
        .await
    }

    /// Ends it as an operator would; its exit code.
    pub async fn stop(&mut self) -> Option<i32> {
        self.terminate();
        self.ended().await
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("the server runs");
    }

    /// Waits for its end; its exit code.
    pub async fn ended(&mut self) -> Option<i32> {
        let child = &mut self.child;
        let end = eventually(STOP_MAX, "the server ends", async || {
            child.try_wait().expect("it is our child")
        });
        end.await.code()
    }

    /// What it said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data().join("serve.log")).unwrap_or_default()
    }

    /// Runs one of its commands against its data folder; the output if it succeeded, else what it
    /// said.
    pub fn command(&self, args: &[&str]) -> Result<String, String> {
        let output = programs::bulkhead()
            .arg("--data")
            .arg(self.data())
            .args(args)
            .output()
            .expect("the program runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match output.status.success() {
            true => Ok(text(&output.stdout)),
            false => Err(text(&output.stderr) + &text(&output.stdout)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("what the server said:\n{}", self.log());
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            // Its children are named before it goes, and with it the way to find them.
            let children = process::descendants(self.pid());
            let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
            for child in children {
                let _ = kill(Pid::from_raw(child.pid), Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

fn spawn(data: &Path, programs: &[(&'static str, PathBuf)]) -> Child {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(data.join("serve.log"));
    let log: File = log.expect("the log can be written");
    programs::bulkhead()
        .envs(programs.iter().cloned())
        .arg("--data")
        .arg(data)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .process_group(0)
        .spawn()
        .expect("the server starts")
}
