//! Reads a worker's socket. Nothing that it says is judged here.

use super::{Heard, Message};
use crate::server::frames;
use bulkhead_core::WorkerId;
use bulkhead_proto::frame::FrameError;
use std::sync::Arc;
use tokio::{
    net::unix::OwnedReadHalf,
    sync::{Semaphore, mpsc},
};

/// Frames of one worker that may wait for the driver.
const FRAMES_WAITING_MAX: usize = 4;

/// Hands frames to the driver, a few at a time: a worker that floods waits for itself, not others
/// for it.
pub(super) async fn read_frames(
    worker: WorkerId,
    mut socket: OwnedReadHalf,
    inbox: mpsc::Sender<Message>,
) {
    let slots = Arc::new(Semaphore::new(FRAMES_WAITING_MAX));
    while let Ok(slot) = slots.clone().acquire_owned().await {
        let heard = match frames::from_worker(&mut socket).await {
            Ok(Some(frame)) => Heard::Frame(Box::new(frame)),
            Ok(None) | Err(FrameError::Io(_)) => Heard::End,
            Err(error) => {
                tracing::warn!(worker = worker.0, %error, "a worker spoke nonsense");
                Heard::Nonsense
            }
        };
        let ended = !matches!(heard, Heard::Frame(_));
        let message = Message::Worker {
            worker,
            heard,
            slot,
        };
        if inbox.send(message).await.is_err() || ended {
            return;
        }
    }
}
