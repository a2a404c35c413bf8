//! Starting one worker by itself: its connection, its model's files, its first words.

use super::{
    catalog::{Catalog, CatalogError, Opened},
    groups::{self, Groups, Limits},
    keeper::Handles,
    spawn::{FIRST_FD, Spawn},
    sys::{self, Mapped},
    templates::AskError,
    users,
    words::Words,
};
use crate::{
    config::Config,
    models::{Format, Manifest, Task},
};
use bulkhead_proto::{
    frame,
    internal::{Load, ModelFault, ModelFile, SharedWeights, SpawnWorker, ToWorker, to_worker},
};
use nix::{
    sys::{
        socket::{AddressFamily, SockFlag, SockType, socketpair},
        stat::fstat,
    },
    unistd::Pid,
};
use std::{
    cell::RefCell,
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::Path,
};

/// What a model may take in memory while it is read, in sizes of its files: as they are and as they are
/// computed with, of which the second may have four times the bits.
const LOADING_TIMES: u64 = 8;

/// Threads that a process may have beside those that compute: its own few, and of one that holds a model those of its
/// trial and of workers on their way.
const TASKS_BESIDE: u64 = 64;

/// What the names of files of weights end with, where a keeper can lay those out.
const WEIGHTS: &str = ".safetensors";

/// The device that templates hold models for: a process that holds a GPU cannot fork.
pub const CPU: &str = "cpu";

/// What a driver and its libraries may have of the host's memory beside what any worker may, bytes: contexts, compiled
/// kernels, staging. A guess with room: no GPU has shown how much it is.
const DRIVER_BYTES: u64 = 4 << 30;

/// What a GPU is called by whoever has been shown no other.
const ONLY_GPU: &str = "cuda:0";

/// What names the GPUs that a driver is to show to a process, by unique id: the order in which it counts them is not
/// NVML's.
const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Processor,
    Gpu,
}

/// What a worker is to run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On<'a> {
    Processor,
    Gpu {
        /// In NVML's form.
        uuid: &'a str,
        /// The number of its device node.
        minor: u32,
    },
}

impl On<'_> {
    /// The kind of it.
    pub fn kind(self) -> Kind {
        match self {
            On::Processor => Kind::Processor,
            On::Gpu { .. } => Kind::Gpu,
        }
    }
}

/// What the worker that is asked for is to run on. The scheduler chooses among GPUs as it likes, and can say nothing
/// else by it.
pub fn on(ask: &SpawnWorker) -> Result<On<'_>, SpawnError> {
    let unknown = || SpawnError::Device(ask.device.chars().take(64).collect());
    match (kind(&ask.device)?, &ask.gpu) {
        (Kind::Processor, None) => Ok(On::Processor),
        (Kind::Gpu, Some(gpu)) if is_unique_id(&gpu.uuid) => Ok(On::Gpu {
            uuid: &gpu.uuid,
            minor: gpu.minor,
        }),
        _ => Err(unknown()),
    }
}

/// "GPU-" or "MIG-", and five groups of hex digits.
fn is_unique_id(text: &str) -> bool {
    let of = ["GPU-", "MIG-"]
        .iter()
        .find_map(|kind| text.strip_prefix(kind));
    let groups = of.unwrap_or_default().split('-');
    let hex = |group: &str| group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.clone().all(hex) && groups.map(str::len).eq([8, 4, 4, 4, 12])
}

/// What a device of that name is: "cpu", or "cuda:0", "cuda:1" and so on. Whether there is such a GPU its worker
/// finds out.
pub fn kind(device: &str) -> Result<Kind, SpawnError> {
    let number = device.strip_prefix("cuda:");
    match number.map(|number| number.parse::<u8>()) {
        None if device == CPU => Ok(Kind::Processor),
        Some(Ok(number)) if device == format!("cuda:{number}") => Ok(Kind::Gpu),
        _ => Err(SpawnError::Device(device.chars().take(64).collect())),
    }
}

