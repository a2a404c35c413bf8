//! The load: an open loop at a pace, and a closed loop of as many as may be outstanding.
//!
//! Latencies of the open loop count from when a request was due. What fails is counted by its reason, and is no latency.

use super::caller::Caller;
use crate::Failure;
use bulkhead_client::{
    ClientError,
    load::{Latency, Reasons},
};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};
use tokio::{task::JoinSet, time::sleep_until};

/// How long the last answers are awaited.
const PATIENCE: Duration = Duration::from_secs(5);

/// What an open loop saw.
pub struct Seen {
    pub sent: usize,
    pub latency: Latency,
    pub failed: Reasons,
    /// How late the generator itself was.
    pub late: Latency,
}

impl Seen {
    /// Requests with an answer.
    pub fn answered(&self) -> usize {
        self.latency.requests
    }

    /// An error where any request has none.
    pub fn must_be_complete(&self, when: &str) -> Result<(), Failure> {
        match self.answered() == self.sent {
            true => Ok(()),
            false => Err(format!(
                "{when}: {} of {} were answered; {:?}",
                self.answered(),
                self.sent,
                self.failed
            )
            .into()),
        }
    }
}

/// What became of one request: how late it left, and its latency.
type Fate = (Duration, Result<Duration, ClientError>);

/// Sends `rps` requests a second, by all callers in turn.
///
/// The runtime's timer goes by milliseconds, so a request leaves up to one late, on either side; a thread that kept the
/// time better would take a third of a processor from both.
pub async fn paced(callers: &[Caller], rps: u32, lasts: Duration) -> Result<Seen, Failure> {
    let (every, begin) = (Duration::from_secs(1) / rps, Instant::now());
    let sent = (lasts.as_nanos() / every.as_nanos().max(1)) as u32;
    let (fates, heard) = mpsc::channel();
    let mut pacers = JoinSet::new();
    for (first, caller) in (0..).zip(callers) {
        let (caller, fates) = (caller.clone(), fates.clone());
        let turns = (first..sent).step_by(callers.len());
        pacers.spawn(async move {
            for nth in turns {
                let due = begin + every * nth;
                sleep_until(due.into()).await;
                tokio::spawn(one(caller.clone(), due, fates.clone()));
            }
        });
    }
    pacers.join_all().await;
    let seen = tokio::task::spawn_blocking(move || collect(sent as usize, &heard));
    seen.await.map_err(Failure::from)
}

async fn one(caller: Caller, due: Instant, fates: mpsc::Sender<Fate>) {
    let late = due.elapsed();
    let answer = caller.call().await;
    // Nobody listens once patience has ended.
    let _ = fates.send((late, answer.map(|()| due.elapsed())));
}

fn collect(sent: usize, heard: &mpsc::Receiver<Fate>) -> Seen {
    let (mut latencies, mut late, mut failed) = (Vec::new(), Vec::new(), Reasons::default());
    let until = Instant::now() + PATIENCE;
    for _ in 0..sent {
        let left = until.saturating_duration_since(Instant::now());
        let Ok((after, answer)) = heard.recv_timeout(left) else {
            break;
        };
        late.push(after);
        match answer {
            Ok(latency) => latencies.push(latency),
            Err(error) => failed.add(&error),
        }
    }
    Seen {
        sent,
        latency: Latency::of(latencies),
        failed,
        late: Latency::of(late),
    }
}

/// Keeps `outstanding` requests under way, shared out among all callers. Returns how many were answered in `lasts`.
pub async fn saturated(
    callers: &[Caller],
    outstanding: u32,
    lasts: Duration,
) -> Result<usize, Failure> {
    let (answered, over) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let failed = Arc::new(Mutex::new(Reasons::default()));
    let mut senders = JoinSet::new();
    for nth in 0..outstanding as usize {
        let caller = callers[nth % callers.len()].clone();
        let (answered, over, failed) = (answered.clone(), over.clone(), failed.clone());
        senders.spawn(async move {
            while !over.load(Ordering::Relaxed) {
                match caller.clone().call().await {
                    Ok(()) => drop(answered.fetch_add(1, Ordering::Relaxed)),
                    Err(error) => {
                        if let Ok(mut failed) = failed.lock() {
                            failed.add(&error);
                        }
                        return;
                    }
                }
            }
        });
    }
    tokio::time::sleep(lasts).await;
    let count = answered.load(Ordering::Relaxed);
    over.store(true, Ordering::Relaxed);
    senders.join_all().await;
    let failed = failed
        .lock()
        .map(|failed| failed.clone())
        .unwrap_or_default();
    match failed.total() {
        0 => Ok(count),
        n => Err(format!("{n} requests failed: {failed:?}").into()),
    }
}
