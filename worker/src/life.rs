//! A worker's life: restrict → load → seal → assign → serve. One way, no way back.
//!
//! Each stage is a function that consumes what the stage before returned. A worker that cannot load, or that
//! lacks a layer of the seal that the operator requires, says why and ends before it sees any tenant.
//!
//! On a GPU it is told what to load first, by the launcher alone, and opens the GPU between restricting and giving up
//! files: its driver needs some for that. A model is read after that, as ever.
//!
//! A worker either does all of this itself ([`live`]) or is forked by a template that has restricted
//! itself and loaded ([`born`]). From there on the two are alike. All that touches a prompt happens on
//! threads that are made after the fork, so that what the C library and the standard library keep per
//! thread (heaps, the seeds of hash tables) is no other worker's too.

use crate::engine::Engine;
use crate::load::{self, FileError, ModelError};
use crate::models::{self, On, StartWith};
use crate::process::{self, STACK_BYTES};
use crate::program::OpenGpu;
use crate::seal::{self, Reach, Restricted, Sealed};
use crate::serve::{self, ServeError};
use bulkhead_kernels::{Measure, alloc};
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::to_worker::Message;
use bulkhead_proto::internal::{Load, Ready, Refused, ToWorker, from_worker};
use nix::unistd::{Pid, getppid};
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

/// Exit code of a worker that refused to serve.
pub const EXIT_REFUSED: i32 = 1;

/// Exit code when the other side broke the protocol.
pub const EXIT_PROTOCOL: i32 = 2;

