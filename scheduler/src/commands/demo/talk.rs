//! Real models at work: three sentences compared, and an answer as it streams.

use super::{Failure, evidence::Evidence, screen::Screen};
use crate::client::{AgentClient, ClientError, load::ms};
use bulkhead_proto::v1::{ChatMessage, EmbedRequest, GenerateRequest};
use serde::Serialize;
use std::time::{Duration, Instant};

/// A first request loads its model.
const EMBED_MAX: Duration = Duration::from_secs(60);
const ANSWER_MAX: Duration = Duration::from_secs(90);
const ANSWER_TOKENS_MAX: u32 = 48;

const SENTENCES: [&str; 3] = [
    "The ship's bulkheads kept the flooded compartment from sinking her.",
    "Watertight walls inside the hull saved the vessel.",
    "My grandmother bakes bread with rye and caraway.",
];
const QUESTION: &str = "Why do ships have bulkheads? Answer in two sentences.";

/// How alike the sentences are.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Similarity {
    /// Of the two that mean the same in other words.
    pub same_meaning: f64,
    /// Of the first and the one about something else.
    pub other_subject: f64,
    pub dimensions: usize,
    /// Start of the worker and load of the model included.
    pub first_answer_ms: f64,
}

impl Similarity {
    /// True where the model tells meaning from chance by a wide margin.
    pub fn real(&self) -> bool {
        self.dimensions > 0 && self.same_meaning > self.other_subject + 0.2
    }
}

/// Embeds the sentences and compares them.
pub async fn compare(
    client: &AgentClient,
    evidence: &Evidence,
    screen: &Screen,
) -> Result<Similarity, Failure> {
    let started = Instant::now();
    let request = EmbedRequest {
        model: super::EMBED_MODEL.into(),
        texts: SENTENCES.map(String::from).to_vec(),
        ..EmbedRequest::default()
    };
    let response = client.embed(request, EMBED_MAX).await?;
    let first_answer_ms = ms(started.elapsed());
    evidence.add(response.receipt);
    let vectors: Vec<&[f32]> = response.embeddings.iter().map(|e| &*e.values).collect();
    let [first, second, third] = vectors[..] else {
        return Err(format!("{} vectors came for 3 sentences", vectors.len()).into());
    };
    let found = Similarity {
        same_meaning: cosine(first, second),
        other_subject: cosine(first, third),
        dimensions: first.len(),
        first_answer_ms,
    };
    screen.say(&format!("      \"{}\"", SENTENCES[0]))?;
    screen.say(&format!("{:.3} \"{}\"", found.same_meaning, SENTENCES[1]))?;
    screen.say(&format!("{:.3} \"{}\"", found.other_subject, SENTENCES[2]))?;
    screen.say(&format!(
        "cosines over {} dimensions; {:.0} ms with the worker's start and the model's load",
        found.dimensions, found.first_answer_ms
    ))?;
    Ok(found)
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(x, y)| f64::from(*x) * f64::from(*y))
            .sum()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

/// What came of the question.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Answer {
    pub text: String,
    pub finish_reason: String,
    pub input_tokens: u32,
    pub output_tokens: u32,
    /// Messages in which it came.
    pub pieces: usize,
    /// Start of the worker and load of the model included.
    pub first_piece_ms: f64,
    /// From the first piece to the last.
    pub tokens_per_s: f64,
}

impl Answer {
    /// True where text came piece by piece and to its end.
    pub fn streamed(&self) -> bool {
        self.pieces > 1 && !self.finish_reason.is_empty()
    }
}

/// Asks, and prints the answer as it comes.
pub async fn ask(
    client: &AgentClient,
    evidence: &Evidence,
    screen: &Screen,
) -> Result<Answer, Failure> {
    screen.say(&format!("\"{QUESTION}\""))?;
    screen.piece("      ")?;
    let streaming = stream(client, evidence, screen);
    let answer = tokio::time::timeout(ANSWER_MAX, streaming)
        .await
        .map_err(|_| ClientError::TimedOut {
            seconds: ANSWER_MAX.as_secs(),
        })??;
    screen.line("")?;
    screen.say(&format!(
        "{} tokens, the first after {:.0} ms with the worker's start, then {:.0} tokens/s",
        answer.output_tokens, answer.first_piece_ms, answer.tokens_per_s
    ))?;
    Ok(answer)
}

async fn stream(
    client: &AgentClient,
    evidence: &Evidence,
    screen: &Screen,
) -> Result<Answer, Failure> {
    let request = GenerateRequest {
        model: super::GENERATE_MODEL.into(),
        messages: vec![ChatMessage {
            role: "user".into(),
            content: QUESTION.into(),
        }],
        max_tokens: ANSWER_TOKENS_MAX,
        ..GenerateRequest::default()
    };
    let asked = Instant::now();
    let mut first = None;
    let mut answer = Answer::default();
    let mut messages = client.generate(request, ANSWER_MAX).await?;
    while let Some(message) = messages.message().await.map_err(ClientError::from)? {
        if !message.text.is_empty() {
            first.get_or_insert_with(Instant::now);
            answer.pieces += 1;
            screen.piece(&message.text.replace('\n', "\n      "))?;
            answer.text.push_str(&message.text);
        }
        let Some(done) = message.done else { continue };
        evidence.add(done.receipt);
        let usage = done.usage.unwrap_or_default();
        let first = first.unwrap_or_else(Instant::now);
        answer.first_piece_ms = ms(first - asked);
        answer.tokens_per_s = f64::from(usage.output_tokens.saturating_sub(1))
            / first.elapsed().as_secs_f64().max(1e-3);
        answer.finish_reason = done.finish_reason;
        answer.input_tokens = usage.input_tokens;
        answer.output_tokens = usage.output_tokens;
        return Ok(answer);
    }
    Err("the answer ended without its receipt".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_those_of_the_angle() {
        assert!((cosine(&[1.0, 0.0], &[1.0, 0.0]) - 1.0).abs() < 1e-9);
        assert!(cosine(&[1.0, 0.0], &[0.0, 2.0]).abs() < 1e-9);
        assert!((cosine(&[1.0, 0.0], &[-3.0, 0.0]) + 1.0).abs() < 1e-9);
        assert_eq!(cosine(&[], &[]), 0.0);
    }
}
