//! A keeper: a process that lays a model's weights out in a GPU's memory once, lends that memory to the workers of all
//! tenants, and looks again and again whether it is still what it was.
//!
//! The GPU's counterpart of a template: it reads the model's files, serves nobody, and never sees a tenant, a prompt
//! or a request. Workers map what it lends for reading, but the driver takes their word for that: one that was taken
//! over can map it for writing. So all of it is digested with a key that nobody else has, when it was laid out and every
//! [`ROUND`] from then on; where a digest is another, the keeper says so and ends, and the launcher ends all that were
//! given the memory. What is changed and changed back between two looks is not seen.

use crate::life;
use crate::load::{self, FileError};
use crate::models::{self, LoadError, decoder};
use crate::process;
use crate::program::OpenGpu;
use crate::seal::{self, Reach};
use bulkhead_kernels::digest::{Key, PIECE_BYTES};
use bulkhead_proto::internal::{
    FromKeeper, Load, PieceChanged, Progress, Refused, TableMade, ToKeeper, WeightsChecked,
    WeightsHeld, from_keeper::Message as Tell, to_keeper::Message as Ask,
};
use bulkhead_proto::packet;
use decoder::Lender;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::getppid;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What the kernel calls a keeper.
const NAME: &std::ffi::CStr = c"bulkhead-keeper";

/// From one look at the memory to the next.
pub const ROUND: Duration = Duration::from_secs(10);

/// How many times as long as a look takes nothing is looked at, at least: a bound on its share of the GPU.
const REST: u32 = 9;

/// No longer than this, or the launcher takes it for one that hangs.
const REST_MAX: Duration = Duration::from_secs(20);

