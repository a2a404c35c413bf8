//! A template: a process that has read a model, serves nobody, and forks the workers that do.
//!
//! What its children share is the memory of the weights, copy-on-write: none can change what another
//! sees. Until it forks it has one thread (that of loading has ended), since a fork copies only the
//! caller. It has no tenant and sees no request: a worker's socket passes through it on the way to the
//! child, and is closed here before the next packet is read.
//!
//! A child becomes the launcher's own, so that it is waited for and killed like every worker: the
//! fork is done by a go-between that ends at once, and the launcher adopts what that leaves behind. All
//! forks are the C library's own, so that everything that has to be told of a fork is.

use crate::life::{self, Newborn};
use crate::load;
use crate::models::{self, On, StartWith};
use crate::process::{self, Fork, Threads};
use crate::seal::{self, Apart, Restricted};
use bulkhead_kernels::alloc::{self, Mappings};
use bulkhead_proto::internal::{
    ForkFailed, Forked, FromTemplate, Load, Loaded, Refused, ToTemplate,
    from_template::Message as Tell, to_template::Message as Ask,
};
use bulkhead_proto::packet;
use nix::unistd::{Pid, getpid, getppid};
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

/// What the kernel calls a template, and a worker.
const NAMES: [&std::ffi::CStr; 2] = [c"bulkhead-model", c"bulkhead-worker"];

/// The longest reason why a model does not run, bytes.
const REASON_BYTES_MAX: u64 = 1024;

/// Marks a reason that will be there however often it is tried.
const PERMANENT: char = '!';

