//! Knows when a connection is to be closed: it has had no request for a while, or an answer that its client does not read.
//!
//! An answer leaves in pieces, the next once there is room for it: what a client has not taken stays in its body, where it
//! is counted, and a client that takes nothing shows. How long an answer takes to be made is no matter of this file.

use super::buffers::Held;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, service::Service};
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::time::Instant;

/// Bytes of a piece, as many as one frame of HTTP/2 has room for.
const PIECE_BYTES: usize = 16 << 10;
/// For how long a client may leave an answer where it is, all pauses together, and how much longer for each piece that it
/// takes: 64 KiB a second.
const UNREAD_MAX: Duration = Duration::from_secs(30);
const UNREAD_FOR_PIECE: Duration = Duration::from_millis(250);
/// How often it is looked at whether one has been left for too long.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A connection's requests.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<State>>);

struct State {
    running: usize,
    /// When the last one came or ended.
    since: Instant,
    next: u64,
    /// Those of whose answers a piece has left and no more was asked for, and until when that may be.
    unread: HashMap<u64, Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity(Arc::new(Mutex::new(State {
            running: 0,
            since: Instant::now(),
            next: 0,
            unread: HashMap::new(),
        })))
    }
}

impl Activity {
    fn enter(&self) -> Running {
        let mut state = self.0.lock();
        state.running += 1;
        state.since = Instant::now();
        state.next += 1;
        Running {
            activity: self.clone(),
            number: state.next,
        }
    }

    /// Ends when nothing has run for `period`.
    pub async fn idle_for(&self, period: Duration) {
        loop {
            let until = {
                let state = self.0.lock();
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

    /// Ends when an answer was left unread for too long.
    pub async fn unread(&self) {
        loop {
            let first = self.0.lock().unread.values().min().copied();
            let now = Instant::now();
            if first.is_some_and(|until| until <= now) {
                return;
            }
            let look = now + LOOK_EVERY;
            tokio::time::sleep_until(first.unwrap_or(look).min(look)).await;
        }
    }
}

/// A request that runs; dropping it ends it.
struct Running {
    activity: Activity,
    number: u64,
}

impl Running {
    fn left(&self, until: Instant) {
        let mut state = self.activity.0.lock();
        state.unread.insert(self.number, until);
    }

    fn asked(&self) {
        self.activity.0.lock().unread.remove(&self.number);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.activity.0.lock();
        state.running -= 1;
        state.since = Instant::now();
        state.unread.remove(&self.number);
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
        let running = self.activity.enter();
        let response = self.inner.call(request);
        Box::pin(async move {
            let mut response = response.await?;
            let held = response.extensions_mut().remove();
            Ok(response.map(|body| Leaving::new(body, running, held)))
        })
    }
}

/// A body that leaves in pieces, and keeps its request counted until it has.
pub struct Leaving<B> {
    body: B,
    /// What of its last frame has not left.
    rest: Bytes,
    /// How long it may be left unread yet, and since when it is.
    patience: Duration,
    unread_since: Option<Instant>,
    running: Running,
    /// What its tenant has of it in the books.
    _held: Option<Arc<Held>>,
}

impl<B> Leaving<B> {
    fn new(body: B, running: Running, held: Option<Arc<Held>>) -> Self {
        Leaving {
            body,
            rest: Bytes::new(),
            patience: UNREAD_MAX,
            unread_since: None,
            running,
            _held: held,
        }
    }

    /// There is room for more of it.
    fn asked(&mut self) {
        if let Some(since) = self.unread_since.take() {
            self.patience = self.patience.saturating_sub(since.elapsed());
            self.running.asked();
        }
    }

    fn next_piece(&mut self) -> Bytes {
        let piece = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        let part = piece.len() as f64 / PIECE_BYTES as f64;
        self.patience += UNREAD_FOR_PIECE.mul_f64(part);
        let now = Instant::now();
        self.unread_since = Some(now);
        self.running.left(now + self.patience);
        piece
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Leaving<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.asked();
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, inner) = (self.rest.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest + inner.lower());
        if let Some(upper) = inner.upper() {
            hint.set_upper(rest + upper);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, Full};
    use std::time::Duration;
    use tokio::time::{advance, timeout};

    const PIECES: usize = 200;

    fn answer(activity: &Activity) -> Leaving<Full<Bytes>> {
        let body = Full::new(Bytes::from(vec![7; PIECES * PIECE_BYTES]));
        Leaving::new(body, activity.enter(), None)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_nothing_runs() {
        let activity = Activity::default();
        let period = Duration::from_secs(10);
        let running = activity.enter();
        let waited = timeout(period * 5, activity.idle_for(period)).await;
        assert!(waited.is_err());
        drop(running);
        let start = Instant::now();
        activity.idle_for(period).await;
        assert_eq!(start.elapsed(), period);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_reads_shows_and_one_that_is_being_made_does_not() {
        let activity = Activity::default();
        let mut body = answer(&activity);
        assert!(timeout(UNREAD_MAX * 9, activity.unread()).await.is_err());
        let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(piece.len(), PIECE_BYTES);
        let start = Instant::now();
        activity.unread().await;
        assert_eq!(start.elapsed(), UNREAD_MAX + UNREAD_FOR_PIECE);
        drop(body);
        assert!(timeout(UNREAD_MAX * 9, activity.unread()).await.is_err());
    }

    /// Fails where a client keeps what is held for it by taking a little now and then.
    #[tokio::test(start_paused = true)]
    async fn who_reads_too_slowly_shows_and_who_reads_slowly_does_not() {
        for (pause, shows) in [(UNREAD_FOR_PIECE, false), (UNREAD_FOR_PIECE * 4, true)] {
            let activity = Activity::default();
            let mut body = answer(&activity);
            let mut bytes = 0;
            while let Some(Ok(frame)) = body.frame().await
                && timeout(Duration::ZERO, activity.unread()).await.is_err()
            {
                bytes += frame.into_data().unwrap().len();
                advance(pause).await;
            }
            assert_eq!(bytes < PIECES * PIECE_BYTES, shows, "{bytes} bytes");
        }
    }
}
