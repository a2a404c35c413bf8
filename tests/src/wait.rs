//! Waiting for a condition, with a bound: the only place in the tests where time passes by itself.
//!
//! A fixed sleep is too short on a busy machine and too long on every other one. Nothing waits without
//! a limit, and the limit's message says what was waited for.

use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(20);

/// Probes until `probe` gives a value, and panics with `what` after `limit`.
pub async fn eventually<T>(
    limit: Duration,
    what: &str,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe().await {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// Awaits `work`, and panics with `what` after `limit`.
pub async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(limit, work).await {
        Ok(value) => value,
        Err(_) => panic!("not within {limit:?}: {what}"),
    }
}
