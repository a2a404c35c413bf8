//! What the process that watches GPUs says, on its way to the driver. Nothing is concluded here.

use super::driver::{GpusWord, Message};
use bulkhead_gpus::wire;
use bulkhead_proto::{
    internal::{FromGpus, from_gpus},
    packet,
};
use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};
use tokio::{io::Interest, net::UnixStream, sync::mpsc};

/// Hears it until it ends, or says what is no message. The launcher says when it is gone.
pub async fn hear(socket: OwnedFd, driver: mpsc::Sender<Message>) {
    if let Err(error) = listen(socket, driver).await {
        tracing::error!(%error, "the process that watches GPUs is not heard any more");
    }
}

async fn listen(socket: OwnedFd, driver: mpsc::Sender<Message>) -> io::Result<()> {
    // A packet socket, wrapped as a stream only for tokio's readiness: nothing reads it as one.
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixStream::from_std(socket)?;
    loop {
        let packet = || packet::recv::<FromGpus>(socket.as_fd());
        let Some((said, _)) = socket.async_io(Interest::READABLE, packet).await? else {
            return Ok(());
        };
        let word = match said.message {
            Some(from_gpus::Message::Seen(seen)) => GpusWord::Seen(wire::snapshot(seen)),
            Some(from_gpus::Message::Absent(absent)) => GpusWord::Absent(absent.reason),
            None => return Err(io::ErrorKind::InvalidData.into()),
        };
        if driver.send(Message::Gpus(word)).await.is_err() {
            return Ok(());
        }
    }
}
