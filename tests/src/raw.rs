//! gRPC calls made by hand over HTTP/2, for what no well-behaved client would send.

use crate::{agent::Agent, http::Failure, wait::within};
use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::time::Duration;
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
    let stream = crate::http::connect_tls(&agent.issuer, &agent.ca_pem, "h2").await?;
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let mut frame = vec![0u8];
    frame.extend_from_slice(&u32::try_from(message.len())?.to_be_bytes());
    frame.extend_from_slice(message);
    let uri = format!("{}/bulkhead.v1.Inference/{method}", agent.issuer);
    let mut request = http::Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(frame)))?;
    let response = sender.send_request(request).await?;
    // A refusal may come in the headers alone.
    if let Some(status) = status(response.headers()) {
        return Ok(status);
    }
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().and_then(status);
    trailers.ok_or_else(|| "no gRPC status came back".into())
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