/// Why a worker ended before it served.
#[derive(Debug, thiserror::Error)]
enum RefusedToServe {
    /// Fault of the launcher, or of whoever started this by hand.
    #[error("descriptor 3 is no socket ({0}): workers are started by `bulkhead serve`")]
    NoSocket(io::Error),
    /// The launcher's fault.
    #[error("the first frame was not a load: {0}")]
    NoLoad(String),
    /// The launcher's fault.
    #[error("this is the program for GPUs, and no GPU was named")]
    NoGpu,
    /// The list of files is wrong.
    #[error(transparent)]
    Files(#[from] FileError),
    /// There is no model.
    #[error(transparent)]
    Load(#[from] ModelError),
    /// The model does not start.
    #[error("the model could not be started: {0}")]
    Model(#[from] models::LoadError),
    /// The machine has no room for a thread.
    #[error("no thread could be started: {0}")]
    Thread(io::Error),
    /// The machine's fault: a newer kernel, or other settings of the operator, help.
    #[error("the seal lacks layers that are required: {0}")]
    Seal(String),
    /// The scheduler hung up.
    #[error("the socket failed: {0}")]
    Socket(io::Error),
}

impl RefusedToServe {
    /// What to say of it. Only of a model is it known that trying again will not help.
    fn refusal(&self) -> Refused {
        let permanent = match self {
            RefusedToServe::Files(error) => return error.refusal(),
            RefusedToServe::Load(error) => return error.refusal(),
            RefusedToServe::Model(error) => error.permanent(),
            _ => false,
        };
        Refused {
            reason: self.to_string(),
            permanent,
            ..Refused::default()
        }
    }
}

/// A process that has given up files and networks, has its model in memory, and one thread.
pub struct Newborn {
    /// The scheduler is, or will be, on the other end.
    pub socket: UnixStream,
    /// The layers so far.
    pub restricted: Restricted,
    /// What it was told to load, and how to run it.
    pub load: Load,
    /// The model.
    pub model: models::Loaded,
    /// How to start it.
    pub start: StartWith,
    /// False where the model ran before, in another process.
    pub warm_up: bool,
    /// When its start began.
    pub born: Instant,
}

/// Lives one worker's life on the socket at descriptor 3, with a GPU where there is one to open. To be called once, with
/// one thread. `block` numbers the users that are its own, where the launcher gives any.
pub fn live(start: StartWith, open: Option<OpenGpu>, block: Option<u32>) -> ! {
    let mut socket = match process::take_socket() {
        Ok(socket) => UnixStream::from(socket),
        Err(error) => {
            process::say(format_args!("{}", RefusedToServe::NoSocket(error)));
            process::end(EXIT_REFUSED)
        }
    };
    let prepared = match open {
        None => prepare(&mut socket, block),
        Some(open) => prepare_on_gpu(&mut socket, open, block),
    };
    match prepared {
        Ok((restricted, load, model, born)) => self::born(Newborn {
            socket,
            restricted,
            load,
            model,
            start,
            warm_up: true,
            born,
        }),
        Err(why) => refuse(socket, &why),
    }
}

/// Says why and ends.
fn refuse(mut socket: UnixStream, why: &RefusedToServe) -> ! {
    let refused = why.refusal();
    // If the scheduler is gone, the exit code still tells the launcher.
    let _ = serve::tell(&mut socket, from_worker::Message::Refused(refused));
    process::say(format_args!("{why}"));
    process::end(EXIT_REFUSED)
}

/// What a worker has that is about to be born, and when its start began.
type Prepared = (Restricted, Load, models::Loaded, Instant);

/// Restricts and loads.
fn prepare(socket: &mut UnixStream, block: Option<u32>) -> Result<Prepared, RefusedToServe> {
    let launcher = getppid();
    let mut restricted = seal::restrict(block);
    stay_with(launcher)?;
    let born = Instant::now();
    let load = receive_load(socket)?;
    restricted.closed_descriptors(close_others(&load)?);
    set_up(&load);
    let model = load::apart(&load, On::processor(&load.device)?, |_| {})?;
    Ok((restricted, load, model, born))
}

/// Restricts, opens the GPU, gives up files, and loads.
fn prepare_on_gpu(
    socket: &mut UnixStream,
    open: OpenGpu,
    block: Option<u32>,
) -> Result<Prepared, RefusedToServe> {
    let launcher = getppid();
    let load = receive_load(socket)?;
    let minor = load.gpu_minor.ok_or(RefusedToServe::NoGpu)?;
    let opening = seal::restrict_for_gpu(block, &Reach::of_gpu(minor));
    stay_with(launcher)?;
    let born = Instant::now();
    // Before the driver has descriptors of its own.
    let closed = close_others(&load)?;
    set_up(&load);
    let on = open(&load)?;
    let mut restricted = opening.give_up_files();
    restricted.closed_descriptors(closed);
    let model = load::apart(&load, on, |_| {})?;
    Ok((restricted, load, model, born))
}

/// Anew once it is restricted: becoming another user undid it.
fn stay_with(launcher: Pid) -> Result<(), RefusedToServe> {
    process::die_with(launcher).map_err(RefusedToServe::Socket)
}

/// Closes what it was given beside the files of its load; how that went.
fn close_others(load: &Load) -> Result<Result<String, String>, FileError> {
    let descriptors = load::descriptors(load)?;
    Ok(seal::close_all_but(&descriptors))
}

/// What holds for the whole process, before it has other threads.
pub fn set_up(load: &Load) {
    let off = load
        .zeroing_off
        .iter()
        .filter_map(|name| Measure::named(name));
    off.for_each(Measure::switch_off);
    alloc::settle();
    process::set_compute_threads(load.threads);
}

/// The life of a worker that has its model: all its threads start here. Called on the only one.
pub fn born(newborn: Newborn) -> ! {
    let spare = newborn.socket.try_clone();
    let engine = thread::Builder::new().name("engine".to_owned());
    let engine = engine.stack_size(STACK_BYTES);
    let started = engine.spawn(move || run(newborn));
    match (started, spare) {
        (Ok(engine), spare) => {
            drop(spare);
            // It ends the process; where it panics before it can, this does.
            let _ = engine.join();
            process::end(EXIT_REFUSED)
        }
        (Err(error), Ok(socket)) => refuse(socket, &RefusedToServe::Thread(error)),
        (Err(_), Err(error)) => {
            process::say(format_args!("{}", RefusedToServe::Socket(error)));
            process::end(EXIT_REFUSED)
        }
    }
}

/// The engine's thread: from the start of the model to the end of the process.
fn run(newborn: Newborn) -> ! {
    process::lower_priority();
    let Newborn {
        mut socket,
        restricted,
        load,
        model,
        start,
        warm_up,
        born,
    } = newborn;
    let started = start(model, load.threads as usize, warm_up);
    let ready = started
        .map_err(RefusedToServe::from)
        .and_then(|engine| make_ready(&mut socket, restricted, &load, engine, born));
    match ready {
        Ok(engine) => serve(engine, socket),
        Err(why) => refuse(socket, &why),
    }
}

/// Seals the process and says `Ready`.
fn make_ready(
    socket: &mut UnixStream,
    restricted: Restricted,
    load: &Load,
    engine: Box<dyn Engine>,
    born: Instant,
) -> Result<Box<dyn Engine>, RefusedToServe> {
    let load_ns = u64::try_from(born.elapsed().as_nanos()).unwrap_or(u64::MAX);
    // From here on there are prompts. Until here a panic's message says more.
    process::abort_on_panic();
    let sealed = lock(restricted, &load.required_layers)?;
    let info = engine.info();
    let ready = Ready {
        task: info.task.to_owned(),
        dimensions: info.dimensions,
        context_tokens: info.context_tokens,
        kv_bytes_per_token: info.kv_bytes_per_token,
        seal: sealed.applied(),
        load_ns,
        weights_bytes: info.weights_bytes,
    };
    serve::tell(socket, from_worker::Message::Ready(ready)).map_err(RefusedToServe::Socket)?;
    Ok(engine)
}

fn receive_load(socket: &mut UnixStream) -> Result<Load, RefusedToServe> {
    match frame::read::<ToWorker>(socket) {
        Ok(Some(ToWorker {
            message: Some(Message::Load(load)),
        })) => Ok(load),
        Ok(Some(_)) => Err(RefusedToServe::NoLoad("it was another message".to_owned())),
        Ok(None) => Err(RefusedToServe::NoLoad("the connection ended".to_owned())),
        Err(FrameError::Io(error)) => Err(RefusedToServe::Socket(error)),
        Err(error) => Err(RefusedToServe::NoLoad(error.to_string())),
    }
}

fn lock(restricted: Restricted, required: &[String]) -> Result<Sealed, RefusedToServe> {
    let sealed = restricted.lock();
    let missing = sealed.missing(required);
    if missing.is_empty() {
        return Ok(sealed);
    }
    Err(RefusedToServe::Seal(missing.join(", ")))
}

/// From the assignment to the end.
fn serve(engine: Box<dyn Engine>, socket: UnixStream) -> ! {
    let why = match serve::assign(engine, socket) {
        Ok(server) => server.run(),
        Err(why) => why,
    };
    match why {
        ServeError::Protocol(_) | ServeError::Frame(_) => {
            process::say(format_args!(
                "the scheduler broke the protocol: {why}; ending"
            ));
            process::end(EXIT_PROTOCOL)
        }
        ServeError::Socket(_) => process::end(0),
        ServeError::Residue(bytes) => {
            process::say(format_args!(
                "{bytes} bytes were not zero after a scrub; ending"
            ));
            std::process::abort()
        }
    }
}
