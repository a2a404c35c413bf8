//! The noisy neighbour: one tenant sends a text at a time, the other floods the same model.
//!
//! The victim is an open loop and the flood a closed one; `client::load` says why.

use super::{Failure, evidence::Evidence};
use crate::client::{
    AgentClient, ClientError,
    load::{Flood, Latency, OpenLoop, Schedule, open_loop},
};
use crate::config::Scheduling;
use bulkhead_proto::v1::EmbedRequest;
use serde::Serialize;
use std::time::{Duration, Instant};

/// The victim's schedule: one text each.
const VICTIM_EVERY: Duration = Duration::from_millis(100);
const ALONE_FOR: Duration = Duration::from_secs(8);
const BESIDE_FOR: Duration = Duration::from_secs(10);
/// The flood is under way before the victim is measured.
const FLOOD_RISES_FOR: Duration = Duration::from_secs(1);
/// The flood: connections × requests outstanding on each × texts in each.
const CONNECTIONS: usize = 8;
const OUTSTANDING: usize = 4;
const TEXTS: usize = 32;
/// No single request is waited for longer than this.
const REQUEST_MAX: Duration = Duration::from_secs(60);

/// About 38 tokens.
const TEXT: &str = "The officer of the watch closed the forward doors before the storm, wrote down \
    the time and the names of all hands on deck, and told the captain that every compartment was dry.";

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Neighbour {
    pub tokens_per_text: u32,
    pub alone: Latency,
    pub beside: Latency,
    /// Victim's requests that were not answered, of both runs.
    pub failed: u64,
    pub p99_ratio: f64,
    pub aggressor_outstanding_texts: usize,
    pub aggressor_texts_per_s: f64,
    pub aggressor_refused: u64,
    /// How long the victim would have waited in one queue for all, first come, first served:
    /// the texts before it, at the speed that they were served.
    pub single_queue_wait_ms: f64,
    pub longest_step_ms: Option<f64>,
}

impl Neighbour {
    /// True where the victim lost nothing and did not wait in the aggressor's queue.
    pub fn isolated(&self) -> bool {
        self.failed == 0
            && self.beside.requests > 0
            && self.aggressor_texts_per_s > 0.0
            && self.beside.p99_ms < self.p99_bound_ms()
    }

    /// Below this the victim's p99 beside the flood has to stay: what it is alone and what a turn of the other's may take, a
    /// quantum and the grace of a release; and half of one common queue's wait, where that is less.
    pub fn p99_bound_ms(&self) -> f64 {
        let promised_ms = self.alone.p99_ms + turn_ms();
        promised_ms.min(self.single_queue_wait_ms / 2.0)
    }
}

/// How long another's turn may take while somebody waits, as the demo's server is configured.
fn turn_ms() -> f64 {
    let scheduling = Scheduling::default();
    (scheduling.quantum_ms + scheduling.release_grace_ms) as f64
}

/// Measures the victim alone, then beside the flood.
pub async fn measure(
    victim: &AgentClient,
    aggressor: &AgentClient,
    evidence: &Evidence,
) -> Result<Neighbour, Failure> {
    // Both workers are warm before anything is measured: a cold start is not what this is about.
    let tokens_per_text = one(victim, evidence).await?;
    one(aggressor, evidence).await?;
    let alone = schedule(victim, evidence, ALONE_FOR).await;

    let flood = flood(aggressor, evidence).await?;
    tokio::time::sleep(FLOOD_RISES_FOR).await;
    let (before, began) = (flood.served(), Instant::now());
    let beside = schedule(victim, evidence, BESIDE_FOR).await;
    let served = flood.served().since(&before);
    let texts_per_s = served.units as f64 / began.elapsed().as_secs_f64();
    drop(flood);

    let outstanding = CONNECTIONS * OUTSTANDING * TEXTS;
    Ok(Neighbour {
        tokens_per_text,
        p99_ratio: beside.latency.p99_ms / alone.latency.p99_ms.max(f64::MIN_POSITIVE),
        failed: failed(&alone) + failed(&beside),
        alone: alone.latency,
        beside: beside.latency,
        aggressor_outstanding_texts: outstanding,
        aggressor_texts_per_s: texts_per_s,
        aggressor_refused: served.refused.total(),
        single_queue_wait_ms: match texts_per_s > 0.0 {
            true => outstanding as f64 / texts_per_s * 1e3,
            false => 0.0,
        },
        longest_step_ms: None,
    })
}

