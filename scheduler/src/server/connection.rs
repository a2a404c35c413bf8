//! Knows when a connection is of no use: it has had no request for a while, or an answer that its client does not read. The
//! one is closed; of the other that answer alone ends, or over HTTP/1 its connection. How answers leave, and when one is left
//! unread, is `leaving`'s. How long an answer takes to be made is no matter here.

mod leaving;

use bytes::Bytes;
use http::Version;
use http_body::Body;
use hyper::{body::Incoming, rt::Executor, service::Service};
pub use leaving::{Leaving, ON_THE_WAY_MAX};
use parking_lot::Mutex;
use std::{collections::HashMap, future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{sync::Notify, time::Instant};

/// For each piece a client has so long, times the requests that share its connection, before its patience is tried: 16 KiB a
/// second of all of them together.
const TIME_OF_PIECE: Duration = Duration::from_secs(1);
/// A connection that takes nothing at all for so long after a stream was cut is closed: what was cut is still on its way.
const STUCK_MAX: Duration = Duration::from_secs(5);
/// How often it is looked at whether an answer has been left for too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A connection's requests.
#[derive(Clone)]
pub struct Activity {
    state: Arc<Mutex<State>>,
    /// For how long a client may leave an answer where it is, all pauses together.
    patience: Duration,
}

struct State {
    running: usize,
    /// When the last one came or ended.
    since: Instant,
    next: u64,
    /// Ends the stream of the request that came last, until that stream is begun.
    coming: Option<Arc<Notify>>,
    /// Answers of which something is on its way.
    unread: HashMap<u64, Unread>,
    /// Bytes of all answers that are on their way.
    bytes: usize,
    /// Since when none of them has arrived, once a stream was cut.
    stuck_since: Option<Instant>,
}

struct Unread {
    until: Instant,
    /// Ends its stream; none where it has its connection to itself.
    cut: Option<Arc<Notify>>,
}

impl State {
    /// How long a piece may take to arrive where its client reads: those of all requests take turns.
    fn for_a_piece(&self) -> Duration {
        TIME_OF_PIECE * u32::try_from(self.running).unwrap_or(u32::MAX).max(1)
    }
}

impl Activity {
    /// `patience`: for how long a client may leave an answer where it is.
    pub fn new(patience: Duration) -> Self {
        let state = State {
            running: 0,
            since: Instant::now(),
            next: 0,
            coming: None,
            unread: HashMap::new(),
            bytes: 0,
            stuck_since: None,
        };
        Activity {
            state: Arc::new(Mutex::new(state)),
            patience,
        }
    }

    fn enter(&self, version: Version) -> Running {
        let cut = (version == Version::HTTP_2).then(Arc::<Notify>::default);
        let mut state = self.state.lock();
        state.running += 1;
        state.since = Instant::now();
        state.next += 1;
        state.coming = cut.clone();
        Running {
            activity: self.clone(),
            number: state.next,
            cut,
        }
    }

    /// Ends when nothing has run for `period`.
    pub async fn idle_for(&self, period: Duration) {
        loop {
            let until = {
                let state = self.state.lock();
                match state.running {
                    0 => state.since + period,
                    _ => Instant::now() + period,
                }
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }

    /// Ends the streams of answers that are left unread for too long, and itself where such a one has the connection to
    /// itself, or nothing that is on the connection arrives. `told` for each.
    pub async fn unread(&self, told: impl Fn()) {
        loop {
            let now = Instant::now();
            for unread in self.take_unread(now) {
                told();
                match unread.cut {
                    Some(cut) => cut.notify_one(),
                    None => return,
                }
            }
            if self.is_stuck(now) {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn take_unread(&self, now: Instant) -> Vec<Unread> {
        let mut state = self.state.lock();
        let due = state.unread.extract_if(|_, unread| unread.until <= now);
        let due: Vec<Unread> = due.map(|(_, unread)| unread).collect();
        if !due.is_empty() {
            state.stuck_since.get_or_insert(now);
        }
        due
    }

    fn is_stuck(&self, now: Instant) -> bool {
        let state = self.state.lock();
        let since = state.stuck_since.filter(|_| state.bytes > 0);
        since.is_some_and(|since| now - since >= STUCK_MAX)
    }
}

/// Runs each stream until it ends, or until it is cut.
#[derive(Clone)]
pub struct Streams(pub Activity);

impl<F> Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    /// The transport calls this right after it called the service with the stream's request.
    fn execute(&self, stream: F) {
        let cut = self.0.state.lock().coming.take();
        tokio::spawn(async move {
            match cut {
                None => drop(stream.await),
                Some(cut) => tokio::select! {
                    _ = stream => {}
                    () = cut.notified() => {}
                },
            }
        });
    }
}

/// A request that runs; dropping it ends it.
struct Running {
    activity: Activity,
    number: u64,
    cut: Option<Arc<Notify>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.activity.state.lock();
        state.running -= 1;
        state.since = Instant::now();
    }
}

/// A service whose requests are counted until their response's body has ended.
pub struct Watched<S> {
    inner: S,
    activity: Activity,
}

impl<S> Watched<S> {
    /// Counts the requests of `inner` in `activity`.
    pub fn new(inner: S, activity: Activity) -> Self {
        Watched { inner, activity }
    }
}

impl<S, B> Service<http::Request<Incoming>> for Watched<S>
where
    S: Service<http::Request<Incoming>, Response = http::Response<B>>,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Response = http::Response<Leaving<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let running = self.activity.enter(request.version());
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            let booked = response.extensions_mut().remove();
            Ok(response.map(|body| Leaving::new(body, running, booked)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_nothing_runs() {
        let period = Duration::from_secs(10);
        let activity = Activity::new(period);
        let running = activity.enter(Version::HTTP_2);
        let waited = timeout(period * 5, activity.idle_for(period)).await;
        assert!(waited.is_err());
        drop(running);
        let start = Instant::now();
        activity.idle_for(period).await;
        assert_eq!(start.elapsed(), period);
    }
}
