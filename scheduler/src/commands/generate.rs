//! `bulkhead generate`: an answer, printed as it comes, as an agent.
//!
//! The answer alone goes to standard output. With `--json` every piece is a line of its own, and
//! the last line carries usage and receipt.

use super::{
    Outcome,
    output::{self, ReceiptView, UsageView},
};
use crate::{
    cli::{Generate, Globals, SamplingArgs},
    client::{AgentClient, ClientError, Credentials},
};
use bulkhead_proto::v1::{ChatMessage, Done, GenerateRequest, GenerateResponse, TokenLogprob};
use serde::Serialize;
use std::{io, process::ExitCode, time::Duration};
use tonic::Streaming;

/// A long answer on a slow machine, behind a cold start.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One line of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Piece(Piece),
    Done {
        finish_reason: String,
        #[serde(skip_serializing_if = "String::is_empty")]
        stop_sequence: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        stop_token: Option<u32>,
        seed: u64,
        usage: UsageView,
        receipt: ReceiptView,
    },
}

#[derive(Serialize)]
struct Piece {
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    logprobs: Vec<Logprob>,
}

/// A token, and how likely it was; `bytes` say exactly what `text` may only approximate.
#[derive(Serialize)]
struct Logprob {
    token: u32,
    text: String,
    bytes: Vec<u8>,
    logprob: f32,
    top: Vec<Alternative>,
}

#[derive(Serialize)]
struct Alternative {
    token: u32,
    text: String,
    bytes: Vec<u8>,
    logprob: f32,
}

impl From<TokenLogprob> for Logprob {
    fn from(entry: TokenLogprob) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let alternatives = entry.top.into_iter().map(|one| Alternative {
            token: one.token,
            text: text(&one.bytes),
            bytes: one.bytes,
            logprob: one.logprob,
        });
        Logprob {
            token: entry.token,
            text: text(&entry.bytes),
            bytes: entry.bytes,
            logprob: entry.logprob,
            top: alternatives.collect(),
        }
    }
}

impl From<Done> for Line {
    fn from(done: Done) -> Self {
        Line::Done {
            finish_reason: done.finish_reason,
            stop_sequence: done.stop_sequence,
            stop_token: done.stop_token,
            seed: done.seed,
            usage: done.usage.unwrap_or_default().into(),
            receipt: done.receipt.unwrap_or_default().into(),
        }
    }
}

fn request(args: Generate) -> GenerateRequest {
    let SamplingArgs {
        temperature,
        top_k,
        top_p,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias,
        seed,
        stop,
        stop_token,
        min_tokens,
        ignore_eos,
        logprobs,
    } = args.sampling;
    let (messages, prompt) = match args.raw {
        true => (Vec::new(), args.prompt),
        false => {
            let (role, content) = ("user".into(), args.prompt);
            (vec![ChatMessage { role, content }], String::new())
        }
    };
    GenerateRequest {
        model: args.model,
        messages,
        prompt,
        max_tokens: args.max_tokens,
        temperature,
        top_p,
        seed,
        stop,
        context: None,
        top_k,
        min_p,
        repetition_penalty,
        presence_penalty,
        frequency_penalty,
        logit_bias: logit_bias.into_iter().collect(),
        stop_token_ids: stop_token,
        min_tokens,
        ignore_eos,
        logprobs,
        priority: super::priority(args.batch).into(),
    }
}

pub fn run(_globals: &Globals, args: Generate) -> Outcome {
    let credentials = Credentials::read(&args.caller.credentials)?;
    let as_json = args.caller.json;
    let request = request(args);
    output::block_on(async {
        let client = AgentClient::connect(credentials, None).await?;
        let stream = client.generate(request, TIMEOUT).await?;
        let mut line_open = false;
        let printing = print_all(stream, as_json, &mut line_open);
        let outcome = match tokio::time::timeout(TIMEOUT, printing).await {
            Ok(outcome) => outcome,
            Err(_) => Err(ClientError::TimedOut {
                seconds: TIMEOUT.as_secs(),
            }
            .into()),
        };
        if outcome.is_err() && line_open {
            // What went wrong must not be glued to the text.
            output::line("")?;
        }
        outcome
    })?
}

/// Prints the answer as it comes. `line_open` says whether text was printed whose line has no end yet.
async fn print_all(
    mut stream: Streaming<GenerateResponse>,
    as_json: bool,
    line_open: &mut bool,
) -> Outcome {
    while let Some(message) = stream.message().await.map_err(ClientError::from)? {
        if !(message.text.is_empty() && message.logprobs.is_empty()) {
            *line_open = !as_json;
            print_piece(message.text, message.logprobs, as_json)?;
        }
        if let Some(done) = message.done {
            *line_open = false;
            print_done(done.into(), as_json)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err("the answer ended without its receipt: treat it as incomplete".into())
}

fn print_piece(text: String, logprobs: Vec<TokenLogprob>, as_json: bool) -> io::Result<()> {
    let logprobs = logprobs.into_iter().map(Logprob::from).collect();
    match as_json {
        true => output::json_line(&Line::Piece(Piece { text, logprobs })),
        false => output::piece(&text),
    }
}

fn print_done(done: Line, as_json: bool) -> io::Result<()> {
    if as_json {
        return output::json_line(&done);
    }
    output::line("")?;
    if let Line::Done {
        finish_reason,
        usage,
        receipt,
        ..
    } = done
    {
        eprintln!(
            "{} tokens in, {} out ({finish_reason}); {}",
            usage.input_tokens,
            usage.output_tokens,
            receipt.remark()
        );
    }
    Ok(())
}
