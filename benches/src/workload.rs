//! What the load consists of: texts of a known number of tokens, and the calls that carry them.

use crate::Failure;
use bulkhead_client::{AgentClient, ClientError};
use bulkhead_proto::v1::{EmbedRequest, EmbedResponse, GenerateRequest};
use std::time::Duration;

/// The starter models.
pub const EMBED_MODEL: &str = "minilm";
pub const GENERATE_MODEL: &str = "smollm2";
/// A flood's request waits behind all others of its tenant: minutes on two cores.
pub const REQUEST_MAX: Duration = Duration::from_secs(600);
/// Tokens of `TEXT` as the embedding model reads it, with its two special tokens.
pub const TOKENS_PER_TEXT: u32 = 38;
/// One text.
pub const TEXT: &str = "The officer of the watch closed the forward doors before the storm, wrote down \
    the time and the names of all hands on deck, and told the captain that every compartment was dry.";

/// Embeds `texts` copies of the text. Returns how many vectors came back.
pub async fn embed(client: AgentClient, texts: usize) -> Result<u64, ClientError> {
    embed_texts(&client, vec![TEXT.into(); texts]).await
}

/// Embeds these texts. Returns how many vectors came back.
pub async fn embed_texts(client: &AgentClient, texts: Vec<String>) -> Result<u64, ClientError> {
    let response = client.embed(embedding(texts), REQUEST_MAX).await?;
    Ok(response.embeddings.len() as u64)
}

/// The request for these texts.
pub fn embedding(texts: Vec<String>) -> EmbedRequest {
    EmbedRequest {
        model: EMBED_MODEL.into(),
        texts,
        ..EmbedRequest::default()
    }
}

/// Tokens that an answer's texts came to.
pub fn embedded_tokens(response: &EmbedResponse) -> u64 {
    let usage = response.usage.as_ref();
    usage.map_or(0, |usage| u64::from(usage.input_tokens))
}

/// The request for a greedy answer of exactly `max_tokens`.
pub fn generation(prompt: &str, max_tokens: u32) -> GenerateRequest {
    GenerateRequest {
        model: GENERATE_MODEL.into(),
        prompt: prompt.into(),
        max_tokens,
        ignore_eos: true,
        ..GenerateRequest::default()
    }
}

/// Reads such an answer to its end. Returns its tokens, those of the prompt among them.
pub async fn generate(client: &AgentClient, request: GenerateRequest) -> Result<u64, ClientError> {
    let mut stream = client.generate(request, REQUEST_MAX).await?;
    while let Some(message) = stream.message().await? {
        if let Some(done) = message.done {
            let usage = done.usage.unwrap_or_default();
            return Ok(u64::from(usage.input_tokens) + u64::from(usage.output_tokens));
        }
    }
    Err(ClientError::Unreachable {
        address: GENERATE_MODEL.into(),
        message: "a stream ended without its last message".into(),
    })
}

/// Checks, with the server's own count, that the text is as long as figures say.
pub async fn check_tokens(client: &AgentClient) -> Result<(), Failure> {
    let request = embedding(vec![TEXT.into()]);
    let response = client.embed(request, REQUEST_MAX).await?;
    match embedded_tokens(&response) {
        tokens if tokens == u64::from(TOKENS_PER_TEXT) => Ok(()),
        other => Err(format!(
            "the text is {other} tokens for {EMBED_MODEL} and not {TOKENS_PER_TEXT}: is this another model?"
        )
        .into()),
    }
}
