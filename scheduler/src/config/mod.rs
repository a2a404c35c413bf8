//! The configuration: one `bulkhead.toml`, typed, bounded, with unknown keys refused.
//!
//! Everything has a default that works on a laptop. Parsing happens here and nowhere else, and what
//! this module hands out has been checked: no other file validates a setting again.

mod bounds;
mod defaults;
mod paths;

use bulkhead_kernels::Measure;
pub use paths::{Paths, default_data_dir, default_models_dir};
use serde::{Deserialize, Serialize};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Why a configuration cannot be used. Always the operator's to mend.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read {path}: {source}; run `bulkhead init` to write one")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    /// The file is no valid configuration.
    #[error("{path}: {message}")]
    Parse { path: PathBuf, message: String },
    /// A value is out of its bounds.
    #[error("{key} = {value}: {bound}")]
    Bound {
        key: &'static str,
        value: String,
        bound: &'static str,
    },
    /// A layer of the seal that does not exist: no worker could ever have it.
    #[error("worker.required_layers names {name:?}, which is no layer; the layers are {known}")]
    Layer { name: String, known: String },
    /// There is nowhere to put the data folder.
    #[error("no home folder is known; say where with --data DIR or BULKHEAD_DATA")]
    NoHome,
}

/// Least quota of a worker, bytes.
pub const QUOTA_BYTES_MIN: u64 = 1 << 20;

/// Most workers ahead of each model: each is a process.
const SPARES_MAX: u32 = 64;

/// GPUs that processes are reckoned with: more than machines have.
const GPUS_MAX: u32 = 16;

/// Least memory of a worker beside model and quota, bytes: stacks alone take a good part of it.
const SCRATCH_BYTES_MIN: u64 = 128 << 20;

/// A group's limit on memory, which only the launcher can set.
pub const CGROUP_MEMORY: &str = "cgroup_memory";
/// A group's limit on threads, which only the launcher can set.
pub const CGROUP_PIDS: &str = "cgroup_pids";

/// The layers of a worker's seal, the launcher's first, and the others as the worker names them; `bulkhead doctor` tries
/// each.
pub const LAYERS: [&str; 21] = [
    CGROUP_MEMORY,
    CGROUP_PIDS,
    "oom_score",
    "no_new_privs",
    "userns",
    "netns",
    "ipcns",
    "utsns",
    "mntns",
    "own_uid",
    "pidns",
    "reach",
    "landlock",
    "landlock_net",
    "landlock_scope",
    "no_capabilities",
    "non_dumpable",
    "closed_fds",
    "rlimits",
    "seccomp",
    "no_network",
];

/// The whole configuration.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where state, keys and the log live. Set by `--data` or `BULKHEAD_DATA`, not by the file.
    #[serde(skip)]
    pub data: PathBuf,
    pub server: Server,
    pub limits: Limits,
    pub scheduling: Scheduling,
    pub cpu: Cpu,
    pub gpu: Gpu,
    pub worker: Worker,
    pub models: Models,
    pub audit: Audit,
    #[serde(rename = "unsafe")]
    pub unsafe_: Unsafe,
}

/// Addresses and the server's own name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Agents: gRPC and HTTP over TLS 1.3. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// Operators: metrics and health, plain HTTP. Loopback addresses only.
    pub operators: SocketAddr,
    /// Names that the server's certificate carries, besides 127.0.0.1, ::1 and localhost.
    pub names: Vec<String>,
    /// The issuer of tokens. Empty: `https://` and the address that agents connect to.
    pub issuer: String,
    /// The region that this server and its devices are in.
    pub region: String,
    /// How long SIGTERM waits for running requests, milliseconds.
    pub drain_ms: u64,
}

/// Bounds of the front door.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub message_bytes_max: usize,
    pub header_bytes_max: u32,
    pub streams_per_connection_max: u32,
    pub connections_max: usize,
    /// What is held for one tenant of requests that arrive, and of answers that are made and that nobody has read.
    pub tenant_buffer_bytes_max: u64,
    /// How long an answer may be left unread, all pauses together, beside the second that each 16 KiB of what shares its
    /// connection may take, milliseconds.
    pub unread_ms: u64,
    /// A connection without a request for this long is closed, milliseconds.
    pub idle_ms: u64,
    pub texts_per_request_max: usize,
    pub output_tokens_max: u32,
}

