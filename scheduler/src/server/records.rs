//! What is written into audit records: who, what, how much, how it ended. Never a prompt, an answer, or
//! a token.

use super::{
    audit_log::AuditLog,
    driver::{Ended, Job, outcome_word},
    submit::Work,
};
use bulkhead_policy::Permit;
use bulkhead_proto::internal::{GenerateJob, RecordKind};
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Reasons that one aggregate counts by themselves; they come from our own fixed sets.
const REASONS_MAX: usize = 128;

/// A request was accepted.
pub fn admitted(permit: &Permit, work: &Work, region: &str) -> Vec<u8> {
    let who = permit.principal();
    let (inputs, bytes) = match &work.job {
        Job::Embed(job) => (
            job.texts.len(),
            job.texts.iter().map(String::len).sum::<usize>(),
        ),
        Job::Generate(job) => {
            let turns = job.messages.iter().map(|t| t.content.len()).sum::<usize>();
            (job.messages.len().max(1), turns + job.prompt.len())
        }
    };
    let claims = work.context.as_ref().map(|claims| Claims {
        confidence: claims.confidence,
        purpose: &claims.purpose,
        reason: &claims.reason,
        sensitivity: &claims.sensitivity,
        sources: &claims.sources,
    });
    bytes_of(&Admitted {
        action: permit.action().name(),
        agent: who.agent_id(),
        agent_name: who.agent_name(),
        claims,
        deadline: work.deadline_ns.is_some(),
        input_bytes: bytes,
        inputs,
        model: permit.model(),
        region,
        sampling: match &work.job {
            Job::Generate(job) => Some(sampling(job)),
            Job::Embed(_) => None,
        },
        token: who.token_id(),
    })
}

/// In the order of names, as all records' bodies are.
#[derive(Serialize)]
struct Admitted<'a> {
    action: &'static str,
    agent: &'a str,
    agent_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    claims: Option<Claims<'a>>,
    deadline: bool,
    input_bytes: usize,
    inputs: usize,
    model: &'a str,
    region: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    sampling: Option<Value>,
    token: &'a str,
}

#[derive(Serialize)]
struct Claims<'a> {
    confidence: f64,
    purpose: &'a str,
    reason: &'a str,
    sensitivity: &'a str,
    sources: &'a [String],
}

/// The numbers that an answer's tokens are chosen by, as far as they are not off: with the prompt, which
/// is not here, they say how to get the answer again.
fn sampling(job: &GenerateJob) -> Value {
    let mut numbers = Map::new();
    numbers.insert("max_tokens".into(), job.max_tokens.into());
    if job.temperature > 0.0 {
        numbers.insert("seed".into(), job.seed.into());
    }
    let floats = [
        ("temperature", job.temperature),
        ("top_p", job.top_p),
        ("min_p", job.min_p),
        ("repetition_penalty", job.repetition_penalty),
        ("presence_penalty", job.presence_penalty),
        ("frequency_penalty", job.frequency_penalty),
    ];
    // Written as they were asked for: 0.8, not the nearest number of twice the width.
    let floats = floats
        .into_iter()
        .filter(|(_, value)| *value != 0.0)
        .filter_map(|(name, value)| Some((name, value.to_string().parse::<f64>().ok()?.into())));
    let counts = [
        ("top_k", job.top_k as usize),
        ("min_tokens", job.min_tokens as usize),
        ("logit_biases", job.logit_bias.len()),
        ("stops", job.stop.len() + job.stop_token_ids.len()),
    ];
    let counts = counts.into_iter().filter(|(_, count)| *count > 0);
    let counts = counts.map(|(name, count)| (name, Value::from(count)));
    numbers.extend(
        floats
            .chain(counts)
            .map(|(name, value)| (name.into(), value)),
    );
    numbers.into()
}

