//! The open loop: requests leave on a fixed schedule, whether earlier ones were answered or not.
//!
//! A latency counts from the time that the schedule named, so that a generator that is late itself
//! counts as waiting. What is still unanswered at the end counts with at least its age: leaving it out
//! would make a server that answers nothing look quick. What failed is counted apart, by reason.

use super::{Latency, Reasons};
use crate::error::ClientError;
use serde::Serialize;
use std::time::Duration;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};

/// When requests leave, and how long their answers are awaited.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// One request each.
    pub every: Duration,
    /// The first leaves at once, none after this.
    pub lasts: Duration,
    /// How long the last answers are awaited once nothing leaves any more.
    pub patience: Duration,
}

/// What an open loop saw.
#[derive(Clone, Debug, Default, Serialize)]
pub struct OpenLoop {
    /// Of what was answered, and of what was not when patience ended, with its age.
    pub latency: Latency,
    pub answered: usize,
    pub unanswered: usize,
    pub failed: Reasons,
}

impl OpenLoop {
    /// True where every request was answered.
    pub fn complete(&self) -> bool {
        self.unanswered == 0 && self.failed.total() == 0
    }
}

/// Sends by the schedule until it ends. `send` makes one request and ends with its answer.
pub async fn open_loop<F, A>(schedule: Schedule, mut send: F) -> OpenLoop
where
    F: FnMut() -> A,
    A: Future<Output = Result<(), ClientError>> + Send + 'static,
{
    let start = Instant::now();
    let end = start + schedule.lasts;
    let mut requests = JoinSet::new();
    let mut sent = Vec::new();
    let mut due = start;
    while due < end {
        sleep_until(due).await;
        let (index, answer) = (sent.len(), send());
        requests.spawn(async move {
            let answer = answer.await;
            (index, answer.map(|()| due.elapsed()))
        });
        sent.push(Some(due));
        due += schedule.every;
    }
    collect(requests, sent, end + schedule.patience).await
}

/// Takes answers until all are there or patience ends. `sent` holds when each request was due.
async fn collect(
    mut requests: JoinSet<(usize, Result<Duration, ClientError>)>,
    mut sent: Vec<Option<Instant>>,
    patience_ends: Instant,
) -> OpenLoop {
    let mut seen = OpenLoop::default();
    let mut samples = Vec::with_capacity(sent.len());
    while let Ok(Some(ended)) = timeout_at(patience_ends, requests.join_next()).await {
        // A request that panicked stays in `sent`, and counts as unanswered.
        let Ok((index, answer)) = ended else { continue };
        sent[index] = None;
        match answer {
            Ok(latency) => samples.push(latency),
            Err(error) => seen.failed.add(&error),
        }
    }
    seen.answered = samples.len();
    samples.extend(sent.into_iter().flatten().map(|due| due.elapsed()));
    seen.unanswered = samples.len() - seen.answered;
    seen.latency = Latency::of(samples);
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::timeout;

    const SCHEDULE: Schedule = Schedule {
        every: Duration::from_millis(100),
        lasts: Duration::from_secs(1),
        patience: Duration::from_secs(5),
    };

    /// A server's work: it takes this long and is then done.
    async fn work(takes: Duration) -> Result<(), ClientError> {
        let _done = timeout(takes, pending::<()>()).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn requests_leave_on_time_however_slow_the_answers_are() {
        let start = Instant::now();
        let mut left = Vec::new();
        let seen = open_loop(SCHEDULE, || {
            left.push(start.elapsed().as_millis());
            work(Duration::from_millis(450))
        })
        .await;
        assert_eq!(left, (0..10).map(|n| n * 100).collect::<Vec<_>>());
        assert!(seen.complete(), "{seen:?}");
        assert_eq!((seen.latency.p50_ms, seen.latency.max_ms), (450.0, 450.0));
    }

    /// A closed loop would report 1 s for one request and nothing for those it never sent.
    #[tokio::test(start_paused = true)]
    async fn a_stall_is_felt_by_all_that_were_due_in_it() {
        let stall_ends = Instant::now() + Duration::from_secs(1);
        let seen = open_loop(SCHEDULE, || work(stall_ends - Instant::now())).await;
        assert_eq!((seen.latency.p50_ms, seen.latency.max_ms), (500.0, 1000.0));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_never_answered_counts_with_its_age() {
        let seen = open_loop(SCHEDULE, pending).await;
        assert_eq!((seen.answered, seen.unanswered), (0, 10));
        assert_eq!(seen.latency.max_ms, 6000.0, "sent at 0 s, given up at 6 s");
        assert_eq!(seen.latency.p50_ms, 5500.0);
        assert!(!seen.complete());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_no_latencies() {
        let mut n = 0;
        let seen = open_loop(SCHEDULE, || {
            n += 1;
            let fails = n % 2 == 0;
            async move {
                work(Duration::from_millis(10)).await?;
                match fails {
                    true => Err(ClientError::TimedOut { seconds: 1 }),
                    false => Ok(()),
                }
            }
        })
        .await;
        assert_eq!((seen.answered, seen.failed.total()), (5, 5));
        assert_eq!(seen.latency.requests, 5);
        assert!(!seen.complete());
    }
}
