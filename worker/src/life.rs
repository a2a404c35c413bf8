//! A worker's life: restrict → load → seal → assign → serve. One way, no way back.
//!
//! Each stage is a function that consumes what the stage before returned. A worker that cannot load, or that
//! lacks a layer of the seal that the operator requires, says why and ends before it sees any tenant.

use crate::engine::Engine;
use crate::inbox;
use crate::load::{self, FileError};
use crate::models;
use crate::process;
use crate::seal::{self, Restricted, Sealed};
use crate::serve::{self, ServeError};
use bulkhead_kernels::alloc;
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::to_worker::Message;
use bulkhead_proto::internal::{Load, Ready, Refused, ToWorker, from_worker};
use crossbeam::channel::Receiver;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// Exit code of a worker that refused to serve.
const EXIT_REFUSED: i32 = 1;

/// Why a worker ended before it served.
#[derive(Debug, thiserror::Error)]
enum RefusedToServe {
    /// Fault of the launcher, or of whoever started this by hand.
    #[error("descriptor 3 is no socket ({0}): workers are started by `bulkhead serve`")]
    NoSocket(io::Error),
    /// The launcher's fault.
    #[error("the first frame was not a load: {0}")]
    NoLoad(String),
    /// The installation's fault.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The model's fault, or that of a version that does not know its kind.
    #[error("the model could not be opened: {0}")]
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

/// A loaded model that has all the threads that it will ever have.
struct Loaded {
    engine: Box<dyn Engine>,
    inbox: Receiver<Message>,
    load_ns: u64,
}

/// Lives one worker's life on the socket at descriptor 3. To be called once, with one thread.
pub fn live() -> ! {
    let mut socket = match process::take_socket() {
        Ok(socket) => socket,
        Err(error) => refuse(&RefusedToServe::NoSocket(error)),
    };
    match prepare(&mut socket) {
        Ok((engine, inbox)) => serve(engine, socket, inbox),
        Err(why) => {
            let refused = Refused {
                reason: why.to_string(),
            };
            // It may hang up the moment it hears, and the reader thread then ends the process.
            process::set_code_at_hang_up(EXIT_REFUSED);
            // If the scheduler is gone, the exit code still tells the launcher.
            let _ = serve::tell(&mut socket, from_worker::Message::Refused(refused));
            refuse(&why)
        }
    }
}

fn refuse(why: &RefusedToServe) -> ! {
    process::say(format_args!("{why}"));
    process::end(EXIT_REFUSED)
}

/// Everything up to and including `Ready`.
fn prepare(
    socket: &mut UnixStream,
) -> Result<(Box<dyn Engine>, Receiver<Message>), RefusedToServe> {
    let mut restricted = seal::restrict();
    let start = Instant::now();
    let load = receive_load(socket)?;
    let descriptors = load::descriptors(&load)?;
    restricted.closed_descriptors(seal::close_all_but(&descriptors));
    let loaded = open(&load, socket, start)?;
    // From here on there are prompts. Until here a panic's message says more.
    process::abort_on_panic();
    let sealed = lock(restricted, &load.required_layers)?;
    let info = loaded.engine.info();
    let ready = Ready {
        task: info.task.to_owned(),
        dimensions: info.dimensions,
        context_tokens: info.context_tokens,
        kv_bytes_per_token: info.kv_bytes_per_token,
        seal: sealed.applied(),
        load_ns: loaded.load_ns,
    };
    serve::tell(socket, from_worker::Message::Ready(ready)).map_err(RefusedToServe::Socket)?;
    Ok((loaded.engine, loaded.inbox))
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

/// Reads the model and starts every thread. The reader first: those that compute are started after
/// the priority was lowered, and inherit it.
fn open(load: &Load, socket: &UnixStream, start: Instant) -> Result<Loaded, RefusedToServe> {
    alloc::set_zeroing(load.zeroing);
    process::set_compute_threads(load.threads);
    let files = load::read_files(load)?;
    let inbox = socket
        .try_clone()
        .and_then(inbox::start)
        .map_err(RefusedToServe::Thread)?;
    process::lower_priority();
    let engine = models::open(load, files)?;
    let load_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
    Ok(Loaded {
        engine,
        inbox,
        load_ns,
    })
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
fn serve(engine: Box<dyn Engine>, socket: UnixStream, inbox: Receiver<Message>) -> ! {
    let why = match serve::assign(engine, socket, inbox) {
        Ok(server) => server.run(),
        Err(why) => why,
    };
    match why {
        ServeError::Protocol(what) => inbox::broken(what),
        ServeError::Socket(_) => process::hang_up(),
        ServeError::Residue(bytes) => {
            process::say(format_args!(
                "{bytes} bytes were not zero after a scrub; ending"
            ));
            std::process::abort()
        }
    }
}
