//! Who presses: seven kinds, each with real connections, real tokens and real work.
//!
//! An aggressor works the victim's own model wherever that can do what the kind does, since that is where it is in the
//! way most. It counts what it did: a pressure that presses nothing would make any server look good. None of them
//! measures a latency, and none stops before it is dropped.

mod loops;
mod storms;
mod wire;

use super::{Failure, args, identities::Stand, victim::Victim};
use crate::workload::{self, EMBED_MODEL, GENERATE_MODEL, TEXT};
use bulkhead_client::{
    AgentClient, ClientError,
    load::{Flood, Reasons},
};
use clap::ValueEnum;
use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

/// Agents of the tenant that has many.
const MANY_AGENTS: usize = 100;

/// How the victim's neighbour behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Aggressor {
    /// Many connections, each with many batches outstanding
    Flood,
    /// A few requests, each as long as the model takes
    Huge,
    /// A few answers of thousands of tokens (SmolLM2)
    Long,
    /// A hundred agents of one tenant, each with a connection and a request of its own
    Agents,
    /// New TLS connections all the time, some left in the middle of their handshake
    Churn,
    /// Hundreds of requests a second whose sender hangs up at once
    Cancel,
    /// Requests whose deadline is past when they come, or a few milliseconds away
    Deadlines,
}

impl Aggressor {
    /// All of them.
    pub const ALL: [Aggressor; 7] = [
        Aggressor::Flood,
        Aggressor::Huge,
        Aggressor::Long,
        Aggressor::Agents,
        Aggressor::Churn,
        Aggressor::Cancel,
        Aggressor::Deadlines,
    ];

    /// The name in figures.
    pub fn word(self) -> &'static str {
        match self {
            Aggressor::Flood => "flood",
            Aggressor::Huge => "huge",
            Aggressor::Long => "long",
            Aggressor::Agents => "agents",
            Aggressor::Churn => "churn",
            Aggressor::Cancel => "cancel",
            Aggressor::Deadlines => "deadlines",
        }
    }

    /// How many agents it has.
    pub fn agents(self) -> usize {
        match self {
            Aggressor::Agents => MANY_AGENTS,
            _ => 1,
        }
    }

    /// The model that it works: the victim's, unless only the other can do this.
    pub fn model(self, victim: Victim) -> &'static str {
        match self {
            Aggressor::Long => GENERATE_MODEL,
            _ => victim.model(),
        }
    }

    /// True of one that does not wait for what it asked for.
    pub fn wastes(self) -> bool {
        matches!(self, Aggressor::Cancel | Aggressor::Deadlines)
    }

    /// Makes its connections, warms its worker up, and begins.
    pub async fn begin(
        self,
        stand: &Stand,
        victim: Victim,
        args: &args::Noisy,
    ) -> Result<Pressure, Failure> {
        let work = Work::of(self.model(victim));
        let credentials = stand
            .aggressors
            .first()
            .ok_or("an aggressor without agents")?;
        let client = AgentClient::connect(credentials.clone(), None).await?;
        work.small(&client).await?;
        let did = Arc::new(Did::default());
        let flood = match self {
            Aggressor::Flood => loops::flood(&client, work, args, &did).await?,
            Aggressor::Huge => loops::huge(&client, work, &did).await?,
            Aggressor::Long => loops::long(&client, &did),
            Aggressor::Agents => loops::agents(stand, work, &did).await?,
            Aggressor::Churn => storms::churn(&client, credentials, work, &did)?,
            Aggressor::Cancel => storms::cancel(&client, work, &did).await?,
            Aggressor::Deadlines => storms::deadlines(stand, work, &did).await?,
        };
        Ok(Pressure { flood, did })
    }
}

/// Requests for one of the two models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Embed,
    Generate,
}

impl Work {
    fn of(model: &str) -> Work {
        match model == EMBED_MODEL {
            true => Work::Embed,
            false => Work::Generate,
        }
    }

