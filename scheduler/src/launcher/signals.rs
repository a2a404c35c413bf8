//! The launcher's signals as a descriptor, so that it waits for everything in one place and no
//! handler ever runs.

use nix::sys::{
    signal::{SigSet, Signal},
    signalfd::{SfdFlags, SignalFd},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
};

/// SIGCHLD, SIGTERM and SIGINT, blocked and waiting to be read.
pub struct Signals {
    fd: SignalFd,
}

impl Signals {
    /// Blocks the three for this (the only) thread, and all that is forked from it until it unblocks
    /// them.
    pub fn new() -> io::Result<Signals> {
        let mut set = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
            set.add(signal);
        }
        set.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            fd: SignalFd::with_flags(&set, flags)?,
        })
    }

    /// The next signal that came, if one did.
    pub fn next(&self) -> io::Result<Option<Signal>> {
        let info = self.fd.read_signal()?;
        Ok(info.and_then(|i| Signal::try_from(i.ssi_signo as i32).ok()))
    }

    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
