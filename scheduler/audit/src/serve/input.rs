//! The reading side: frames off the socket, into a bounded channel, and nothing else.

use bulkhead_proto::frame::{self, FrameError, HEADER_BYTES};
use bulkhead_proto::internal::ToAudit;
use crossbeam::channel::{Receiver, Sender, bounded};
use prost::Message as _;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::thread;
use zeroize::Zeroize as _;

/// Messages that may wait for the writer; more wait in the socket, and then in the scheduler.
pub const WAITING_MESSAGES_MAX: usize = 64;

/// What the writer is told.
pub enum Input {
    /// A message of the scheduler.
    Message(ToAudit),
    /// The scheduler hung up in good order.
    End,
    /// The connection broke.
    Broken(FrameError),
    /// The process was asked to terminate.
    Terminate,
}

/// The channel between readers and the writer.
pub fn channel() -> (Sender<Input>, Receiver<Input>) {
    bounded(WAITING_MESSAGES_MAX)
}

/// Starts the thread that reads a connection to its end.
pub fn spawn_reader(mut socket: UnixStream, inputs: Sender<Input>) -> io::Result<()> {
    let read = move || {
        let mut buffer = Vec::new();
        loop {
            let input = match read_message(&mut socket, &mut buffer) {
                Ok(Some(message)) => Input::Message(message),
                Ok(None) => Input::End,
                Err(FrameError::Io(error)) if hung_up(&error) => Input::End,
                Err(error) => Input::Broken(error),
            };
            buffer.zeroize();
            let last = !matches!(input, Input::Message(_));
            // A writer that is gone wants nothing more.
            if inputs.send(input).is_err() || last {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("audit-reader".into())
        .spawn(read)
        .map(drop)
}

/// Whether a peer is gone, if need be in the middle of a frame: killed, say. Nobody was promised what
/// that frame held.
fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset
    )
}

/// As `frame::read`, but into a buffer that is zeroed afterwards: it holds plaintext.
fn read_message(
    socket: &mut impl Read,
    buffer: &mut Vec<u8>,
) -> Result<Option<ToAudit>, FrameError> {
    let mut header = [0; HEADER_BYTES];
    let first = loop {
        match socket.read(&mut header) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => break other?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut header[first..])?;
    let length = frame::length(header)?;
    // Exact, so that growing never leaves a copy behind.
    buffer.reserve_exact(length);
    buffer.resize(length, 0);
    socket.read_exact(buffer)?;
    Ok(Some(ToAudit::decode(buffer.as_slice())?))
}