    /// The least that can be asked for. Returns its tokens, as all of these do.
    async fn small(self, client: &AgentClient) -> Result<u64, ClientError> {
        self.some(client, 1, 1).await
    }

    /// So many texts, or one answer of so many tokens.
    async fn some(
        self,
        client: &AgentClient,
        texts: usize,
        tokens: u32,
    ) -> Result<u64, ClientError> {
        match self {
            Work::Embed => self.texts(client, vec![TEXT.into(); texts]).await,
            Work::Generate => workload::generate(client, workload::generation(TEXT, tokens)).await,
        }
    }

    async fn texts(self, client: &AgentClient, texts: Vec<String>) -> Result<u64, ClientError> {
        let request = workload::embedding(texts);
        let response = client.embed(request, workload::REQUEST_MAX).await?;
        Ok(workload::embedded_tokens(&response))
    }
}

/// Aggression under way; ends when it is dropped.
pub struct Pressure {
    flood: Flood,
    did: Arc<Did>,
}

impl Pressure {
    /// What it did so far.
    pub fn deeds(&self) -> Deeds {
        let served = self.flood.served();
        let mut deeds = self.did.so_far();
        deeds.tokens = served.units;
        served.refused.iter().for_each(|(reason, count)| {
            deeds.refused.push((reason.to_owned(), count));
        });
        deeds
    }
}

/// What an aggressor did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deeds {
    pub sent: u64,
    pub answered: u64,
    pub hung_up: u64,
    pub connections: u64,
    pub abandoned: u64,
    /// Of what was answered.
    pub tokens: u64,
    /// By reason; a reason may come twice.
    pub refused: Vec<(String, u64)>,
}

impl Deeds {
    /// Refusals and failures of all reasons.
    pub fn refused_total(&self) -> u64 {
        self.refused.iter().map(|(_, count)| count).sum()
    }

    /// What was not zero, for people.
    pub fn line(&self) -> String {
        let counts = [
            ("connections", self.connections),
            ("left in their handshake", self.abandoned),
            ("sent", self.sent),
            ("answered", self.answered),
            ("hung up", self.hung_up),
        ];
        let counts = counts.iter().map(|(what, count)| (*what, *count));
        let refused = self
            .refused
            .iter()
            .map(|(why, count)| (why.as_str(), *count));
        let told = counts.chain(refused).filter(|(_, count)| *count > 0);
        let told: Vec<String> = told
            .map(|(what, count)| format!("{count} {what}"))
            .collect();
        told.join(", ")
    }
}

/// Counts while it goes on.
#[derive(Debug, Default)]
struct Did {
    sent: AtomicU64,
    answered: AtomicU64,
    hung_up: AtomicU64,
    connections: AtomicU64,
    abandoned: AtomicU64,
    /// Refusals that are what the aggressor is after, and no reason to wait.
    sought: Mutex<Reasons>,
}

impl Did {
    /// Counts one more. These are figures for people: no order among them is needed.
    fn one(count: &AtomicU64) {
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn refused(&self, error: &ClientError) {
        let mut sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        sought.add(error);
    }

    /// One request, counted as sent and as answered.
    async fn counted(
        &self,
        ask: impl Future<Output = Result<u64, ClientError>>,
    ) -> Result<u64, ClientError> {
        Did::one(&self.sent);
        let tokens = ask.await?;
        Did::one(&self.answered);
        Ok(tokens)
    }

    fn so_far(&self) -> Deeds {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let sought = self.sought.lock().unwrap_or_else(PoisonError::into_inner);
        Deeds {
            sent: read(&self.sent),
            answered: read(&self.answered),
            hung_up: read(&self.hung_up),
            connections: read(&self.connections),
            abandoned: read(&self.abandoned),
            tokens: 0,
            refused: sought
                .iter()
                .map(|(reason, count)| (reason.to_owned(), count))
                .collect(),
        }
    }
}
