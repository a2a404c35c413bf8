//! gRPC calls made by hand over HTTP/2, for what no well-behaved client would send.

use crate::{agent::Agent, http::Failure, wait::within};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Body, Frame, Incoming},
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{Code, Status};

/// Sends one message of any bytes to a method of `bulkhead.v1.Inference` with these headers besides
/// the usual ones; the status that comes back.
pub async fn call(agent: &Agent, method: &str, headers: &[(&str, &str)], message: &[u8]) -> Status {
    let token = agent.token().await;
    let call = exchange(agent, &token, method, headers, message);
    let answer = within(Duration::from_secs(30), "an answer", call).await;
    answer.expect("the connection holds")
}

async fn exchange(
    agent: &Agent,
    token: &str,
    method: &str,
    headers: &[(&str, &str)],
    message: &[u8],
) -> Result<Status, Failure> {
    let body = Full::new(framed(message));
    let mut line = Line::open(agent).await?;
    let response = line.ask(agent, token, method, headers, body).await?;
    // A refusal may come in the headers alone.
    if let Some(status) = status(response.headers()) {
        return Ok(status);
    }
    ended(response.into_body()).await
}

/// Reads an answer to its end.
pub async fn ended(answer: Incoming) -> Result<Status, Failure> {
    let trailers = answer.collect().await?.trailers().and_then(status);
    trailers.ok_or_else(|| "no gRPC status came back".into())
}

/// Sends the first bytes of a message that would have twice as many, and waits: the status that comes back, if one does.
pub async fn half(agent: &Agent, method: &str, bytes: usize) -> Result<Status, Failure> {
    let token = agent.token().await;
    let whole = framed(&vec![0; 2 * bytes]);
    let body = Unfinished(Some(whole.slice(..bytes)));
    let mut line = Line::open(agent).await?;
    let response = line.ask(agent, &token, method, &[], body).await?;
    status(response.headers()).ok_or_else(|| "no gRPC status came back".into())
}

/// A connection for calls whose answers are read by hand: of each no more than a kilobyte is sent before.
pub struct Line<B>(SendRequest<B>);

impl Line<Full<Bytes>> {
    /// Sends one message; its answer, of which nothing has been read.
    pub async fn unread(&mut self, agent: &Agent, method: &str, message: &[u8]) -> Incoming {
        let token = agent.token().await;
        let body = Full::new(framed(message));
        let answer = self.ask(agent, &token, method, &[], body);
        let answer = within(Duration::from_secs(30), "an answer", answer).await;
        answer.expect("the connection holds").into_body()
    }
}

impl<B> Line<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Failure>,
{
    /// Connects.
    pub async fn open(agent: &Agent) -> Result<Self, Failure> {
        let stream = crate::http::connect_tls(&agent.issuer, &agent.ca_pem, "h2").await?;
        let (sender, connection) = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 10)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(Line(sender))
    }

    async fn ask(
        &mut self,
        agent: &Agent,
        token: &str,
        method: &str,
        headers: &[(&str, &str)],
        body: B,
    ) -> Result<http::Response<Incoming>, Failure> {
        let uri = format!("{}/bulkhead.v1.Inference/{method}", agent.issuer);
        let mut request = http::Request::post(uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        Ok(self.0.send_request(request.body(body)?).await?)
    }
}

/// A body that never comes to its end.
struct Unfinished(Option<Bytes>);

impl Body for Unfinished {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Poll::Pending,
        }
    }
}

/// A message as gRPC frames it.
fn framed(message: &[u8]) -> Bytes {
    let bytes = u32::try_from(message.len()).expect("a message of a test");
    [&[0], &bytes.to_be_bytes()[..], message].concat().into()
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let status = Status::from_header_map(headers)?;
    Some(if status.code() == Code::Ok {
        Status::ok("")
    } else {
        status
    })
}

/// A protobuf field of bytes.
pub fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    assert!(number < 16 && bytes.len() < 128, "one byte each");
    [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
}
