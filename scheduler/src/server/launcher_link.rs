//! The scheduler's side of the socket to the launcher: packets with descriptors beside them.

use bulkhead_proto::{
    internal::{FromLauncher, ToLauncher},
    packet,
};
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};
use tokio::{io::Interest, net::UnixStream, sync::mpsc};

/// Packets that may wait for this process.
const WAITING_MAX: usize = 256;

/// What the launcher said.
pub struct Said {
    pub message: FromLauncher,
    pub descriptor: Option<OwnedFd>,
}

/// Starts reading and writing. The receiver ends when the launcher is gone.
pub fn start(
    socket: OwnedFd,
) -> io::Result<(mpsc::UnboundedSender<ToLauncher>, mpsc::Receiver<Said>)> {
    // A packet socket, wrapped as a stream only for tokio's readiness: nothing reads it as one.
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    let socket = Arc::new(UnixStream::from_std(socket)?);
    let (sender, mut to_send) = mpsc::unbounded_channel::<ToLauncher>();
    let (said, receiver) = mpsc::channel(WAITING_MAX);

    let reader = socket.clone();
    tokio::spawn(async move {
        loop {
            let packet = reader
                .async_io(Interest::READABLE, || {
                    packet::recv::<FromLauncher>(reader.as_fd())
                })
                .await;
            match packet {
                Ok(Some((message, descriptor))) => {
                    if said
                        .send(Said {
                            message,
                            descriptor,
                        })
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, "lost the launcher");
                    return;
                }
            }
        }
    });
    tokio::spawn(async move {
        while let Some(message) = to_send.recv().await {
            let sent = socket
                .async_io(Interest::WRITABLE, || {
                    packet::send(socket.as_fd(), &message, None)
                })
                .await;
            if let Err(error) = sent {
                tracing::error!(%error, "cannot reach the launcher");
                return;
            }
            if matches!(
                message.message,
                Some(bulkhead_proto::internal::to_launcher::Message::Drained(_))
            ) {
                return;
            }
        }
    });
    Ok((sender, receiver))
}
