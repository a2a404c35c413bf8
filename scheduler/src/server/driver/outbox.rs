//! What goes to a worker: gathered, then written with one call where its socket has room, else by a task as room comes. In
//! order either way.
//!
//! A hand-over to a task would cost each lease a turn of the driver, and two calls would wake the worker twice. Nothing here
//! waits for a worker that does not read.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::{net::unix::OwnedWriteHalf, sync::mpsc};

/// The way to one worker. Once it is dropped, what was flushed is still written.
pub(super) struct Outbox {
    socket: Arc<OwnedWriteHalf>,
    /// Frames that were put and not flushed.
    gathered: Vec<u8>,
    rest: mpsc::UnboundedSender<Vec<u8>>,
    /// Bytes that the task has not written yet: until it has, nothing may overtake them.
    waiting: Arc<AtomicUsize>,
}

impl Outbox {
    /// Over a worker's socket. Whoever puts frames looks at what is unread.
    pub(super) fn new(socket: OwnedWriteHalf) -> Outbox {
        let (socket, waiting) = (Arc::new(socket), Arc::new(AtomicUsize::new(0)));
        let (rest, frames) = mpsc::unbounded_channel();
        tokio::spawn(write_rest(socket.clone(), frames, waiting.clone()));
        Outbox {
            socket,
            gathered: Vec::new(),
            rest,
            waiting,
        }
    }

    /// Takes a frame. True where it is the first since the last flush: one is due.
    pub(super) fn put(&mut self, frame: Vec<u8>) -> bool {
        if self.gathered.is_empty() {
            self.gathered = frame;
            return true;
        }
        self.gathered.extend(frame);
        false
    }

    /// Bytes that its socket had no room for, and those that were not tried yet.
    pub(super) fn unread(&self) -> usize {
        self.gathered.len() + self.waiting.load(Ordering::Acquire)
    }

    /// Sends what was put. A closed socket shows as the worker's death, which the core is told of.
    pub(super) fn flush(&mut self) {
        let mut frames = std::mem::take(&mut self.gathered);
        if frames.is_empty() {
            return;
        }
        if self.waiting.load(Ordering::Acquire) == 0 {
            match self.socket.try_write(&frames) {
                Ok(written) if written == frames.len() => return,
                Ok(written) => drop(frames.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
        self.waiting.fetch_add(frames.len(), Ordering::AcqRel);
        // Its task ends only where the socket is closed.
        let _ = self.rest.send(frames);
    }
}

async fn write_rest(
    socket: Arc<OwnedWriteHalf>,
    mut frames: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
) {
    while let Some(frame) = frames.recv().await {
        if write_all(&socket, &frame).await.is_err() {
            return;
        }
        waiting.fetch_sub(frame.len(), Ordering::AcqRel);
    }
}

async fn write_all(socket: &OwnedWriteHalf, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        socket.writable().await?;
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{io::AsyncReadExt, net::UnixStream};

    /// Frames far larger than a socket's buffer, and small ones behind them, before anything is read.
    #[tokio::test]
    async fn what_does_not_fit_at_once_comes_whole_and_in_order() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut outbox = Outbox::new(ours.into_split().1);
        let frames = (0..20u8).map(|n| vec![n; if n % 3 == 0 { 1 << 20 } else { 10 }]);
        let sent: Vec<u8> = frames.clone().flatten().collect();
        for (nth, frame) in frames.enumerate() {
            outbox.put(frame);
            if nth % 2 == 1 {
                outbox.flush();
            }
        }
        drop(outbox);
        let mut got = Vec::new();
        theirs.read_to_end(&mut got).await.expect("it ends");
        assert!(got == sent, "{} of {} bytes", got.len(), sent.len());
    }
}
