//! What the watching process does to itself at its start. The only place of this crate with unsafe code.

use nix::sys::{
    prctl,
    resource::{Resource, setrlimit},
    socket::{AddressFamily, SockaddrLike, SockaddrStorage, getsockname},
};
use std::{
    io,
    os::fd::{FromRawFd, OwnedFd, RawFd},
};

/// The number of the descriptor that the launcher leaves open.
const CONNECTION: RawFd = 3;

/// Gives up new privileges, core dumps and being debugged, and takes the connection that the launcher left
/// open. To be called once, before anything else opens a descriptor.
///
/// # Errors
/// The machine refused, or there is no such connection: this program is started by `bulkhead serve`.
pub fn start() -> io::Result<OwnedFd> {
    prctl::set_no_new_privs()?;
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    let name = getsockname::<SockaddrStorage>(CONNECTION);
    if name.is_ok_and(|name| name.family() == Some(AddressFamily::Unix)) {
        // SAFETY: it is open, as getsockname has just shown, it was inherited and so belongs to nothing in
        // this process, and this is called once, before anything else opens a descriptor.
        return Ok(unsafe { OwnedFd::from_raw_fd(CONNECTION) });
    }
    let why = format!(
        "descriptor {CONNECTION} is no Unix socket: this program is started by `bulkhead serve`"
    );
    Err(io::Error::new(io::ErrorKind::InvalidInput, why))
}
