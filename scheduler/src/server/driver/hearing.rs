//! Reads a worker's socket, no faster than anybody could have something to say. Nothing that it says is judged here.

use super::{Heard, Message};
use crate::server::frames;
use bulkhead_core::WorkerId;
use bulkhead_proto::frame::FrameError;
use std::{sync::Arc, time::Duration};
use tokio::{
    net::unix::OwnedReadHalf,
    sync::{Semaphore, mpsc},
    time::{Instant, sleep},
};

/// Frames of one worker that may wait for the driver.
const FRAMES_WAITING_MAX: usize = 4;

/// Nanoseconds for each frame, and how many may come at once: hearing one takes a part of the driver's time, which is
/// everybody's, and a step of the null model takes twice as long.
const FRAME_NS: u64 = 20_000;
const FRAMES_AT_ONCE: u64 = 64;

/// When the next frame of a worker is due (the generic cell rate algorithm, ITU-T I.371).
#[derive(Default)]
struct Pace {
    due_ns: u64,
}

impl Pace {
    /// One comes now. Returns how long it has to wait, nanoseconds.
    fn wait_ns(&mut self, now_ns: u64) -> u64 {
        let idle_ns = now_ns.saturating_sub(FRAMES_AT_ONCE * FRAME_NS);
        self.due_ns = self.due_ns.max(idle_ns) + FRAME_NS;
        self.due_ns.saturating_sub(now_ns)
    }
}

/// Hands frames to the driver, a few at a time and at a pace: a worker that floods waits for itself, not others
/// for it.
pub(super) async fn read_frames(
    worker: WorkerId,
    mut socket: OwnedReadHalf,
    inbox: mpsc::Sender<Message>,
) {
    let slots = Arc::new(Semaphore::new(FRAMES_WAITING_MAX));
    let (began, mut pace) = (Instant::now(), Pace::default());
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
        let now_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let wait_ns = pace.wait_ns(now_ns);
        if wait_ns > 0 {
            sleep(Duration::from_nanos(wait_ns)).await;
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_frames_are_heard_than_their_time_and_a_few_at_once() {
        let mut pace = Pace::default();
        let now_ns = 1_000 * FRAME_NS;
        let at_once = (0..FRAMES_AT_ONCE + 3).map(|_| pace.wait_ns(now_ns));
        let waits: Vec<u64> = at_once.filter(|wait_ns| *wait_ns > 0).collect();
        assert_eq!(waits, [1, 2, 3].map(|nth| nth * FRAME_NS));
        assert_eq!(pace.wait_ns(now_ns + 4 * FRAME_NS), 0);
    }
}