/// Why no worker was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    #[error(transparent)]
    Model(#[from] CatalogError),
    /// The scheduler asked for a device that is not there. A defect, or worse.
    #[error("no device named {0:?}")]
    Device(String),
    /// The worker for GPUs is not there. The operator's to mend.
    #[error(
        "no worker for {0}: this installation has no bulkhead-worker-cuda; build it with deploy/cuda/setup and put \
         it beside `bulkhead`, or name it with BULKHEAD_WORKER_CUDA"
    )]
    NoProgram(String),
    /// Nothing is kept of a GPU's models but what its workers load.
    #[error("each worker on a GPU loads the model for itself: there is nothing to load ahead")]
    NotAhead,
    /// The scheduler used a number again while its worker lives. A defect, or worse.
    #[error("worker {0} is alive already")]
    Number(u64),
    /// The bound on processes; it passes when some end.
    #[error("{0} workers are alive, and no more are allowed")]
    TooMany(usize),
    /// The model's template was not asked.
    #[error(transparent)]
    Template(#[from] AskError),
    /// The machine refused; trying again may help.
    #[error("cannot start a worker: {0}")]
    Io(#[from] io::Error),
}

impl SpawnError {
    /// False where trying again may help.
    pub fn permanent(&self) -> bool {
        match self {
            SpawnError::Model(e) => e.permanent(),
            SpawnError::Device(_)
            | SpawnError::NoProgram(_)
            | SpawnError::NotAhead
            | SpawnError::Number(_) => true,
            SpawnError::Template(AskError::Refused(_)) => true,
            SpawnError::TooMany(_) | SpawnError::Template(_) | SpawnError::Io(_) => false,
        }
    }

    /// How long nothing will be started for this model, where nothing was because of that; else 0.
    pub fn wait_ns(&self) -> u64 {
        match self {
            SpawnError::Template(AskError::Paused(left)) => {
                u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)
            }
            _ => 0,
        }
    }

    /// The model's file that is at fault, where one is.
    pub fn fault(&self) -> Option<ModelFault> {
        match self {
            SpawnError::Model(e) => e.fault().map(ModelFault::from),
            _ => None,
        }
    }
}

/// A worker that has been started.
pub struct Started {
    pub pid: Pid,
    /// The scheduler's end. The load frame is on its way already, so that the scheduler can neither
    /// choose nor change what the worker loads.
    pub connection: OwnedFd,
    /// The model's digest, hex.
    pub digest: String,
    /// The keeper whose memory it was given.
    pub keeper: Option<Pid>,
}

/// Opens what the worker that is asked for needs: for each worker anew, so that whose model it is and
/// whether its files are still the same is asked each time, shared weights or not.
pub fn open<'a>(catalog: &'a Catalog, ask: &SpawnWorker) -> Result<Opened<'a>, SpawnError> {
    on(ask)?;
    Ok(catalog.open(&ask.model, &ask.tenant)?)
}

/// What a worker may have beside its model, bytes. What the scheduler says of a quota can cost room, and no
/// isolation.
pub fn room(config: &Config, quota_bytes: u64) -> u64 {
    let quota = quota_bytes.max(config.worker.quota_bytes);
    quota.saturating_add(config.worker.scratch_bytes)
}

/// With what workers and the processes that hold models are started.
#[derive(Clone, Copy)]
pub struct How<'a> {
    pub program: &'a Path,
    pub config: &'a Config,
    pub groups: &'a RefCell<Groups>,
    /// Where what they say on standard error goes.
    pub words: &'a RefCell<Words>,
    /// All of its environment.
    pub variable: Option<(&'a str, &'a str)>,
}

