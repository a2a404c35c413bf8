//! A request's body has to arrive within a time: whoever sends half a message and stops must not hold memory for as long as
//! it likes.
//!
//! A message of the inference API is decoded only once all of it is there: what is decoded can be many times as large as what
//! was sent, and whoever never ends its request would have it held. What has arrived until then counts for its agent. How
//! long an answer takes is no matter of this file.

use super::{buffers::Held, errors::Refused};
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Sleep, sleep, timeout};
use tonic::Code;

/// How long a body may take from the request's headers to its end. 4 MiB in this time is 1.1 Mbit/s.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Bytes before a message of gRPC: whether it is compressed, and how long it is.
const PREFIX_BYTES: usize = 5;

/// Waits for the one message of a call, of at most so many bytes.
pub async fn message<B>(body: B, held: &mut Held, bytes_max: usize) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes> + Unpin,
{
    let whole = timeout(BODY_TIME_MAX, whole(body, held, bytes_max + PREFIX_BYTES)).await;
    let whole = whole.map_err(|_| {
        let what = "the request did not arrive in time; send it faster, or in parts";
        Refused::new(Code::DeadlineExceeded, "REQUEST_TOO_SLOW", what)
    })??;
    match announced(&whole) {
        Some(bytes) if bytes > bytes_max => Err(Refused::message_too_large()),
        // The transport would make room for it before it looks whether it is there.
        Some(bytes) if bytes > whole.len() - PREFIX_BYTES => Err(Refused::message_malformed()),
        _ => Ok(whole),
    }
}

async fn whole<B>(mut body: B, held: &mut Held, bytes_max: usize) -> Result<Bytes, Refused>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            let what = "the request was given up before all of it was there";
            Refused::new(Code::Cancelled, "CANCELLED", what)
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + data.len() > bytes_max {
            return Err(Refused::message_too_large());
        }
        held.grow(data.len() as u64)?;
        // Most messages are one frame, and are copied no further. While more is waited for it is not kept as it came: a byte
        // would keep all of what the transport read with it.
        if whole.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// How long the message says that it is.
fn announced(whole: &[u8]) -> Option<usize> {
    let prefix = whole.get(1..PREFIX_BYTES)?.try_into().ok()?;
    Some(u32::from_be_bytes(prefix) as usize)
}

/// A body with a time limit.
pub struct Arriving<B> {
    body: B,
    until: Pin<Box<Sleep>>,
}

impl<B> Arriving<B> {
    /// Puts the limit on it, from now on.
    pub fn new(body: B) -> Self {
        Arriving {
            body,
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
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Pending => self
                .until
                .as_mut()
                .poll(cx)
                .map(|()| Some(Err(axum::Error::new(TooSlow)))),
            Poll::Ready(frame) => Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new))),
        }
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
    use crate::server::buffers::Buffers;
    use http_body_util::StreamBody;
    use std::convert::Infallible;

    /// A body of these pieces, and with or without an end.
    fn body(pieces: &[&[u8]], ends: bool) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        let pieces: Vec<_> = pieces
            .iter()
            .map(|piece| Bytes::copy_from_slice(piece))
            .collect();
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(piece)));
        let first = tokio_stream::iter(frames);
        let rest: Pin<Box<dyn tokio_stream::Stream<Item = _> + Send>> = match ends {
            true => Box::pin(tokio_stream::empty()),
            false => Box::pin(tokio_stream::pending()),
        };
        StreamBody::new(tokio_stream::StreamExt::chain(first, rest))
    }

    async fn taken(pieces: &[&[u8]], ends: bool) -> Result<Bytes, &'static str> {
        let mut held = Buffers::new(100).hold(1, 1);
        let message = message(body(pieces, ends), &mut held, 50).await;
        message.map_err(|refused| refused.reason)
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_stops_half_way_is_an_error() {
        let error = Arriving::new(body(&[b"half"], false)).collect().await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("in time"), "{error}");
        assert_eq!(
            taken(&[&[0, 0, 0, 0, 1], b"x"], false).await,
            Err("REQUEST_TOO_SLOW")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_whole_body_comes_through() {
        let body = Arriving::new(body(&[b"whole"], true));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "whole");
        let pieces: [&[u8]; 3] = [&[0, 0, 0], &[0, 3, b'a'], b"bc"];
        assert_eq!(taken(&pieces, true).await.unwrap(), &b"\0\0\0\0\x03abc"[..]);
        assert_eq!(taken(&[], true).await.unwrap(), "");
    }

    /// Fails where room is made for what is only announced, or more is taken than may be.
    #[tokio::test(start_paused = true)]
    async fn a_message_is_as_long_as_it_says_and_no_longer_than_it_may_be() {
        assert_eq!(
            taken(&[&[0, 0, 0, 0, 9], b"x"], true).await,
            Err("MESSAGE_MALFORMED")
        );
        assert_eq!(
            taken(&[&[0, 0, 0, 0, 51]], true).await,
            Err("MESSAGE_TOO_LARGE")
        );
        let longest = [&[0, 0, 0, 0, 50][..], &[7; 50]].concat();
        assert!(taken(&[&longest], true).await.is_ok());
        assert_eq!(
            taken(&[&longest, b"x"], false).await,
            Err("MESSAGE_TOO_LARGE")
        );
        let mut held = Buffers::new(30).hold(1, 1);
        let full = message(body(&[&[7; 31]], false), &mut held, 50).await;
        assert_eq!(
            full.map_err(|refused| refused.reason),
            Err("TENANT_BUFFER_FULL")
        );
    }
}
