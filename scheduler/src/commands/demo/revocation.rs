//! An agent is revoked while it holds a good token and a stream of its is running.

use super::{Failure, screen::Screen};
use crate::client::{Admin, AgentClient, ClientError, load::ms};
use bulkhead_proto::v1::{EmbedRequest, GenerateRequest, GenerateResponse};
use serde::Serialize;
use std::time::{Duration, Instant};
use tonic::Streaming;

/// What is promised: a running request ends within a second.
const PROMISED: Duration = Duration::from_secs(1);
/// Pieces that are awaited before the agent is revoked: its stream is under way then.
const PIECES_BEFORE: usize = 3;
const STREAM_MAX: Duration = Duration::from_secs(60);
/// A count goes on for as long as it may; the model does not tire of it.
const PROMPT: &str = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12,";
const TOKENS_MAX: u32 = 2000;

/// What was seen.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Revocation {
    /// From the order to revoke until the running stream had ended.
    pub stream_ended_ms: f64,
    /// How it ended; empty where it came to its regular end.
    pub stream_error: String,
    /// What the next request was refused with.
    pub next_error: String,
    pub next_reason: String,
}

impl Revocation {
    /// True where both were stopped, in time, and told why.
    pub fn held(&self) -> bool {
        !self.stream_error.is_empty()
            && self.stream_ended_ms <= ms(PROMISED)
            && !self.next_reason.is_empty()
    }
}

/// Revokes `agent`, whose client this is.
pub async fn revoke(
    admin: &Admin,
    agent: &str,
    client: &AgentClient,
    screen: &Screen,
) -> Result<Revocation, Failure> {
    let request = GenerateRequest {
        model: super::GENERATE_MODEL.into(),
        prompt: PROMPT.into(),
        max_tokens: TOKENS_MAX,
        ..GenerateRequest::default()
    };
    let mut stream = client.generate(request, STREAM_MAX).await?;
    tokio::time::timeout(STREAM_MAX, under_way(&mut stream))
        .await
        .map_err(|_| "the stream of the agent to be revoked did not begin")??;

    let ordered = Instant::now();
    let (changed, ended) = tokio::join!(
        admin.set_agent_status(agent, "revoked"),
        tokio::time::timeout(STREAM_MAX, end_of(stream))
    );
    changed?;
    let (error, at) = ended.map_err(|_| "the stream went on after its agent was revoked")?;
    let next = client.embed(one_text(), STREAM_MAX).await.err();
    let found = Revocation {
        stream_ended_ms: ms(at.saturating_duration_since(ordered)),
        stream_error: error.map(|e| e.to_string()).unwrap_or_default(),
        next_reason: next.as_ref().map_or("", |e| e.reason()).to_owned(),
        next_error: next.map(|e| e.to_string()).unwrap_or_default(),
    };
    screen.say(&format!(
        "running stream: ended {:.0} ms after the order: {}",
        found.stream_ended_ms, found.stream_error
    ))?;
    screen.say(&format!("next request:   {}", found.next_error))?;
    Ok(found)
}

/// Waits for the first pieces.
async fn under_way(stream: &mut Streaming<GenerateResponse>) -> Result<(), Failure> {
    for _ in 0..PIECES_BEFORE {
        let message = stream.message().await.map_err(ClientError::from)?;
        if message.is_none_or(|message| message.done.is_some()) {
            return Err("the stream ended before its agent was revoked".into());
        }
    }
    Ok(())
}

/// How and when the stream ends; no error where it ends regularly.
async fn end_of(mut stream: Streaming<GenerateResponse>) -> (Option<ClientError>, Instant) {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return (None, Instant::now()),
            Err(status) => return (Some(status.into()), Instant::now()),
        }
    }
}

fn one_text() -> EmbedRequest {
    EmbedRequest {
        model: super::EMBED_MODEL.into(),
        texts: vec!["Let me in.".into()],
        ..EmbedRequest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_that_ends_late_or_regularly_or_a_request_let_in_is_a_failure() {
        let good = Revocation {
            stream_ended_ms: 50.0,
            stream_error: "CANCELLED".into(),
            next_error: "UNAUTHENTICATED".into(),
            next_reason: "AGENT_REVOKED".into(),
        };
        assert!(good.held());
        for bad in [
            Revocation {
                stream_ended_ms: 1500.0,
                ..good.clone()
            },
            Revocation {
                stream_error: String::new(),
                ..good.clone()
            },
            Revocation {
                next_reason: String::new(),
                ..good.clone()
            },
        ] {
            assert!(!bad.held(), "{bad:?}");
        }
    }
}