/// Bounds and periods of the core.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scheduling {
    pub queue_bytes_max: u64,
    /// Of the queue's bytes, what each tenant always has to itself.
    pub tenant_reserved_bytes: u64,
    pub tenant_queue_requests_max: u32,
    pub tenant_open_requests_max: u32,
    /// What each tenant, and each agent of one, may have a minute; 0: no limit. Tokens are counted in and out.
    pub tenant_requests_per_minute: u32,
    pub tenant_tokens_per_minute: u64,
    pub agent_requests_per_minute: u32,
    pub agent_tokens_per_minute: u64,
    /// Tokens handed to a worker and not yet finished.
    pub batch_tokens_max: u32,
    /// The longest that a lease runs before it is asked to yield while another tenant waits, lane time in milliseconds.
    pub quantum_ms: u64,
    /// Turns are shortened until changing hands takes so much of them, percent; 0: each is a whole quantum.
    pub switch_percent: u32,
    /// Lane time that a tenant which had nothing to run may have before others have had as much, milliseconds.
    pub burst_ms: u64,
    /// The longest step that workers plan for, milliseconds; on a loaded machine one can take longer.
    pub step_limit_ms: u64,
    /// How long after a yield a worker may keep its lane before it is killed, milliseconds.
    pub release_grace_ms: u64,
    pub start_attempts_max: u32,
}

/// The CPU as a device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpu {
    pub lanes: u32,
    /// Most worker processes at a time.
    pub workers_max: u32,
    /// Compute threads of a worker. 0: one per core, at most 8.
    pub threads: u32,
}

/// GPUs as devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gpu {
    #[serde(rename = "use")]
    pub use_: GpuUse,
    /// Of each GPU.
    pub lanes: u32,
    /// Most worker processes at a time, on each GPU.
    pub workers_max: u32,
    /// Bytes of KV of a worker, where the tenant has no quota of its own.
    pub quota_bytes: u64,
    /// Bytes that a worker is reckoned to take of a GPU: its model, its KV and what a pass needs. No more of them are
    /// started than there is memory for.
    pub worker_bytes: u64,
}

/// Whether work is placed on GPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GpuUse {
    /// Where there are GPUs and a program for them.
    Auto,
    /// Never: they are watched and shown.
    Off,
}

/// What every worker gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Worker {
    /// Bytes of KV and scratch, where the tenant has no quota of its own.
    pub quota_bytes: u64,
    /// Bytes beside its model and its quota that a worker may have at most: activations, texts, answers.
    pub scratch_bytes: u64,
    /// Layers of the seal without which no worker serves.
    pub required_layers: Vec<String>,
    /// Whether the workers of one model share the memory of its weights, copy-on-write. Those that do
    /// are forked from one process, and lie at the same addresses. On a GPU they map the memory of one process,
    /// which looks again and again whether it is what it was.
    pub share_weights: bool,
    /// Of each loaded model, workers that are started and sealed ahead, and nobody's yet, where weights are shared: a
    /// tenant's first request finds one instead of waiting for its start.
    pub spares: u32,
}

/// Where models are, and how long they stay loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Empty: `BULKHEAD_MODELS`, or `bulkhead/models` in the user's cache folder.
    pub dir: PathBuf,
    /// Offers `null`, a model that computes nothing, for measurements.
    pub null: bool,
    /// Nanoseconds of work that the null model does per token.
    pub null_ns_per_token: u64,
    /// Names of models whose workers keep whole blocks of prompts for the same tenant's next prompts
    /// that begin alike. Of these, not everything that a request wrote is zero when it ends: receipts
    /// say how many bytes stayed.
    pub prefix_cache: Vec<String>,
    /// What nobody used for this long is not kept any more, milliseconds.
    pub prefix_cache_idle_ms: u64,
    /// A worker that has had nothing to do for this long is ended, and started again by the next
    /// request, milliseconds. 0: never.
    pub unload_after_ms: u64,
}

