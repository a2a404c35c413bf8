//! Who is measured: one small request at a time on a fixed schedule, below its share.
//!
//! Latencies count from the moment that the schedule named. A request that is refused or fails is counted, is no
//! latency, and is never sent again.

use super::{Failure, args};
use crate::workload::{self, EMBED_MODEL, GENERATE_MODEL, REQUEST_MAX, TEXT};
use bulkhead_client::{
    AgentClient, ClientError,
    load::{OpenLoop, Schedule},
};
use clap::ValueEnum;
use std::time::Duration;

/// How long the victim's last answers are awaited. What has no answer then counts with its age.
const PATIENCE: Duration = Duration::from_secs(4);
/// Requests before anything is measured, so that its worker is there and knows what steps take.
const WARM_UP: usize = 8;
/// Tokens of the answer.
const ANSWER_TOKENS: u32 = 16;

/// What the victim asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Victim {
    /// One text of 38 tokens, MiniLM
    Text,
    /// An answer of 16 tokens, SmolLM2
    Answer,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 2] = [Victim::Text, Victim::Answer];

    /// The name in tables and in the plot.
    pub fn title(self) -> &'static str {
        match self {
            Victim::Text => "one text of MiniLM",
            Victim::Answer => "16 tokens of SmolLM2",
        }
    }

    /// What its figures' names begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Victim::Text => "victim",
            Victim::Answer => "answer",
        }
    }

    /// The model that it uses.
    pub fn model(self) -> &'static str {
        match self {
            Victim::Text => EMBED_MODEL,
            Victim::Answer => GENERATE_MODEL,
        }
    }

    /// Between two of its requests.
    pub fn every(self, args: &args::Noisy) -> Duration {
        Duration::from_millis(match self {
            Victim::Text => args.every_ms,
            Victim::Answer => args.answer_every_ms,
        })
    }

    /// When it sends.
    pub fn schedule(self, args: &args::Noisy) -> Schedule {
        Schedule {
            every: self.every(args),
            lasts: Duration::from_secs(args.seconds),
            patience: PATIENCE,
        }
    }

    /// Fetches a token, has the worker started, and lets it learn what its steps take.
    pub async fn warm_up(self, client: &AgentClient) -> Result<(), Failure> {
        client.list_models(REQUEST_MAX).await?;
        if self == Victim::Text {
            workload::check_tokens(client).await?;
        }
        for _ in 0..WARM_UP {
            self.ask(client.clone()).await?;
        }
        Ok(())
    }

    /// One request. Returns its tokens, in and out.
    pub async fn ask(self, client: AgentClient) -> Result<u64, ClientError> {
        match self {
            Victim::Text => {
                let request = workload::embedding(vec![TEXT.into()]);
                let response = client.embed(request, REQUEST_MAX).await?;
                Ok(workload::embedded_tokens(&response))
            }
            Victim::Answer => {
                let request = workload::generation(TEXT, ANSWER_TOKENS);
                workload::generate(&client, request).await
            }
        }
    }
}

/// What became of the victim's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub answered: u64,
    /// The server took it in none of its queues.
    pub refused: u64,
    /// It broke on the way.
    pub failed: u64,
    /// Neither when patience ended.
    pub unanswered: u64,
}

/// Reasons by which a server says that a request found no place.
const REFUSALS: [&str; 5] = [
    "TENANT_QUEUE_FULL",
    "TENANT_OPEN_LIMIT",
    "QUEUE_FULL",
    "WORKER_UNAVAILABLE",
    "AUDIT_UNAVAILABLE",
];

impl Fate {
    /// Of all that were sent.
    pub fn of(seen: &OpenLoop) -> Fate {
        let refused = seen
            .failed
            .iter()
            .filter(|(reason, _)| REFUSALS.contains(reason))
            .map(|(_, count)| count)
            .sum();
        Fate {
            answered: seen.answered as u64,
            refused,
            failed: seen.failed.total() - refused,
            unanswered: seen.unanswered as u64,
        }
    }

    /// All that were sent.
    pub fn sent(&self) -> u64 {
        self.answered + self.refused + self.failed + self.unanswered
    }
}
