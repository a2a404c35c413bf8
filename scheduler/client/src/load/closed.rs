//! The closed-loop flood: as many senders as may be outstanding, each sending again at once.
//!
//! A sender that is refused waits as long as the server said, within bounds, as a client with manners
//! would; one without any is no harder on the server, since a refusal costs it less than a request.

use super::Reasons;
use crate::error::ClientError;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::task::JoinSet;

/// The least pause after a refusal, and the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// What a flood got so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    pub answers: u64,
    /// What the senders said each answer was worth: texts, tokens or bytes.
    pub units: u64,
    pub refused: Reasons,
}

impl Served {
    /// What came since `earlier` was taken of the same flood.
    pub fn since(&self, earlier: &Served) -> Served {
        Served {
            answers: self.answers.saturating_sub(earlier.answers),
            units: self.units.saturating_sub(earlier.units),
            refused: self.refused.since(&earlier.refused),
        }
    }
}

/// Requests that go on until this is dropped.
pub struct Flood {
    served: Arc<Mutex<Served>>,
    _senders: JoinSet<()>,
}

impl Flood {
    /// Begins with these senders. Each makes one request at a time, and says what its answer was
    /// worth.
    pub fn begin<S, A>(senders: impl IntoIterator<Item = S>) -> Flood
    where
        S: Fn() -> A + Send + 'static,
        A: Future<Output = Result<u64, ClientError>> + Send + 'static,
    {
        let served = Arc::new(Mutex::new(Served::default()));
        let pouring = senders
            .into_iter()
            .map(|send| pour(send, Arc::clone(&served)));
        Flood {
            _senders: pouring.collect(),
            served,
        }
    }

    /// What it got so far. Take it twice and ask for the difference to measure a span.
    pub fn served(&self) -> Served {
        self.served
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// One request after the other.
async fn pour<S, A>(send: S, served: Arc<Mutex<Served>>)
where
    S: Fn() -> A + Send + 'static,
    A: Future<Output = Result<u64, ClientError>> + Send + 'static,
{
    loop {
        let pause = count(send().await, &served);
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
    }
}

/// Counts an answer. Returns how long to wait before the next request.
fn count(answer: Result<u64, ClientError>, served: &Mutex<Served>) -> Option<Duration> {
    let mut served = served.lock().unwrap_or_else(PoisonError::into_inner);
    match answer {
        Ok(units) => {
            served.answers += 1;
            served.units += units;
            None
        }
        Err(error) => {
            served.refused.add(&error);
            let pause = error.retry_after().unwrap_or(BACK_OFF_MIN);
            Some(pause.clamp(BACK_OFF_MIN, BACK_OFF_MAX))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;
    use tokio::time::timeout;

    /// Lets virtual time pass.
    async fn pass(time: Duration) {
        let _passed = timeout(time, pending::<()>()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn each_sender_has_one_request_out_at_a_time() {
        let sender = || async {
            pass(Duration::from_millis(100)).await;
            Ok(32)
        };
        let flood = Flood::begin(vec![sender; 4]);
        pass(Duration::from_millis(950)).await;
        let first = flood.served();
        assert_eq!((first.answers, first.units), (36, 36 * 32));
        pass(Duration::from_secs(1)).await;
        assert_eq!(flood.served().since(&first).answers, 40);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_counted_and_wait_before_the_next_try() {
        let refused = || async { Err(ClientError::TimedOut { seconds: 1 }) };
        let flood = Flood::begin([refused]);
        pass(Duration::from_millis(995)).await;
        let served = flood.served();
        assert_eq!((served.answers, served.refused.total()), (0, 50));
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_it_is_dropped() {
        let held = Arc::new(());
        let alive = Arc::clone(&held);
        let flood = Flood::begin([move || {
            let alive = Arc::clone(&alive);
            async move {
                pass(Duration::from_secs(1)).await;
                drop(alive);
                Ok(1)
            }
        }]);
        pass(Duration::from_millis(1500)).await;
        drop(flood);
        pass(Duration::from_millis(1)).await;
        assert_eq!(Arc::strong_count(&held), 1);
    }
}
