//! What the scheduler says, read by the thread that computes: between two steps, and where there is nothing to do.
//!
//! No thread of its own reads ahead: a message is of use at a step's boundary and not before, and a hand-over between
//! threads would cost more than reading does. Until then it waits in the socket. Nothing is decided here.

use crate::serve::ServeError;
use bulkhead_kernels::stack;
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::{ToWorker, to_worker::Message};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Bytes of dead stack that are overwritten after a frame was decoded: several times what decoding uses. What is deeper is
/// overwritten when the job ends.
const STACK_BYTES: usize = 32 << 10;

/// Whether there is something to be read, be it the end, at once or within `patience`.
pub fn waits(socket: &UnixStream, patience: Duration) -> io::Result<bool> {
    // Rounded up: to wake early would be to look again at once.
    let ms = patience.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX);
    let mut watched = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    match poll(&mut watched, timeout) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// The next message; waits for it.
pub fn next(socket: &mut UnixStream) -> Result<Message, ServeError> {
    let gone = |kind: io::ErrorKind| ServeError::Socket(kind.into());
    match frame::read::<ToWorker>(socket) {
        Ok(Some(ToWorker {
            message: Some(message),
        })) => {
            if matches!(message, Message::Work(_)) {
                // Decoding left pieces of texts below this call.
                stack::scrub(STACK_BYTES);
            }
            Ok(message)
        }
        Ok(Some(ToWorker { message: None })) => {
            Err(ServeError::Protocol("a frame of no known kind"))
        }
        Ok(None) => Err(gone(io::ErrorKind::BrokenPipe)),
        Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            Err(gone(error.kind()))
        }
        Err(error) => Err(ServeError::Frame(error)),
    }
}
