//! What the audit process does to itself at its start: takes its socket, gives up what it does not
//! need, and turns SIGTERM into a message. The only place of this crate with unsafe code.

use bulkhead_audit::serve::Input;
use crossbeam::channel::Sender;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname};
use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::thread;

/// Takes over the Unix socket that the launcher left open under this number.
pub fn inherited_socket(number: RawFd) -> io::Result<UnixStream> {
    let wrong = |what: &str| {
        let why =
            format!("descriptor {number} {what}: this command is started by `bulkhead serve`");
        io::Error::new(io::ErrorKind::InvalidInput, why)
    };
    if number <= 2 {
        return Err(wrong("is a standard stream"));
    }
    let name = getsockname::<SockaddrStorage>(number).map_err(|_| wrong("is no open socket"))?;
    if name.family() != Some(AddressFamily::Unix) {
        return Err(wrong("is no Unix socket"));
    }
    // SAFETY: it is open, as getsockname has just shown, it was inherited and so belongs to nothing
    // in this process, and this is called once, before anything else opens a descriptor.
    let socket = unsafe { OwnedFd::from_raw_fd(number) };
    Ok(UnixStream::from(socket))
}

/// Shuts out debuggers and core dumps, which would show plaintext and keys, and new privileges.
pub fn harden() -> io::Result<()> {
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

/// Sends `Terminate` for each SIGTERM. SIGINT is left to the launcher: one from a terminal reaches the
/// whole process group, and the log has to outlive the scheduler. Called before any other thread is
/// started, so that all of them inherit the mask.
pub fn forward_termination(inputs: Sender<Input>) -> io::Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    let forward = move || {
        while let Ok(signal) = signals.wait() {
            if signal == Signal::SIGTERM && inputs.send(Input::Terminate).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("audit-signals".into())
        .spawn(forward)
        .map(drop)
}
