//! One answer through the whole server, timed by its client.

use crate::{
    Failure,
    workload::{self, REQUEST_MAX},
};
use bulkhead_client::AgentClient;
use std::time::{Duration, Instant};

/// What the client saw.
pub struct Answer {
    pub input_tokens: u32,
    output_tokens: u32,
    to_first: Duration,
    to_last: Duration,
}

impl Answer {
    /// Seconds until the first piece.
    pub fn first_s(&self) -> f64 {
        self.to_first.as_secs_f64()
    }

    /// Tokens a second of the prompt.
    pub fn prefill_tok_s(&self) -> f64 {
        f64::from(self.input_tokens) / self.to_first.as_secs_f64()
    }

    /// Tokens a second of the answer. The first piece belongs to the prompt: its token came out of the
    /// prefill.
    pub fn decode_tok_s(&self) -> f64 {
        let after_first = self.to_last.saturating_sub(self.to_first);
        f64::from(self.output_tokens.saturating_sub(1)) / after_first.as_secs_f64()
    }
}

/// A greedy answer of exactly `max_tokens`.
pub async fn answer(
    client: &AgentClient,
    prompt: &str,
    max_tokens: u32,
) -> Result<Answer, Failure> {
    let request = workload::generation(prompt, max_tokens);
    let started = Instant::now();
    let mut stream = client.generate(request, REQUEST_MAX).await?;
    let (mut first, mut last) = (None, started);
    while let Some(message) = stream.message().await? {
        if !message.text.is_empty() {
            last = Instant::now();
            first.get_or_insert(last);
        }
        if let Some(done) = message.done {
            let usage = done.usage.unwrap_or_default();
            let first = first.ok_or("the model answered nothing")?;
            return Ok(Answer {
                input_tokens: usage.input_tokens,
                output_tokens: usage.output_tokens,
                to_first: first - started,
                to_last: last - started,
            });
        }
    }
    Err("a stream ended without its last message".into())
}
