//! Reads a worker's socket, no faster than anybody could have something to say. Nothing that it says is judged here.
//!
//! Hearing a frame takes a part of the driver's time, which is everybody's: for the frame, for each thing in it, and for its
//! bytes. So a worker has a pace of such time, by rough costs: what counts is that no frame is cheap for what is in it.

use super::{Heard, Message};
use crate::server::frames::{self, Spoken};
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

/// Nanoseconds for each frame, each entry (a piece, an end, a vector, a token's alternative), and each byte.
const FRAME_NS: u64 = 20_000;
const ENTRY_NS: u64 = 1_000;
const BYTE_NS: u64 = 2;
/// What may come at once: so many small frames.
const AT_ONCE_NS: u64 = 64 * FRAME_NS;

/// When the next frame of a worker is due (the generic cell rate algorithm, ITU-T I.371).
#[derive(Default)]
struct Pace {
    due_ns: u64,
}

impl Pace {
    /// One of this cost comes now. Returns how long it has to wait for those before it, nanoseconds.
    fn wait_ns(&mut self, now_ns: u64, cost_ns: u64) -> u64 {
        let due_ns = self.due_ns.max(now_ns.saturating_sub(AT_ONCE_NS));
        self.due_ns = due_ns.saturating_add(cost_ns);
        due_ns.saturating_sub(now_ns)
    }
}

fn cost_ns(spoken: &Spoken) -> u64 {
    FRAME_NS + ENTRY_NS * spoken.entries as u64 + BYTE_NS * spoken.bytes as u64
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
        let (heard, cost_ns) = match frames::from_worker(&mut socket).await {
            Ok(Some(spoken)) => {
                let cost_ns = cost_ns(&spoken);
                (Heard::Frame(Box::new(spoken.message)), cost_ns)
            }
            Ok(None) | Err(FrameError::Io(_)) => (Heard::End, FRAME_NS),
            Err(error) => {
                tracing::warn!(worker = worker.0, %error, "a worker spoke nonsense");
                (Heard::Nonsense, FRAME_NS)
            }
        };
        let ended = !matches!(heard, Heard::Frame(_));
        let now_ns = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let wait_ns = pace.wait_ns(now_ns, cost_ns);
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
    use bulkhead_proto::internal::FromWorker;

    #[test]
    fn no_more_frames_are_heard_than_their_time_and_a_few_at_once() {
        let mut pace = Pace::default();
        let now_ns = 1_000 * FRAME_NS;
        let at_once = AT_ONCE_NS / FRAME_NS;
        let waits = (0..at_once + 4).map(|_| pace.wait_ns(now_ns, FRAME_NS));
        let waits: Vec<u64> = waits.filter(|wait_ns| *wait_ns > 0).collect();
        assert_eq!(waits, [1, 2, 3].map(|nth| nth * FRAME_NS));
        assert_eq!(pace.wait_ns(now_ns + 4 * FRAME_NS, FRAME_NS), 0);
    }

    /// Fails where a frame is a frame, whatever is in it.
    #[test]
    fn what_follows_a_large_frame_waits_for_what_that_took() {
        let of = |entries, bytes| {
            cost_ns(&Spoken {
                message: FromWorker::default(),
                entries,
                bytes,
            })
        };
        let (pieces_ns, text_ns) = (of(8_000, 80_000), of(2, 8 << 20));
        assert!(pieces_ns >= 8_000_000 && text_ns >= 16_000_000);
        let (mut pace, now_ns) = (Pace::default(), 1_000 * FRAME_NS);
        assert_eq!(pace.wait_ns(now_ns, pieces_ns), 0);
        assert_eq!(pace.wait_ns(now_ns, FRAME_NS), pieces_ns - AT_ONCE_NS);
    }
}