impl<'a> How<'a> {
    /// The same for a process that is to see this device and no other GPU.
    pub fn on(self, on: On<'a>) -> How<'a> {
        match on {
            On::Processor => self,
            On::Gpu { uuid, .. } => How {
                variable: Some((VISIBLE, uuid)),
                ..self
            },
        }
    }
}

/// What the group of a process may have that computes, where it may have so much memory that it shares with nobody.
pub fn limits(config: &Config, memory_bytes: Option<u64>) -> Limits {
    Limits {
        memory_bytes,
        tasks: u64::from(config.worker_threads()) + TASKS_BESIDE,
    }
}

/// What the group of a process may have that reads these files, with `room` beside the model.
pub fn limits_loading(
    config: &Config,
    opened: &Opened<'_>,
    room: Option<u64>,
) -> io::Result<Limits> {
    let loading = loading_bytes(&opened.files)?;
    Ok(limits(
        config,
        room.map(|room| room.saturating_add(loading)),
    ))
}

/// What a model may take in memory while it is read, and afterwards.
fn loading_bytes(files: &[impl AsFd]) -> io::Result<u64> {
    let size = |file| Ok(fstat(file)?.st_size as u64);
    let sizes = files.iter().map(size);
    let bytes = sizes.sum::<io::Result<u64>>()?;
    Ok(bytes.saturating_mul(LOADING_TIMES))
}

/// Starts a worker that loads the model itself for this device and shares it with nobody, with `room` beside its
/// model, with these users of those that are kept for workers.
pub fn start(
    how: How<'_>,
    opened: &Opened<'_>,
    on: On<'_>,
    (room, block): (u64, Option<u32>),
) -> Result<Started, SpawnError> {
    let load = load_on(how.config, opened, on);
    let files: Vec<_> = opened.files.iter().map(AsFd::as_fd).collect();
    start_with(how, (load, &files), on, (room, block), opened.digest)
}

/// Starts a worker on a GPU whose weights a keeper has laid out there: it gets the model's other files, and handles.
pub fn start_borrowing(
    how: How<'_>,
    opened: &Opened<'_>,
    on: On<'_>,
    (room, block): (u64, Option<u32>),
    weights: &Handles,
) -> Result<Started, SpawnError> {
    let mut load = load_on(how.config, opened, on);
    let mut fds = Vec::new();
    let all = std::mem::take(&mut load.files)
        .into_iter()
        .zip(&opened.files);
    for (mut file, open) in all.filter(|(file, _)| !file.name.ends_with(WEIGHTS)) {
        file.fd = FIRST_FD + 1 + fds.len() as i32;
        load.files.push(file);
        fds.push(open.as_fd());
    }
    let next = FIRST_FD + 1 + fds.len() as i32;
    fds.extend([weights.table.as_fd(), weights.memory.as_fd()]);
    load.shared_weights = Some(SharedWeights {
        table_fd: next,
        memory_fd: next + 1,
        memory_bytes: weights.memory_bytes,
    });
    start_with(how, (load, &fds), on, (room, block), opened.digest)
}

/// True for a model whose weights a keeper can lay out. Those that are quantised need memory that candle allocates
/// itself, and embeddings run on the processor.
pub fn is_lent(manifest: &Manifest) -> bool {
    manifest.format == Format::Safetensors && manifest.task == Task::Generate
}

/// Starts a worker with these files from the second descriptor on.
fn start_with(
    how: How<'_>,
    (load, files): (Load, &[BorrowedFd<'_>]),
    on: On<'_>,
    (room, block): (u64, Option<u32>),
    digest: &str,
) -> Result<Started, SpawnError> {
    let (theirs, connection) = socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(io::Error::from)?;
    let model = load.model.clone();
    // The frame is far smaller than a socket's buffer, so this does not wait for the worker.
    let mut stream = UnixStream::from(connection);
    stream.set_nonblocking(true)?;
    let message = Some(to_worker::Message::Load(load));
    frame::write(&mut stream, &ToWorker { message })?;
    stream.set_nonblocking(false)?;

    let mut fds = vec![theirs.as_fd()];
    fds.extend(files);
    let mapped = match on {
        On::Processor => Mapped::Bounded,
        On::Gpu { .. } => Mapped::Free,
    };
    let bytes = room_on(on, room).saturating_add(loading_bytes(files)?);
    let limits = limits(how.config, Some(bytes));
    let pid = spawn_in_group(how.on(on), &model, &users::arguments(block), &fds, limits)?;
    sys::bound_memory(pid, bytes, mapped).inspect_err(|_| sys::kill_now(pid))?;
    Ok(Started {
        pid,
        connection: stream.into(),
        digest: digest.to_owned(),
        keeper: None,
    })
}

/// What a process may have on such a device that may have so much on a processor, bytes.
pub fn room_on(on: On<'_>, room: u64) -> u64 {
    match on {
        On::Processor => room,
        On::Gpu { .. } => room.saturating_add(DRIVER_BYTES),
    }
}

/// As [`load`], for a process that is shown this device and no other GPU.
pub fn load_on(config: &Config, opened: &Opened<'_>, on: On<'_>) -> Load {
    match on {
        On::Processor => load(config, opened, CPU),
        On::Gpu { minor, .. } => Load {
            gpu_minor: Some(minor),
            ..load(config, opened, ONLY_GPU)
        },
    }
}

/// Starts the program in a control group of its own, which it is in before it is the program, and with a standard error
/// of its own, which tells of this model.
pub fn spawn_in_group(
    how: How<'_>,
    model: &str,
    arguments: &[OsString],
    fds: &[BorrowedFd<'_>],
    limits: Limits,
) -> io::Result<Pid> {
    let mut groups = how.groups.borrow_mut();
    let group = groups.make(limits)?;
    let mut spawn = Spawn::new(how.program, fds).arguments(arguments)?;
    if let Some((name, value)) = how.variable {
        spawn = spawn.variable(name, value)?;
    }
    let stderr = how.words.borrow_mut().open(model)?;
    let pid = spawn.doors(group.doors()?).stderr(stderr).start()?;
    groups.joined(pid, group);
    Ok(pid)
}

/// What to load, for a process that finds the model's files from the second descriptor on.
pub fn load(config: &Config, opened: &Opened<'_>, device: &str) -> Load {
    let files = (opened.manifest.files.iter().zip(FIRST_FD + 1..))
        .map(|(file, fd)| ModelFile {
            name: file.name.clone(),
            fd,
            sha256: file.sha256.clone(),
        })
        .collect();
    Load {
        model: opened.manifest.name.clone(),
        format: opened.manifest.format.to_string(),
        files,
        threads: config.worker_threads(),
        required_layers: (config.worker.required_layers.iter())
            .filter(|layer| !groups::LAYERS.contains(&layer.as_str()))
            .cloned()
            .collect(),
        zeroing_off: (config.zeroing_off().into_iter())
            .map(|measure| measure.name().to_owned())
            .collect(),
        null_ns_per_token: config.models.null_ns_per_token,
        device: device.to_owned(),
        gpu_minor: None,
        shared_weights: None,
    }
}
