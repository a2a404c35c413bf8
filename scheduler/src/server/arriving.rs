//! A request's body has to arrive within a time: whoever sends half a message and stops must not hold
//! memory for as long as it likes. And what has arrived counts for its tenant.
//!
//! Only the request's direction is bounded. How long an answer takes is no matter of this file.

use super::buffers::Held;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep};

/// How long a body may take from the request's headers to its end. 4 MiB in this time is 1.1 Mbit/s.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// A body with a time limit.
pub struct Arriving<B> {
    body: B,
    /// What its tenant has of it in the books, where it is known whose it is.
    held: Option<Held>,
    until: Pin<Box<Sleep>>,
}

impl<B> Arriving<B> {
    /// Puts the limit on it, from now on.
    pub fn new(body: B, held: Option<Held>) -> Self {
        Arriving {
            body,
            held,
            until: Box::pin(sleep(BODY_TIME_MAX)),
        }
    }
}

/// The body did not come to its end in time.
#[derive(Debug, thiserror::Error)]
#[error("the request's body did not arrive in time")]
struct TooSlow;

impl<B> Body for Arriving<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            let late = self.until.as_mut().poll(cx);
            return late.map(|()| Some(Err(axum::Error::new(TooSlow))));
        };
        let data = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len),
            _ => 0,
        };
        let fits = self
            .held
            .as_mut()
            .map_or(Ok(()), |held| held.grow(data as u64));
        Poll::Ready(match fits {
            Ok(()) => frame.map(|frame| frame.map_err(axum::Error::new)),
            Err(full) => Some(Err(axum::Error::new(full))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_is_an_error() {
        let frames = tokio_stream::StreamExt::chain(
            tokio_stream::once(Ok::<_, axum::Error>(Frame::data(Bytes::from_static(
                b"half",
            )))),
            tokio_stream::pending(),
        );
        let body = Arriving::new(StreamBody::new(frames), None);
        let error = body.collect().await.unwrap_err().to_string();
        assert!(error.contains("in time"), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_body_comes_through() {
        let body = Arriving::new(axum::body::Body::from("whole"), None);
        assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
    }
}