/// Why there is no template.
#[derive(Debug, thiserror::Error)]
enum TemplateError {
    /// The launcher's fault, or that of whoever started this by hand.
    #[error("the launcher's first packet was not a load: {0}")]
    NoLoad(String),
    /// The machine's fault.
    #[error("the template could not be set up: {0}")]
    Io(#[from] io::Error),
    /// The model's, or the machine's.
    #[error(transparent)]
    Load(#[from] load::ModelError),
    /// The model's, or the machine's.
    #[error("the model does not run: {why}")]
    Run { why: String, permanent: bool },
}

impl TemplateError {
    /// What to say of it. Only of a model is it known that trying again will not help.
    fn refusal(&self) -> Refused {
        let permanent = match self {
            TemplateError::Load(error) => return error.refusal(),
            TemplateError::Run { permanent, .. } => *permanent,
            TemplateError::NoLoad(_) | TemplateError::Io(_) => false,
        };
        Refused {
            reason: self.to_string(),
            permanent,
            ..Refused::default()
        }
    }
}

/// A loaded template.
struct Template {
    control: OwnedFd,
    launcher: Pid,
    threads: Threads,
    restricted: Restricted,
    load: Load,
    model: models::Loaded,
    start: StartWith,
}

/// Where a fork for a new worker came back.
enum Side {
    Template,
    /// With what its go-between entered for it.
    Worker(Apart),
}

/// Lives a template's life on the packet socket at descriptor 3, and in its children a worker's. To be
/// called once, with one thread. `block` numbers the users that are its own, where the launcher gives any.
pub fn live(start: StartWith, block: Option<u32>) -> ! {
    let control = match process::take_socket() {
        Ok(control) => control,
        Err(error) => {
            process::say(format_args!(
                "descriptor 3 is no socket ({error}): templates are started by `bulkhead serve`"
            ));
            process::end(life::EXIT_REFUSED)
        }
    };
    match prepare(control, start, block) {
        Ok(template) => life::born(template.fork_on_demand()),
        Err((control, why)) => {
            process::say(format_args!("{why}"));
            let refused = why.refusal();
            // If the launcher is gone, nobody needs to know.
            let _ = tell(&control, Tell::Refused(refused));
            process::end(life::EXIT_REFUSED)
        }
    }
}

/// Everything up to and including `Loaded`.
fn prepare(
    control: OwnedFd,
    start: StartWith,
    block: Option<u32>,
) -> Result<Template, (OwnedFd, TemplateError)> {
    let parts = || -> Result<_, TemplateError> {
        // If it fails, the process has its program's name.
        let _ = nix::sys::prctl::set_name(NAMES[0]);
        let launcher = getppid();
        let threads = Threads::of_this_process()?;
        // Where it fails, only speed is lost.
        let mut mappings = Mappings::of_this_process().ok();
        let mut restricted = seal::restrict_template(block);
        // Becoming another user undid it.
        process::die_with(launcher)?;
        let load = receive_load(&control)?;
        let mut keep = load::descriptors(&load).map_err(load::ModelError::from)?;
        keep.push(threads.as_raw_fd());
        keep.extend(mappings.as_ref().map(AsRawFd::as_raw_fd));
        restricted.closed_descriptors(seal::close_all_but(&keep));
        life::set_up(&load);
        let began = Instant::now();
        let on = On::processor(&load.device).map_err(load::ModelError::from)?;
        alloc::settle_for_loading();
        let loaded = load::apart(&load, on, |progress| {
            // If the launcher is gone, the next packet is the last anyway.
            let _ = tell(&control, Tell::Progress(progress));
        })?;
        alloc::settle();
        let model = try_out(loaded, load.threads as usize)?;
        // What loading freed goes back to the system, so that no child copies it.
        alloc::give_back();
        let _ = mappings.as_mut().map(Mappings::collapse);
        let load_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        tell(&control, Tell::Loaded(Loaded { load_ns }))?;
        Ok((launcher, threads, restricted, load, model))
    };
    match parts() {
        Ok((launcher, threads, restricted, load, model)) => Ok(Template {
            control,
            launcher,
            threads,
            restricted,
            load,
            model,
            start,
        }),
        Err(why) => Err((control, why)),
    }
}

/// Runs the model once in a child, so that no worker has to: what is wrong with it is known before
/// anybody asks it anything.
fn try_out(model: models::Loaded, threads: usize) -> Result<models::Loaded, TemplateError> {
    let (mut said, mut says) = io::pipe()?;
    let template = getpid();
    match process::fork()? {
        Fork::Parent(child) => {
            drop(says);
            let mut why = String::new();
            let heard = said
                .by_ref()
                .take(REASON_BYTES_MAX)
                .read_to_string(&mut why);
            let ended = process::wait_for(child);
            match (heard, ended) {
                (Ok(_), Ok(())) if why.is_empty() => Ok(model),
                (Ok(_), Ok(())) => Err(TemplateError::Run {
                    permanent: why.starts_with(PERMANENT),
                    why: why.trim_start_matches(PERMANENT).to_owned(),
                }),
                // It was killed, or had no room.
                (Err(error), _) | (_, Err(error)) => Err(TemplateError::Run {
                    why: error.to_string(),
                    permanent: false,
                }),
            }
        }
        Fork::Child => {
            process::lower_priority();
            let ran = process::die_with(template)
                .map_err(|error| error.to_string())
                .and_then(|()| match model.start(threads, true) {
                    Ok(_) => Ok(()),
                    Err(error) if error.permanent() => Err(format!("{PERMANENT}{error}")),
                    Err(error) => Err(error.to_string()),
                });
            if let Err(why) = ran {
                let _ = says.write_all(why.as_bytes());
            }
            process::end(0)
        }
    }
}

fn receive_load(control: &OwnedFd) -> Result<Load, TemplateError> {
    match packet::recv::<ToTemplate>(control.as_fd())? {
        Some((
            ToTemplate {
                message: Some(Ask::Load(load)),
            },
            None,
        )) => Ok(load),
        Some(_) => Err(TemplateError::NoLoad("it was another message".to_owned())),
        None => Err(TemplateError::NoLoad("the connection ended".to_owned())),
    }
}

impl Template {
    /// Forks a child for each request, for as long as the launcher is there. Returns in each child.
    fn fork_on_demand(self) -> Newborn {
        loop {
            let (user, socket) = match packet::recv::<ToTemplate>(self.control.as_fd()) {
                Ok(Some((
                    ToTemplate {
                        message: Some(Ask::Fork(fork)),
                    },
                    Some(socket),
                ))) => (fork.user, socket),
                Ok(None) => process::end(0),
                Ok(Some(_)) => broken("not a request for a worker"),
                Err(error) => broken(&error.to_string()),
            };
            match self.fork(user) {
                Ok(Side::Worker(apart)) => return self.into_worker(socket, apart),
                Ok(Side::Template) => {}
                Err(error) => self.say_why_not(&error),
            }
        }
    }

    /// Forks a child for the launcher to adopt; comes back in it once that has happened.
    fn fork(&self, user: Option<u32>) -> io::Result<Side> {
        if self.threads.count()? != 1 {
            return Err(io::Error::other(
                "loading the model left threads behind, and a process with threads cannot be \
                 shared; set worker.share_weights = false",
            ));
        }
        let (go, mut say_go) = io::pipe()?;
        match process::fork()? {
            Fork::Parent(between) => {
                process::wait_for(between)?;
                // If the child is gone already, the launcher hears it from the kernel.
                let _ = say_go.write_all(&[1]);
                Ok(Side::Template)
            }
            Fork::Child => {
                let apart = seal::apart(&self.restricted, user);
                match process::fork() {
                    Ok(Fork::Child) => {
                        drop(say_go);
                        wait_for(go);
                        Ok(Side::Worker(apart))
                    }
                    Ok(Fork::Parent(_)) => process::end(0),
                    Err(error) => process::end(error.raw_os_error().unwrap_or(libc::EAGAIN)),
                }
            }
        }
    }

    /// The child's first steps: it makes itself known, and lets go of all that is not its own.
    fn into_worker(mut self, socket: OwnedFd, apart: Apart) -> Newborn {
        let born = Instant::now();
        let known = process::die_with(self.launcher)
            .and_then(|()| process::lead_group())
            .and_then(|()| tell(&self.control, Tell::Forked(Forked {})))
            // From here on descriptor 3 is the worker's own socket.
            .and_then(|()| Ok(nix::unistd::dup2(&socket, &mut self.control)?));
        if let Err(error) = known {
            process::say(format_args!("a new worker cannot begin: {error}"));
            process::end(life::EXIT_REFUSED)
        }
        let _ = nix::sys::prctl::set_name(NAMES[1]);
        drop((socket, self.threads));
        let mut restricted = seal::restrict_again(&self.restricted, apart);
        restricted.closed_descriptors(seal::close_all_but(&[]));
        Newborn {
            socket: self.control.into(),
            restricted,
            load: self.load,
            model: self.model,
            start: self.start,
            warm_up: false,
            born,
        }
    }

    fn say_why_not(&self, error: &io::Error) {
        let reason = format!("the template cannot fork: {error}");
        if tell(&self.control, Tell::ForkFailed(ForkFailed { reason })).is_err() {
            process::end(0)
        }
    }
}

/// Waits until the go-between is gone; ends where the template died first.
fn wait_for(mut go: PipeReader) {
    if go.read_exact(&mut [0]).is_err() {
        process::end(life::EXIT_REFUSED)
    }
}

fn tell(control: &OwnedFd, message: Tell) -> io::Result<()> {
    let message = FromTemplate {
        message: Some(message),
    };
    packet::send(control.as_fd(), &message, None)
}

fn broken(why: &str) -> ! {
    process::say(format_args!(
        "the launcher broke the protocol: {why}; ending"
    ));
    process::end(life::EXIT_PROTOCOL)
}
