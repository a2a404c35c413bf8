//! A client of `bulkhead.v1.Inference`, as an agent.
//!
//! Every call carries a token that is good for now. Clones share connection and token; a further
//! connection with the same token comes from `another_connection`.

use crate::{
    credentials::Credentials,
    error::{ClientError, unreachable_because},
    tls::{Alpn, CONNECT_TIMEOUT, Server},
    token::TokenSource,
};
use bulkhead_proto::v1::{
    EmbedRequest, EmbedResponse, GenerateRequest, GenerateResponse, ListModelsRequest,
    ListModelsResponse, inference_client::InferenceClient,
};
use hyper_util::rt::TokioIo;
use std::{sync::Arc, time::Duration};
use tonic::{
    Request, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use zeroize::Zeroizing;

/// Largest answer taken, bytes: 2,048 texts of 1,024 dimensions fit.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// An agent's connection to a server.
#[derive(Clone)]
pub struct AgentClient {
    inference: InferenceClient<Channel>,
    tokens: Arc<TokenSource>,
}

impl AgentClient {
    /// Connects; the first token is fetched by the first call. `scope` narrows the tokens.
    pub async fn connect(
        credentials: Credentials,
        scope: Option<String>,
    ) -> Result<AgentClient, ClientError> {
        let tokens = Arc::new(TokenSource::new(credentials, scope)?);
        Ok(AgentClient {
            inference: inference(tokens.server()).await?,
            tokens,
        })
    }

    /// A connection of its own that shares this one's tokens.
    pub async fn another_connection(&self) -> Result<AgentClient, ClientError> {
        Ok(AgentClient {
            inference: inference(self.tokens.server()).await?,
            tokens: Arc::clone(&self.tokens),
        })
    }

    /// Embeds texts; gives up after `timeout`, on the server too.
    pub async fn embed(
        &self,
        request: EmbedRequest,
        timeout: Duration,
    ) -> Result<EmbedResponse, ClientError> {
        let request = self.authorised(request, timeout).await?;
        let mut call = self.inference.clone();
        bounded(timeout, async move { call.embed(request).await })
            .await
            .map(tonic::Response::into_inner)
    }

    /// Begins a generation; `timeout` holds for the whole stream on the server.
    pub async fn generate(
        &self,
        request: GenerateRequest,
        timeout: Duration,
    ) -> Result<Streaming<GenerateResponse>, ClientError> {
        let request = self.authorised(request, timeout).await?;
        let mut call = self.inference.clone();
        bounded(timeout, async move { call.generate(request).await })
            .await
            .map(tonic::Response::into_inner)
    }

    /// The models that this agent may use.
    pub async fn list_models(&self, timeout: Duration) -> Result<ListModelsResponse, ClientError> {
        let request = self.authorised(ListModelsRequest {}, timeout).await?;
        let mut call = self.inference.clone();
        bounded(timeout, async move { call.list_models(request).await })
            .await
            .map(tonic::Response::into_inner)
    }

    async fn authorised<T>(&self, body: T, timeout: Duration) -> Result<Request<T>, ClientError> {
        let token = self.tokens.get().await?;
        let bearer = Zeroizing::new(format!("Bearer {}", *token.secret));
        let mut value =
            MetadataValue::try_from(bearer.as_str()).map_err(|e| ClientError::Unreachable {
                address: self.tokens.server().authority(),
                message: format!("its token cannot be sent back: {e}"),
            })?;
        value.set_sensitive(true);
        let mut request = Request::new(body);
        request.metadata_mut().insert("authorization", value);
        request.set_timeout(timeout);
        Ok(request)
    }
}

/// A little longer than the server's own deadline, so that its clearer answer is heard first.
async fn bounded<T>(
    timeout: Duration,
    call: impl Future<Output = Result<T, tonic::Status>>,
) -> Result<T, ClientError> {
    match tokio::time::timeout(timeout + Duration::from_secs(1), call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(ClientError::TimedOut {
            seconds: timeout.as_secs(),
        }),
    }
}

async fn inference(server: &Server) -> Result<InferenceClient<Channel>, ClientError> {
    let fail = |e: tonic::transport::Error| ClientError::Unreachable {
        address: server.authority(),
        message: unreachable_because(&e),
    };
    let endpoint = Endpoint::from_shared(format!("https://{}", server.authority()))
        .map_err(fail)?
        .connect_timeout(CONNECT_TIMEOUT);
    let dial = server.clone();
    let channel = endpoint
        .connect_with_connector(tower::service_fn(move |_: http::Uri| {
            let server = dial.clone();
            async move { server.connect(Alpn::Http2).await.map(TokioIo::new) }
        }))
        .await
        .map_err(fail)?;
    Ok(InferenceClient::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX))
}
