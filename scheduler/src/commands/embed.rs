//! `bulkhead embed`: texts to vectors, as an agent.

use super::{
    Outcome,
    output::{self, ReceiptView, UsageView},
};
use crate::{
    cli::{Embed, Globals},
    client::{AgentClient, Credentials},
};
use bulkhead_proto::v1::{EmbedRequest, EmbedResponse};
use serde::Serialize;
use std::{process::ExitCode, time::Duration};

/// A cold worker has to load its model first.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Characters of a text, and values of a vector, that a table's cell shows.
const TEXT_CHARS_SHOWN: usize = 40;
const VALUES_SHOWN: usize = 4;

/// The whole answer in JSON.
#[derive(Serialize)]
struct View {
    model: String,
    vectors: Vec<Vec<f32>>,
    tokens: Vec<u32>,
    truncated: Vec<bool>,
    usage: UsageView,
    receipt: ReceiptView,
}

pub fn run(_globals: &Globals, args: Embed) -> Outcome {
    let credentials = Credentials::read(&args.caller.credentials)?;
    output::block_on(async {
        let client = AgentClient::connect(credentials, None).await?;
        let request = EmbedRequest {
            model: args.model.clone(),
            texts: args.texts.clone(),
            priority: super::priority(args.batch).into(),
            ..EmbedRequest::default()
        };
        let view = view(args.model, client.embed(request, TIMEOUT).await?);
        match args.caller.json {
            true => output::json_line(&view)?,
            false => {
                output::line(&listing(&args.texts, &view))?;
                eprintln!("{}", view.receipt.remark());
            }
        }
        Ok(ExitCode::SUCCESS)
    })?
}

fn view(model: String, response: EmbedResponse) -> View {
    let embeddings = &response.embeddings;
    View {
        model,
        tokens: embeddings.iter().map(|e| e.tokens).collect(),
        truncated: embeddings.iter().map(|e| e.truncated).collect(),
        vectors: response.embeddings.into_iter().map(|e| e.values).collect(),
        usage: response.usage.unwrap_or_default().into(),
        receipt: response.receipt.unwrap_or_default().into(),
    }
}

fn listing(texts: &[String], view: &View) -> String {
    let rows = texts.iter().enumerate().map(|(index, text)| {
        let vector = view.vectors.get(index).map_or(&[][..], Vec::as_slice);
        let tokens = view.tokens.get(index).copied().unwrap_or_default();
        let cut = view.truncated.get(index).copied().unwrap_or_default();
        vec![
            output::shortened(text, TEXT_CHARS_SHOWN),
            format!("{tokens}{}", if cut { ", cut" } else { "" }),
            vector.len().to_string(),
            first_values(vector),
        ]
    });
    output::table(&["text~", "tokens>", "width>", "values"], rows)
}

fn first_values(vector: &[f32]) -> String {
    let shown: Vec<String> = vector
        .iter()
        .take(VALUES_SHOWN)
        .map(|v| format!("{v:+.4}"))
        .collect();
    match vector.len() > VALUES_SHOWN {
        true => format!("{} …", shown.join(" ")),
        false => shown.join(" "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_proto::v1::Embedding;

    #[test]
    fn long_texts_and_vectors_are_shown_by_their_beginnings() {
        let text = "a very long text that nobody would like to see in a table, whole";
        let response = EmbedResponse {
            embeddings: vec![Embedding {
                values: vec![0.5; 384],
                tokens: 15,
                truncated: true,
            }],
            ..EmbedResponse::default()
        };
        let table = listing(&[text.into()], &view("minilm".into(), response));
        assert!(table.contains("15, cut"), "{table}");
        assert!(table.contains("384"), "{table}");
        assert!(
            table.contains("+0.5000 +0.5000 +0.5000 +0.5000 …"),
            "{table}"
        );
        assert!(!table.contains("whole"), "{table}");
    }

    #[test]
    fn json_keeps_the_values_as_they_were() {
        let response = EmbedResponse {
            embeddings: vec![Embedding {
                values: vec![0.1],
                ..Embedding::default()
            }],
            ..EmbedResponse::default()
        };
        let json = serde_json::to_string(&view("minilm".into(), response)).unwrap();
        assert!(json.contains("\"vectors\":[[0.1]]"), "{json}");
    }
}
