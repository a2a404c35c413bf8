//! Thin wrappers around what a process inherits and sets for itself, before it has other threads.
//!
//! All `unsafe` of the worker outside the seal is in this file.

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, getpid, getppid, setpgid};
use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

/// The descriptor of the socket to the scheduler.
pub const SOCKET_FD: RawFd = 3;

/// The least descriptor that a model's file can have.
pub const FILE_FD_MIN: RawFd = SOCKET_FD + 1;

/// How much lower than its I/O the priority of computing is. A prompt hand-over beside busy threads
/// needs this; computing loses nothing, since I/O is short.
const COMPUTE_NICENESS: libc::c_int = 15;

/// Stack of a thread that does what a main thread would, bytes: as much as that would have. Memory is
/// taken as it is touched.
pub const STACK_BYTES: usize = 8 << 20;

/// Takes the socket that the launcher left at descriptor 3. To be called once.
pub fn take_socket() -> io::Result<OwnedFd> {
    // SAFETY: the descriptor was inherited; nothing in this process owns it, and this is called once.
    // If nobody handed it over, the check below finds out before it is used.
    let socket = unsafe { OwnedFd::from_raw_fd(SOCKET_FD) };
    match nix::sys::socket::getsockname::<nix::sys::socket::UnixAddr>(socket.as_raw_fd()) {
        Ok(_) => Ok(socket),
        Err(error) => {
            // Not ours to close: it may be anything, or nothing.
            let _ = std::os::fd::IntoRawFd::into_raw_fd(socket);
            Err(error.into())
        }
    }
}

/// Takes a model's file at an inherited descriptor. Each is to be taken once.
///
/// Refuses descriptors below [`FILE_FD_MIN`]: those have owners.
pub fn take_file(fd: RawFd) -> io::Result<File> {
    if fd < FILE_FD_MIN {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: fcntl with F_GETFD only asks whether the descriptor is open.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, was inherited, and is taken once: the caller checks that its
    // list has no duplicates. Nothing else in this process owns descriptors from 4 on.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

/// Tells the libraries that compute how many threads to make. Before any thread exists.
pub fn set_compute_threads(threads: u32) {
    let threads = threads.max(1).to_string();
    for name in ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"] {
        // SAFETY: the process has one thread, so nobody reads the environment meanwhile.
        unsafe { std::env::set_var(name, &threads) };
    }
}

/// Bytes that nobody outside this process can know, from the kernel itself: a library would look around first, which
/// the seal kills for, or gather chance of its own, which takes a twentieth of a second.
pub fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    // SAFETY: writes no more than the length that it is given, into bytes that are alive.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    match got {
        -1 => Err(io::Error::last_os_error()),
        // So few come whole, the kernel promises.
        _ => Ok(bytes),
    }
}

/// Lowers the priority of the calling thread, and of those that it starts from now on.
pub fn lower_priority() {
    // SAFETY: sets one integer of the calling thread; there is no memory involved. Lowering the own
    // priority is always allowed, and if it fails the thread is merely less polite.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, COMPUTE_NICENESS) };
}

/// How many threads this process has. Asked of the kernel through a file that is opened before the
/// process may open none; in a forked child it would still tell of the parent.
#[derive(Debug)]
pub struct Threads(File);

impl Threads {
    /// For the calling process.
    pub fn of_this_process() -> io::Result<Threads> {
        File::open("/proc/self/status").map(Threads)
    }

    /// Its threads now.
    pub fn count(&self) -> io::Result<u32> {
        // Far longer than the file.
        let mut text = [0; 8 << 10];
        let length = self.0.read_at(&mut text, 0)?;
        let text = String::from_utf8_lossy(&text[..length]);
        let mut lines = text.lines();
        let count = lines.find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok());
        count.ok_or_else(|| io::Error::other("the kernel does not tell the number of threads"))
    }
}

impl AsRawFd for Threads {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// Which side of a fork this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork<P> {
    /// The process that was there before, with what it knows of the other.
    Parent(P),
    /// The new one.
    Child,
}

/// Forks this process. For callers whose only thread this is (see [`Threads`]).
pub fn fork() -> io::Result<Fork<Pid>> {
    // SAFETY: the process has one thread, so that no lock is held in the child by a thread that does
    // not exist there, and the child may do whatever this process may.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Waits for a child that ends with 0, or with the number of the error that kept it from its work.
pub fn wait_for(child: Pid) -> io::Result<()> {
    match waitpid(child, None)? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, code) => Err(io::Error::from_raw_os_error(code)),
        other => Err(io::Error::other(format!("its helper ended: {other:?}"))),
    }
}

/// Has the kernel kill this process when `parent` ends. An error where `parent` is not its parent; in a process namespace
/// of its own, from where nobody can tell, it is for the caller to see that `parent` is there still.
pub fn die_with(parent: Pid) -> io::Result<()> {
    /// Who is there first in a process namespace, and what it is told of whoever is outside.
    const FIRST: Pid = Pid::from_raw(1);
    const OUTSIDE: Pid = Pid::from_raw(0);
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have ended before the line above.
    if getppid() == parent || (getpid(), getppid()) == (FIRST, OUTSIDE) {
        return Ok(());
    }
    Err(io::Error::other("the launcher is gone"))
}

/// Puts this process into a group of its own, of which it is the only one.
pub fn lead_group() -> io::Result<()> {
    Ok(setpgid(Pid::from_raw(0), Pid::from_raw(0))?)
}

/// Ends the process at once, from any thread: the first caller's code counts. `std::process::exit`
/// would have a second caller wait with a call that the seal kills for.
pub fn end(code: i32) -> ! {
    // SAFETY: does not return and reads no memory. What is left out is clean-up at exit, and this
    // program has none: it buffers nothing, and the kernel takes its memory back.
    unsafe { libc::_exit(code) }
}

/// Writes a line to stderr, where that is possible: under the seal a file takes no byte more, and
/// `eprintln` would panic.
pub fn say(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "bulkhead-worker: {line}");
}

/// Makes every panic end the process, and say where it happened but never what was worked on: a
/// panic's message may quote a prompt.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        match panic.location() {
            Some(at) => say(format_args!("bug at {}:{}; ending", at.file(), at.line())),
            None => say(format_args!("bug; ending")),
        }
        std::process::abort();
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_with_owners_and_closed_ones_are_not_taken() {
        for fd in [-1, 0, 3] {
            assert_eq!(
                take_file(fd).unwrap_err().kind(),
                io::ErrorKind::InvalidInput
            );
        }
        assert_eq!(
            take_file(999_999).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
    }
}