/// The audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audit {
    /// The log stops taking records at this size, bytes; 0 means the disk's own limit.
    pub bytes_max: u64,
    /// Records sent and not yet durable; beyond it requests are refused.
    pub pending_max: usize,
}

/// Protections that can be switched off to measure their price. Each is announced at start, in
/// `/readyz` and in the audit log.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Unsafe {
    /// "zeroing", or one measure of it: "zeroing.heap", "zeroing.stacks", "zeroing.scratch", "zeroing.blocks".
    pub disable: Vec<String>,
}

impl Config {
    /// Reads `file`, or takes the defaults where `file` is `None`.
    pub fn load(file: Option<&Path>, data: PathBuf) -> Result<Config, ConfigError> {
        let mut config = match file {
            None => Config::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                    path: path.into(),
                    source,
                })?;
                toml::from_str(&text).map_err(|e| ConfigError::Parse {
                    path: path.into(),
                    message: e.to_string(),
                })?
            }
        };
        config.data = data;
        config.check()?;
        Ok(config)
    }

    /// The measures that keep memory clean and that the operator switched off.
    pub fn zeroing_off(&self) -> Vec<Measure> {
        let of = |name: &String| match name.strip_prefix("zeroing.") {
            Some(one) => Measure::named(one).into_iter().collect(),
            None => Measure::ALL.to_vec(),
        };
        self.unsafe_.disable.iter().flat_map(of).collect()
    }

    /// Threads of one worker.
    pub fn worker_threads(&self) -> u32 {
        match self.cpu.threads {
            0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(8)) as u32,
            n => n,
        }
    }

    /// Most worker processes at a time, on all devices.
    pub fn workers_max(&self) -> usize {
        let on_gpus = match self.gpu.use_ {
            GpuUse::Auto => self.gpu.workers_max * GPUS_MAX,
            GpuUse::Off => 0,
        };
        (self.cpu.workers_max + on_gpus) as usize
    }

    /// Where things live in the data folder.
    pub fn paths(&self) -> Paths {
        Paths {
            data: self.data.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bulkhead.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path), dir.path().into())
    }

    #[test]
    fn the_defaults_are_within_their_own_bounds() {
        assert!(Config::load(None, "/nowhere".into()).is_ok());
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = parse("[server]\nlisten_on = \"127.0.0.1:1\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("listen_on"), "{error}");
    }

    #[test]
    fn gpus_are_used_where_there_are_some_unless_somebody_says_otherwise() {
        assert_eq!(Config::default().gpu.use_, GpuUse::Auto);
        let off = parse("[gpu]\nuse = \"off\"\n").unwrap();
        assert_eq!(off.workers_max(), off.cpu.workers_max as usize);
        assert!(parse("[gpu]\nuse = \"on\"\n").is_err());
        let error = parse("[gpu]\nquota_bytes = 1073741824\nworker_bytes = 1073741824\n");
        let error = error.unwrap_err().to_string();
        assert!(
            error.contains("gpu.worker_bytes") && error.contains("more than"),
            "{error}"
        );
    }

    #[test]
    fn metrics_cannot_leave_the_machine() {
        let error = parse("[server]\noperators = \"0.0.0.0:9464\"\n")
            .unwrap_err()
            .to_string();
        assert!(error.contains("loopback"), "{error}");
    }

    #[test]
    fn a_layer_that_does_not_exist_cannot_be_required() {
        let error = parse("[worker]\nrequired_layers = [\"landlock\", \"secomp\"]\n")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("secomp") && error.contains(" seccomp"),
            "{error}"
        );
        let all = format!("[worker]\nrequired_layers = {LAYERS:?}\n");
        assert!(parse(&all).is_ok());
    }

    #[test]
    fn a_protection_that_does_not_exist_cannot_be_disabled() {
        assert!(parse("[unsafe]\ndisable = [\"audit\"]\n").is_err());
    }
}
