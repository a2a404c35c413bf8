//! Our server, asked over its front door by an agent.

use super::{Answer, Piece, Searched};
use crate::{
    Failure,
    args::ServerArgs,
    server::Server,
    workload::{GENERATE_MODEL, REQUEST_MAX},
};
use bulkhead_client::AgentClient;
use bulkhead_proto::v1::{ChatMessage, GenerateRequest, GenerateResponse};
use tonic::Streaming;

/// A server with one tenant, so that one worker answers everything.
pub struct Ours {
    server: Server,
    client: AgentClient,
}

/// An answer and the connection that it comes over.
struct Ongoing {
    stream: Streaming<GenerateResponse>,
    _connection: AgentClient,
}

impl Ours {
    /// Starts one.
    pub async fn start(settings: &ServerArgs) -> Result<Ours, Failure> {
        let server = Server::start(settings).await?;
        let client = server.tenant("canary").await?;
        Ok(Ours { server, client })
    }
}

impl Searched for Ours {
    async fn ask(&self, prompt: &str, tokens: u32) -> Result<impl Answer, Failure> {
        let request = GenerateRequest {
            model: GENERATE_MODEL.into(),
            messages: vec![ChatMessage {
                role: "user".into(),
                content: prompt.into(),
            }],
            max_tokens: tokens,
            // Only so are the answer's token ids told.
            logprobs: Some(0),
            ..GenerateRequest::default()
        };
        let connection = self.client.another_connection().await?;
        Ok(Ongoing {
            stream: connection.generate(request, REQUEST_MAX).await?,
            _connection: connection,
        })
    }

    async fn ids(&self, _: &str) -> Result<Vec<u32>, Failure> {
        Err("the server did not tell its answer's tokens".into())
    }

    fn pid(&self) -> Result<i32, Failure> {
        self.server.pid()
    }
}

impl Answer for Ongoing {
    async fn next(&mut self) -> Result<Option<Piece>, Failure> {
        let message = self.stream.message().await?;
        Ok(message.map(|message| Piece {
            ids: message.logprobs.iter().map(|one| one.token).collect(),
            text: message.text,
        }))
    }
}
