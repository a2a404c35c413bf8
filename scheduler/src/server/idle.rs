//! Knows when a connection has had no request for a while, so that it can be closed.

use hyper::{body::Incoming, service::Service};
use parking_lot::Mutex;
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::time::Instant;

/// A connection's requests: how many run, and when the last one came or ended.
#[derive(Clone)]
pub struct Activity(Arc<Mutex<(usize, Instant)>>);

impl Default for Activity {
    fn default() -> Self {
        Activity(Arc::new(Mutex::new((0, Instant::now()))))
    }
}

impl Activity {
    fn enter(&self) -> Running {
        let mut state = self.0.lock();
        state.0 += 1;
        state.1 = Instant::now();
        Running(self.clone())
    }

    /// Ends when nothing has run for `period`.
    pub async fn idle_for(&self, period: Duration) {
        loop {
            let (running, since) = *self.0.lock();
            let until = if running == 0 {
                since + period
            } else {
                Instant::now() + period
            };
            if until <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(until).await;
        }
    }
}

/// A request that runs; dropping it ends it.
struct Running(Activity);

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.0 -= 1;
        state.1 = Instant::now();
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
    B: http_body::Body + Unpin + Send + 'static,
{
    type Response = http::Response<Counted<B>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        let running = self.activity.enter();
        let response = self.inner.call(request);
        Box::pin(async move {
            Ok(response.await?.map(|body| Counted {
                body,
                _running: running,
            }))
        })
    }
}

/// A body that keeps its request counted.
pub struct Counted<B> {
    body: B,
    _running: Running,
}

impl<B: http_body::Body + Unpin> http_body::Body for Counted<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_nothing_runs() {
        let activity = Activity::default();
        let period = Duration::from_secs(10);
        let running = activity.enter();
        assert!(
            tokio::time::timeout(period * 5, activity.idle_for(period))
                .await
                .is_err()
        );
        drop(running);
        let start = Instant::now();
        activity.idle_for(period).await;
        assert_eq!(start.elapsed(), period);
    }
}
