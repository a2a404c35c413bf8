//! `bulkhead generate`: an answer, printed as it comes, as an agent.
//!
//! The answer alone goes to standard output. With `--json` every piece is a line of its own, and
//! the last line carries usage and receipt.

use super::{
    Outcome,
    output::{self, ReceiptView, UsageView},
};
use crate::{
    cli::{Generate, Globals},
    client::{AgentClient, ClientError, Credentials},
};
use bulkhead_proto::v1::{ChatMessage, Done, GenerateRequest, GenerateResponse};
use serde::Serialize;
use std::{io, process::ExitCode, time::Duration};
use tonic::Streaming;

/// A long answer on a slow machine, behind a cold start.
const TIMEOUT: Duration = Duration::from_secs(600);

/// One line of `--json`.
#[derive(Serialize)]
#[serde(untagged)]
enum Line {
    Piece {
        text: String,
    },
    Done {
        finish_reason: String,
        usage: UsageView,
        receipt: ReceiptView,
    },
}

impl From<Done> for Line {
    fn from(done: Done) -> Self {
        Line::Done {
            finish_reason: done.finish_reason,
            usage: done.usage.unwrap_or_default().into(),
            receipt: done.receipt.unwrap_or_default().into(),
        }
    }
}

pub fn run(_globals: &Globals, args: Generate) -> Outcome {
    let credentials = Credentials::read(&args.caller.credentials)?;
    let as_json = args.caller.json;
    let request = GenerateRequest {
        model: args.model,
        messages: vec![ChatMessage {
            role: "user".into(),
            content: args.prompt,
        }],
        max_tokens: args.max_tokens,
        temperature: args.temperature,
        seed: args.seed,
        ..GenerateRequest::default()
    };
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
        if !message.text.is_empty() {
            *line_open = !as_json;
            print_piece(message.text, as_json)?;
        }
        if let Some(done) = message.done {
            *line_open = false;
            print_done(done.into(), as_json)?;
            return Ok(ExitCode::SUCCESS);
        }
    }
    Err("the answer ended without its receipt: treat it as incomplete".into())
}

fn print_piece(text: String, as_json: bool) -> io::Result<()> {
    match as_json {
        true => output::json_line(&Line::Piece { text }),
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
