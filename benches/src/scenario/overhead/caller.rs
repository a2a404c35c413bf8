//! One agent's connection, to the server or to the echo: the same client and the same message to both.

use super::MODEL;
use crate::{Failure, workload::REQUEST_MAX};
use bulkhead_client::{Alpn, ClientError, Credentials, Server, TokenSource};
use bulkhead_proto::v1::{EmbedRequest, inference_client::InferenceClient};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

/// Bytes of each request's text.
const TEXT_BYTES: usize = 200;

/// A connection with a token.
#[derive(Clone)]
pub struct Caller {
    client: InferenceClient<Channel>,
    bearer: MetadataValue<tonic::metadata::Ascii>,
    tokens: Arc<TokenSource>,
    ca_pem: Arc<str>,
}

impl Caller {
    /// To the server that the credentials are of.
    pub async fn connect(credentials: Credentials) -> Result<Caller, Failure> {
        let ca_pem = Arc::from(credentials.ca_pem.as_str());
        let tokens = Arc::new(TokenSource::new(credentials, None)?);
        Ok(Caller {
            client: client(tokens.server()).await?,
            bearer: bearer(&tokens).await?,
            tokens,
            ca_pem,
        })
    }

    /// The same to another server with the same authority.
    pub async fn to(&self, url: &str) -> Result<Caller, Failure> {
        let server = Server::new(url, &self.ca_pem)?;
        Ok(Caller {
            client: client(&server).await?,
            ..self.clone()
        })
    }

    /// Takes a token that is good for now.
    pub async fn renew(&mut self) -> Result<(), Failure> {
        self.bearer = bearer(&self.tokens).await?;
        Ok(())
    }

    /// One text; its answer is thrown away.
    pub async fn call(mut self) -> Result<(), ClientError> {
        let mut request = Request::new(EmbedRequest {
            model: MODEL.into(),
            texts: vec!["x".repeat(TEXT_BYTES)],
            ..EmbedRequest::default()
        });
        request
            .metadata_mut()
            .insert("authorization", self.bearer.clone());
        request.set_timeout(REQUEST_MAX);
        self.client.embed(request).await?;
        Ok(())
    }
}

async fn bearer(tokens: &TokenSource) -> Result<MetadataValue<tonic::metadata::Ascii>, Failure> {
    let token = tokens.get().await?;
    let mut value = MetadataValue::try_from(format!("Bearer {}", *token.secret))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn client(server: &Server) -> Result<InferenceClient<Channel>, Failure> {
    let endpoint = Endpoint::from_shared(format!("https://{}", server.authority()))?;
    let dial = server.clone();
    let channel = endpoint
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let server = dial.clone();
            async move { server.connect(Alpn::Http2).await.map(TokioIo::new) }
        }))
        .await?;
    Ok(InferenceClient::new(channel))
}
