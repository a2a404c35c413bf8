//! The noisy neighbour: one tenant sends a text at a time, the other floods the same model.
//!
//! The victim is an open loop: texts are sent on a fixed schedule, whether earlier ones were answered
//! or not, and a latency counts from the moment that the schedule named. A closed loop would slow down
//! with the server and hide the very waiting that is to be measured.

use super::{Failure, evidence::Evidence, latency::Latency};
use crate::client::{AgentClient, ClientError};
use bulkhead_proto::v1::EmbedRequest;
use serde::Serialize;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

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
/// The least pause after a refusal, and the longest.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);

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
    pub failed: usize,
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
            && self.beside.p99_ms < self.single_queue_wait_ms / 2.0
    }
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
    let (alone, failed_alone) = schedule(victim, evidence, ALONE_FOR).await;

    let flood = Flood::begin(aggressor, evidence).await?;
    tokio::time::sleep(FLOOD_RISES_FOR).await;
    flood.served.store(0, Ordering::Relaxed);
    let began = Instant::now();
    let (beside, failed_beside) = schedule(victim, evidence, BESIDE_FOR).await;
    let texts_per_s = flood.served.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    let refused = flood.refused.load(Ordering::Relaxed);
    drop(flood);

    let outstanding = CONNECTIONS * OUTSTANDING * TEXTS;
    Ok(Neighbour {
        tokens_per_text,
        p99_ratio: beside.p99_ms / alone.p99_ms.max(f64::MIN_POSITIVE),
        alone,
        beside,
        failed: failed_alone + failed_beside,
        aggressor_outstanding_texts: outstanding,
        aggressor_texts_per_s: texts_per_s,
        aggressor_refused: refused,
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

/// The victim's open loop. Returns the latencies of what was answered, and how many were not.
async fn schedule(victim: &AgentClient, evidence: &Evidence, for_: Duration) -> (Latency, usize) {
    let start = tokio::time::Instant::now();
    let mut sent = JoinSet::new();
    let mut due = start;
    while due < start + for_ {
        tokio::time::sleep_until(due).await;
        let (client, evidence) = (victim.clone(), evidence.clone());
        sent.spawn(async move {
            one(&client, &evidence).await?;
            Ok::<Duration, ClientError>(due.elapsed())
        });
        due += VICTIM_EVERY;
    }
    let ended = sent.join_all().await;
    let all = ended.len();
    let answered: Vec<Duration> = ended.into_iter().filter_map(Result::ok).collect();
    let failed = all - answered.len();
    (Latency::of(answered), failed)
}

/// Requests that go on until this is dropped.
struct Flood {
    served: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl Flood {
    async fn begin(aggressor: &AgentClient, evidence: &Evidence) -> Result<Flood, ClientError> {
        let served = Arc::new(AtomicU64::new(0));
        let refused = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..CONNECTIONS {
            let client = aggressor.another_connection().await?;
            for _ in 0..OUTSTANDING {
                tasks.spawn(pour(
                    client.clone(),
                    evidence.clone(),
                    Arc::clone(&served),
                    Arc::clone(&refused),
                ));
            }
        }
        Ok(Flood {
            served,
            refused,
            _tasks: tasks,
        })
    }
}

/// One of the flood's requests after the other.
async fn pour(
    client: AgentClient,
    evidence: Evidence,
    served: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
) {
    loop {
        match client.embed(request(TEXTS), REQUEST_MAX).await {
            Ok(response) => {
                served.fetch_add(response.embeddings.len() as u64, Ordering::Relaxed);
                evidence.add(response.receipt);
            }
            Err(error) => {
                refused.fetch_add(1, Ordering::Relaxed);
                let pause = error.retry_after().unwrap_or(BACK_OFF_MIN);
                tokio::time::sleep(pause.clamp(BACK_OFF_MIN, BACK_OFF_MAX)).await;
            }
        }
    }
}

fn request(texts: usize) -> EmbedRequest {
    EmbedRequest {
        model: super::EMBED_MODEL.into(),
        texts: vec![TEXT.into(); texts],
        context: None,
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
            "p99 × {:.1}; in one queue for all, acme would have waited about {:.1} s",
            found.p99_ratio,
            found.single_queue_wait_ms / 1e3
        ),
    ];
    if let Some(step) = found.longest_step_ms {
        lines.push(format!(
            "longest step on the device: {step:.1} ms (what a victim waits at most for its turn)"
        ));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(p99_ms: f64, failed: usize) -> Neighbour {
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
        assert!(!found(9_000.0, 0).isolated());
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
