//! What one client gets out of the whole server: texts a second by batch size, and tokens a second
//! of a prompt and of an answer.
//!
//! One request at a time, so that every step from the front door to the audit log is in the figure. It
//! is not the bare engine's speed, and not the most that the server can do.

use crate::{
    Failure, Figure,
    args::{self, ServerArgs},
    server::Server,
    workload::{self, GENERATE_MODEL, REQUEST_MAX, TEXT, TOKENS_PER_TEXT},
};
use bulkhead_client::AgentClient;
use bulkhead_proto::v1::GenerateRequest;
use std::time::{Duration, Instant};

const BATCHES: [usize; 3] = [1, 8, 32];
/// The prompt is the text so many times: some 500 tokens.
const PROMPT_TEXTS: usize = 13;
/// Tokens of each answer.
const ANSWER_TOKENS: u32 = 64;
/// The least number of answers that a figure rests on, however long they take.
const ANSWERS_MIN: usize = 3;

/// Runs the scenario.
pub async fn measure(args: &args::Engine, server: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    let lasts = Duration::from_secs(args.seconds);
    let server = Server::start(server).await?;
    let client = server.tenant("engine").await?;
    workload::check_tokens(&client).await?;
    let mut figures = Vec::new();
    for batch in BATCHES {
        figures.push(embeddings(&client, batch, lasts).await?);
    }
    figures.extend(generation(&client, lasts).await?);
    server.stop().await?;
    Ok(figures)
}

async fn embeddings(
    client: &AgentClient,
    batch: usize,
    lasts: Duration,
) -> Result<Figure, Failure> {
    eprintln!("embeddings, {batch} texts a request");
    workload::embed(client.clone(), batch).await?;
    let (started, mut texts) = (Instant::now(), 0);
    while started.elapsed() < lasts {
        texts += workload::embed(client.clone(), batch).await?;
    }
    Ok(Figure::higher(
        &format!("minilm/b{batch}/texts_s"),
        texts as f64 / started.elapsed().as_secs_f64(),
        "texts/s",
        format!("texts of {TOKENS_PER_TEXT} tokens, whole server, one request at a time"),
    ))
}

async fn generation(client: &AgentClient, lasts: Duration) -> Result<[Figure; 2], Failure> {
    eprintln!("generation");
    one_answer(client).await?;
    let (started, mut answers) = (Instant::now(), Vec::new());
    while started.elapsed() < lasts || answers.len() < ANSWERS_MIN {
        answers.push(one_answer(client).await?);
    }
    let seen = answers.len();
    let prompt = answers.first().map_or(0, |answer| answer.input_tokens);
    let median = |mut values: Vec<f64>| {
        values.sort_unstable_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok([
        Figure::higher(
            "smollm2/prefill/tok_s",
            median(answers.iter().map(Answer::prefill_tok_s).collect()),
            "tokens/s",
            format!(
                "prompt of {prompt} tokens until the first piece, whole server, median of {seen}"
            ),
        ),
        Figure::higher(
            "smollm2/decode/tok_s",
            median(answers.iter().map(Answer::decode_tok_s).collect()),
            "tokens/s",
            format!("{ANSWER_TOKENS} tokens, first piece to last, whole server, median of {seen}"),
        ),
    ])
}

/// One generation, timed by the client.
struct Answer {
    input_tokens: u32,
    output_tokens: u32,
    to_first: Duration,
    to_last: Duration,
}

impl Answer {
    fn prefill_tok_s(&self) -> f64 {
        f64::from(self.input_tokens) / self.to_first.as_secs_f64()
    }

    /// The first piece belongs to the prompt: its token came out of the prefill.
    fn decode_tok_s(&self) -> f64 {
        let after_first = self.to_last.saturating_sub(self.to_first);
        f64::from(self.output_tokens.saturating_sub(1)) / after_first.as_secs_f64()
    }
}

async fn one_answer(client: &AgentClient) -> Result<Answer, Failure> {
    let request = GenerateRequest {
        model: GENERATE_MODEL.into(),
        prompt: [TEXT; PROMPT_TEXTS].join(" "),
        max_tokens: ANSWER_TOKENS,
        ..GenerateRequest::default()
    };
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
