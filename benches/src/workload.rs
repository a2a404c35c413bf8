//! What the load consists of: texts of a known number of tokens, and the calls that carry them.

use crate::Failure;
use bulkhead_client::{AgentClient, ClientError};
use bulkhead_proto::v1::EmbedRequest;
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
    let request = EmbedRequest {
        model: EMBED_MODEL.into(),
        texts,
        context: None,
    };
    let response = client.embed(request, REQUEST_MAX).await?;
    Ok(response.embeddings.len() as u64)
}

/// Checks, with the server's own count, that the text is as long as figures say.
pub async fn check_tokens(client: &AgentClient) -> Result<(), Failure> {
    let request = EmbedRequest {
        model: EMBED_MODEL.into(),
        texts: vec![TEXT.into()],
        context: None,
    };
    let response = client.embed(request, REQUEST_MAX).await?;
    let tokens = response.usage.map_or(0, |usage| usage.input_tokens);
    match tokens {
        TOKENS_PER_TEXT => Ok(()),
        other => Err(format!(
            "the text is {other} tokens for {EMBED_MODEL} and not {TOKENS_PER_TEXT}: is this another model?"
        )
        .into()),
    }
}