/// One text, waited for. Returns its tokens.
async fn one(client: &AgentClient, evidence: &Evidence) -> Result<u32, ClientError> {
    let response = client.embed(request(1), REQUEST_MAX).await?;
    evidence.add(response.receipt);
    Ok(response.embeddings.first().map_or(0, |e| e.tokens))
}

/// The victim's open loop.
async fn schedule(victim: &AgentClient, evidence: &Evidence, lasts: Duration) -> OpenLoop {
    let schedule = Schedule {
        every: VICTIM_EVERY,
        lasts,
        patience: REQUEST_MAX,
    };
    open_loop(schedule, || {
        let (victim, evidence) = (victim.clone(), evidence.clone());
        async move { one(&victim, &evidence).await.map(drop) }
    })
    .await
}

/// Requests of the victim that were not answered.
fn failed(run: &OpenLoop) -> u64 {
    run.unanswered as u64 + run.failed.total()
}

/// Begins the flood.
async fn flood(aggressor: &AgentClient, evidence: &Evidence) -> Result<Flood, ClientError> {
    let mut senders = Vec::with_capacity(CONNECTIONS * OUTSTANDING);
    for _ in 0..CONNECTIONS {
        let connection = aggressor.another_connection().await?;
        for _ in 0..OUTSTANDING {
            let (client, evidence) = (connection.clone(), evidence.clone());
            senders.push(move || {
                let (client, evidence) = (client.clone(), evidence.clone());
                async move { many(&client, &evidence).await }
            });
        }
    }
    Ok(Flood::begin(senders))
}

/// One request of the flood. Returns how many texts were served.
async fn many(client: &AgentClient, evidence: &Evidence) -> Result<u64, ClientError> {
    let response = client.embed(request(TEXTS), REQUEST_MAX).await?;
    evidence.add(response.receipt);
    Ok(response.embeddings.len() as u64)
}

fn request(texts: usize) -> EmbedRequest {
    EmbedRequest {
        model: super::EMBED_MODEL.into(),
        texts: vec![TEXT.into(); texts],
        ..EmbedRequest::default()
    }
}

/// The lines that tell of it.
pub fn lines(found: &Neighbour) -> Vec<String> {
    let latency = |name: &str, l: &Latency| {
        format!(
            "acme {name:<18} p50 {:>6.1} ms   p99 {:>6.1} ms   ({} requests)",
            l.p50_ms, l.p99_ms, l.requests
        )
    };
    let mut lines = vec![
        latency("alone", &found.alone),
        latency("beside the flood", &found.beside),
        format!(
            "globex flooding     {:.0} texts/s served, {} texts outstanding, {} requests refused",
            found.aggressor_texts_per_s, found.aggressor_outstanding_texts, found.aggressor_refused
        ),
        format!(
            "p99 × {:.2}; in one queue for all, acme would have waited about {:.1} s",
            found.p99_ratio,
            found.single_queue_wait_ms / 1e3
        ),
        format!(
            "judged by: p99 beside the flood below {:.0} ms (what it is alone, and {:.0} ms for a turn of globex's; at most half of that wait), and none of acme's requests lost",
            found.p99_bound_ms(),
            turn_ms()
        ),
    ];
    if let Some(step) = found.longest_step_ms {
        lines.push(format!("longest step on the device: {step:.1} ms"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(p99_ms: f64, failed: u64) -> Neighbour {
        Neighbour {
            beside: Latency {
                requests: 100,
                p99_ms,
                ..Latency::default()
            },
            failed,
            aggressor_texts_per_s: 100.0,
            single_queue_wait_ms: 10_000.0,
            ..Neighbour::default()
        }
    }

    #[test]
    fn a_victim_that_waits_in_the_others_queue_is_not_isolated() {
        assert!(found(100.0, 0).isolated());
        assert!(!found(turn_ms(), 0).isolated(), "longer than a turn");
        let short_queue = Neighbour {
            single_queue_wait_ms: 150.0,
            ..found(100.0, 0)
        };
        assert!(!short_queue.isolated(), "as in the other's queue");
        assert!(!found(100.0, 1).isolated());
    }

    #[test]
    fn without_a_flood_nothing_was_shown() {
        let quiet = Neighbour {
            aggressor_texts_per_s: 0.0,
            ..found(100.0, 0)
        };
        assert!(!quiet.isolated());
    }
}
