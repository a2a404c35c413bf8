//! The reader thread: frames from the socket into a bounded channel.
//!
//! It exists so that a yield or a cancel is seen at the next step boundary while the compute thread
//! computes. It is started before the seal (no thread can be made after), decides nothing, and ends the
//! process when the scheduler is gone or breaks the protocol.

use crate::evidence::STACK_BYTES;
use crate::process;
use bulkhead_kernels::stack;
use bulkhead_proto::frame::{self, FrameError};
use bulkhead_proto::internal::{ToWorker, to_worker::Message};
use crossbeam::channel::{Receiver, bounded};
use std::io;
use std::os::unix::net::UnixStream;
use std::thread;

/// Frames that wait for the compute thread. When they are this many, the socket waits too.
const FRAMES_MAX: usize = 32;

/// Exit code when the other side broke the protocol.
pub const EXIT_PROTOCOL: i32 = 2;

/// Starts reading. Each message is handed over once, in order.
pub fn start(mut socket: UnixStream) -> io::Result<Receiver<Message>> {
    let (sender, receiver) = bounded(FRAMES_MAX);
    let reader = move || {
        loop {
            let message = next(&mut socket);
            // Decoding left pieces of the frame below this call.
            stack::scrub(STACK_BYTES);
            if sender.send(message).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("inbox".to_owned())
        .spawn(reader)?;
    Ok(receiver)
}

/// The next message; ends the process where there is none.
fn next(socket: &mut UnixStream) -> Message {
    match frame::read::<ToWorker>(socket) {
        Ok(Some(ToWorker {
            message: Some(message),
        })) => message,
        Ok(None) => process::hang_up(),
        Ok(Some(ToWorker { message: None })) => broken("a frame of no known kind"),
        Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
            process::hang_up()
        }
        // A decoding error names a field, never its content.
        Err(error) => broken(&error.to_string()),
    }
}

/// Ends the process: the other side broke the protocol.
pub fn broken(why: &str) -> ! {
    process::say(format_args!(
        "the scheduler broke the protocol: {why}; ending"
    ));
    process::end(EXIT_PROTOCOL)
}
