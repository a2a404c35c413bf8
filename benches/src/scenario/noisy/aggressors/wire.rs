//! A connection over which nothing but the server's word ends a call.
//!
//! The usual client has a clock of its own: it ends a call at its deadline, and never sends one whose deadline is past.
//! Whoever abuses deadlines has no such manners. Nothing here is sent again, and a connection that broke stays broken.

use bulkhead_client::{Alpn, ClientError, TokenSource};
use bulkhead_proto::v1::{EmbedRequest, GenerateRequest, inference_client::InferenceClient};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tonic::{
    Request,
    body::Body,
    codegen::{Service, http},
    metadata::MetadataValue,
};

/// How long a server may take to say that a deadline is over.
const PATIENCE: Duration = Duration::from_secs(30);

/// HTTP/2 without anything around it.
#[derive(Clone)]
struct Raw(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Raw {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

/// One such connection, with a token.
#[derive(Clone)]
pub(super) struct Wire {
    inference: InferenceClient<Raw>,
    tokens: Arc<TokenSource>,
}

impl Wire {
    pub(super) async fn connect(tokens: Arc<TokenSource>) -> Result<Wire, crate::Failure> {
        let server = tokens.server();
        let stream = server.connect(Alpn::Http2).await?;
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        // It ends once nobody can send over it any more.
        tokio::spawn(connection);
        let origin = format!("https://{}", server.authority()).parse()?;
        Ok(Wire {
            inference: InferenceClient::with_origin(Raw(sender), origin),
            tokens,
        })
    }

    /// Embeds texts, with this deadline in the request's head.
    pub(super) async fn embed(
        &self,
        request: EmbedRequest,
        told: Duration,
    ) -> Result<u64, ClientError> {
        let request = self.authorised(request, told).await?;
        let mut call = self.inference.clone();
        let response = patiently(call.embed(request)).await?;
        Ok(crate::workload::embedded_tokens(response.get_ref()))
    }

    /// Generates, with this deadline in the request's head.
    pub(super) async fn generate(
        &self,
        request: GenerateRequest,
        told: Duration,
    ) -> Result<u64, ClientError> {
        let request = self.authorised(request, told).await?;
        let mut call = self.inference.clone();
        let mut stream = patiently(call.generate(request)).await?.into_inner();
        let mut tokens = 0;
        while let Some(message) = patiently(stream.message()).await? {
            let usage = message.done.and_then(|done| done.usage);
            tokens += usage.map_or(0, |usage| {
                u64::from(usage.input_tokens) + u64::from(usage.output_tokens)
            });
        }
        Ok(tokens)
    }

    async fn authorised<T>(&self, body: T, told: Duration) -> Result<Request<T>, ClientError> {
        let token = self.tokens.get().await?;
        let bearer = format!("Bearer {}", *token.secret);
        let mut value = MetadataValue::try_from(bearer).map_err(|e| ClientError::Field {
            field: "token",
            message: e.to_string(),
        })?;
        value.set_sensitive(true);
        let mut request = Request::new(body);
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(told);
        Ok(request)
    }
}

async fn patiently<T>(
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ClientError::TimedOut {
            seconds: PATIENCE.as_secs(),
        }),
    }
}