/// An accepted request ended.
pub fn completed(ended: &Ended) -> Vec<u8> {
    let scrub = ended.scrub.unwrap_or_default();
    bytes_of(&Completed {
        finish_reason: &ended.finish_reason,
        input_tokens: ended.usage.input_tokens,
        outcome: outcome_word(ended.end),
        output_tokens: ended.usage.output_tokens,
        queue_us: ended.queue_ns / 1000,
        scrub: Scrub {
            bytes_verified: scrub.bytes_verified,
            bytes_zeroed: scrub.bytes_zeroed,
            evidence: ended.scrub.is_some(),
            residue_bytes: scrub.residue_bytes,
            retained_bytes: scrub.retained_bytes,
        },
        total_us: ended.total_ns / 1000,
        worker: ended.worker.map(|w| w.0),
    })
}

#[derive(Serialize)]
struct Completed<'a> {
    finish_reason: &'a str,
    input_tokens: u32,
    outcome: &'static str,
    output_tokens: u32,
    queue_us: u64,
    scrub: Scrub,
    total_us: u64,
    worker: Option<u64>,
}

#[derive(Serialize)]
struct Scrub {
    bytes_verified: u64,
    bytes_zeroed: u64,
    evidence: bool,
    residue_bytes: u64,
    retained_bytes: u64,
}

/// An accepted request ended because the scheduler failed inside.
pub fn lost() -> Vec<u8> {
    bytes_of(&json!({ "outcome": "scheduler_failed" }))
}

/// A known agent was refused.
pub fn refused_agent(agent: &str, reason: &str) -> Vec<u8> {
    bytes_of(&json!({ "agent": agent, "reason": reason }))
}

/// An operator's act, or a token that was issued.
pub fn act(what: &str, details: Value) -> Vec<u8> {
    bytes_of(&json!({ "act": what, "details": details }))
}

fn bytes_of(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("a record is JSON")
}

/// Refusals before authentication and while the log is down: counted, and written as one record a
/// period, so that nobody can flood the log.
#[derive(Debug, Default)]
pub struct Aggregate {
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Aggregate {
    /// Counts one refusal.
    pub fn count(&self, reason: &'static str) {
        let mut counts = self.counts.lock();
        if counts.len() < REASONS_MAX || counts.contains_key(reason) {
            *counts.entry(reason).or_default() += 1;
        }
    }

    /// Writes what was counted since the last time. What the log does not take is kept and added to.
    pub fn flush(&self, log: &AuditLog) {
        let counts = std::mem::take(&mut *self.counts.lock());
        if counts.is_empty() {
            return;
        }
        let body = bytes_of(&json!({ "refused": counts }));
        if log.append("", RecordKind::Aggregate, "", body).is_err() {
            let mut kept = self.counts.lock();
            for (reason, n) in counts {
                *kept.entry(reason).or_default() += n;
            }
        }
    }
}

/// Refusals that one agent may have recorded one by one in a period; the rest are counted.
const REFUSALS_PER_PERIOD: u32 = 60;
/// Agents that are kept apart in a period; beyond it all are counted.
const AGENTS_PER_PERIOD: usize = 100_000;

/// Bounds how many records an agent that is refused can cause.
#[derive(Debug, Default)]
pub struct RefusalBudget {
    used: Mutex<BTreeMap<u32, u32>>,
}

impl RefusalBudget {
    /// True where the agent's refusal may have a record of its own.
    pub fn take(&self, agent: u32) -> bool {
        let mut used = self.used.lock();
        if used.len() >= AGENTS_PER_PERIOD && !used.contains_key(&agent) {
            return false;
        }
        let used = used.entry(agent).or_default();
        *used += 1;
        *used <= REFUSALS_PER_PERIOD
    }

    /// Starts a new period.
    pub fn reset(&self) {
        self.used.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_the_numbers_of_the_sampling_and_no_text() {
        let greedy = GenerateJob {
            prompt: "a secret".into(),
            max_tokens: 9,
            seed: 4,
            ..GenerateJob::default()
        };
        assert_eq!(sampling(&greedy), json!({ "max_tokens": 9 }));
        let warm = GenerateJob {
            temperature: 0.8,
            presence_penalty: -0.5,
            top_k: 40,
            stop: vec!["a secret".into()],
            stop_token_ids: vec![7],
            ..greedy
        };
        assert_eq!(
            sampling(&warm),
            json!({
                "max_tokens": 9, "seed": 4, "temperature": 0.8, "presence_penalty": -0.5,
                "top_k": 40, "stops": 2,
            })
        );
    }
}
