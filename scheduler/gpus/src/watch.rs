//! The life of the watching process: look, tell, wait, until nobody listens any more.
//!
//! It ends with the scheduler's end of its connection, or with an error where the source is broken: whoever
//! starts it again has it opened anew.

use crate::wire;
use bulkhead_kernels::device::Source;
use bulkhead_proto::{
    internal::{FromGpus, GpusAbsent, from_gpus::Message as Tell},
    packet,
};
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// How often GPUs are looked at.
pub const EVERY: Duration = Duration::from_secs(1);

/// Tells that there is nothing to watch.
///
/// # Errors
/// Nobody listens.
pub fn absent(reason: String, connection: &OwnedFd) -> io::Result<()> {
    tell(connection.as_fd(), Tell::Absent(GpusAbsent { reason }))
}

/// Looks and tells every [`EVERY`], and comes back once the other end is closed.
///
/// # Errors
/// The source is broken, in its own words.
pub fn watch(source: &mut impl Source, connection: &OwnedFd) -> io::Result<()> {
    let mut next = Instant::now();
    loop {
        let snapshot = source.look().map_err(io::Error::other)?;
        match tell(connection.as_fd(), Tell::Seen(wire::seen(&snapshot))) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            told => told?,
        }
        next = (next + EVERY).max(Instant::now());
        if closed_by(connection.as_fd(), next)? {
            return Ok(());
        }
    }
}

/// Tells once how GPUs are.
///
/// # Errors
/// The source is broken, or nobody listens.
pub fn tell_once(source: &mut impl Source, connection: BorrowedFd<'_>) -> io::Result<()> {
    let snapshot = source.look().map_err(io::Error::other)?;
    tell(connection, Tell::Seen(wire::seen(&snapshot)))
}

fn tell(connection: BorrowedFd<'_>, message: Tell) -> io::Result<()> {
    let message = FromGpus {
        message: Some(message),
    };
    packet::send(connection, &message, None)
}

/// Waits until `until`; true where the other end was closed before.
fn closed_by(connection: BorrowedFd<'_>, until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        // Rounded up: waking early would spin.
        let left = left + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        // Nothing is ever said to this process, so that what can be read is the end.
        match poll(&mut [PollFd::new(connection, PollFlags::POLLIN)], timeout) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