/// Why there is no keeper.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    /// The launcher's fault, or that of whoever started this by hand.
    #[error("the launcher's first packet was not a load: {0}")]
    NoLoad(&'static str),
    /// The machine's fault.
    #[error("the keeper could not be set up: {0}")]
    Io(#[from] io::Error),
    /// The installation's.
    #[error(transparent)]
    Files(#[from] FileError),
    /// The model's, or the device's.
    #[error(
        "its weights cannot be shared: {0}; with worker.share_weights = false each worker loads them for itself"
    )]
    Model(#[from] LoadError),
}

impl KeeperError {
    fn refusal(&self) -> Refused {
        let permanent = match self {
            KeeperError::Files(error) => return error.refusal(),
            KeeperError::Model(error) => error.permanent(),
            KeeperError::NoLoad(_) | KeeperError::Io(_) => false,
        };
        Refused {
            reason: self.to_string(),
            permanent,
            ..Refused::default()
        }
    }
}

/// Memory that is lent, and what it has to be.
struct Lent {
    lender: Box<dyn Lender>,
    key: Key,
    digests: Vec<u64>,
}

/// Lives a keeper's life on the packet socket at descriptor 3. To be called once, with one thread. `block` numbers the
/// users that are its own, where the launcher gives any.
pub fn live(open: OpenGpu, block: Option<u32>) -> ! {
    let control = match process::take_socket() {
        Ok(control) => control,
        Err(error) => {
            process::say(format_args!(
                "descriptor 3 is no socket ({error}): keepers are started by `bulkhead serve`"
            ));
            process::end(life::EXIT_REFUSED)
        }
    };
    let kept = prepare(&control, open, block).and_then(|lent| watch(&control, lent, ROUND));
    if let Err(why) = kept {
        process::say(format_args!("{why}"));
        // If the launcher is gone, nobody needs to know.
        let _ = tell(&control, Tell::Refused(why.refusal()), None);
        process::end(life::EXIT_REFUSED)
    }
    process::end(0)
}

/// Everything up to and including `WeightsHeld`. The GPU is opened while there are files, and its model is read when
/// there are none any more.
fn prepare(control: &OwnedFd, open: OpenGpu, block: Option<u32>) -> Result<Lent, KeeperError> {
    // If it fails, the process has its program's name.
    let _ = nix::sys::prctl::set_name(NAME);
    let launcher = getppid();
    process::die_with(launcher)?;
    let load = receive_load(control)?;
    let minor = load.gpu_minor;
    let minor = minor.ok_or(KeeperError::NoLoad("it named no GPU"))?;
    let opening = seal::restrict_for_gpu(block, &Reach::of_gpu(minor));
    // Becoming another user undid it.
    process::die_with(launcher)?;
    // Before the driver has descriptors of its own. As of templates, no layer is required of a keeper: it has no tenant.
    let _ = seal::close_all_but(&load::descriptors(&load)?);
    life::set_up(&load);
    let lender = models::lender(open(&load)?)?;
    let _ = opening.give_up_files();
    process::lower_priority();
    lend(control, &load, lender)
}

/// Reads the model, lays it out, and tells where it is.
fn lend(control: &OwnedFd, load: &Load, mut lender: Box<dyn Lender>) -> Result<Lent, KeeperError> {
    let began = Instant::now();
    let mut hear = |progress: Progress| {
        // If the launcher is gone, the next packet is the last anyway.
        let _ = tell(control, Tell::Progress(progress), None);
    };
    let files = load::read_files(load, &mut hear)?;
    hear(Progress {
        phase: load::PACKING.to_owned(),
        ..Progress::default()
    });
    let table = models::lay_out(load, files, &mut *lender)?;
    let table = unchangeable(&table.encode())?;
    let (memory_bytes, memory) = lender.lend()?;
    let key = Key::from_random(process::random()?);
    // Before anybody else can have changed it.
    let digests = lender.digests(&key)?;
    tell(control, Tell::TableMade(TableMade {}), Some(table.as_fd()))?;
    let load_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let held = WeightsHeld {
        memory_bytes,
        load_ns,
    };
    tell(control, Tell::WeightsHeld(held), Some(memory.as_fd()))?;
    Ok(Lent {
        lender,
        key,
        digests,
    })
}

/// Looks at the memory again and again, until it is not what it was or the launcher is gone.
fn watch(control: &OwnedFd, mut lent: Lent, round: Duration) -> Result<(), KeeperError> {
    let mut rest = round;
    while !is_over(control, rest)? {
        let began = Instant::now();
        let now = lent.lender.digests(&lent.key)?;
        if let Some(offset) = first_change(&lent.digests, &now) {
            let changed = Tell::PieceChanged(PieceChanged { offset });
            tell(control, changed, None)?;
            process::say(format_args!(
                "shared weights were changed at byte {offset}; ending"
            ));
            return Ok(());
        }
        tell(control, Tell::WeightsChecked(WeightsChecked {}), None)?;
        rest = round
            .max(began.elapsed().saturating_mul(REST))
            .min(REST_MAX);
    }
    Ok(())
}

/// Where the first piece begins that is another, bytes.
fn first_change(before: &[u64], now: &[u64]) -> Option<u64> {
    let same = before.iter().zip(now).take_while(|(a, b)| a == b).count();
    (before.len() != now.len() || same < before.len()).then(|| same as u64 * PIECE_BYTES as u64)
}

/// Waits; true where the launcher has hung up. It says nothing more to a keeper.
fn is_over(control: &OwnedFd, span: Duration) -> io::Result<bool> {
    let until = Instant::now() + span;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(control.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) | Err(nix::errno::Errno::EINTR) if Instant::now() >= until => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => {
                return match packet::recv::<ToKeeper>(control.as_fd())? {
                    None => Ok(true),
                    Some(_) => Err(io::Error::other("the launcher spoke out of turn")),
                };
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Memory of the system's that holds these bytes, and that nobody can change any more.
fn unchangeable(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"weights", flags)?);
    file.write_all(bytes)?;
    let all = SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(all))?;
    Ok(file.into())
}

fn receive_load(control: &OwnedFd) -> Result<Load, KeeperError> {
    match packet::recv::<ToKeeper>(control.as_fd())? {
        Some((
            ToKeeper {
                message: Some(Ask::Load(load)),
            },
            None,
        )) => Ok(load),
        Some(_) => Err(KeeperError::NoLoad("it was another message")),
        None => Err(KeeperError::NoLoad("the connection ended")),
    }
}

fn tell(control: &OwnedFd, message: Tell, pass: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let message = FromKeeper {
        message: Some(message),
    };
    packet::send(control.as_fd(), &message, pass)
}

#[cfg(test)]
#[path = "keeper_tests.rs"]
mod tests;
