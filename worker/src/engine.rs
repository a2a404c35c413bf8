//! What the worker's loop asks of a model: take jobs, run steps, drop jobs.
//!
//! An engine never blocks, never does I/O, never sees a tenant's name, and works only inside
//! `step`, which the loop calls only while the worker holds a lease.

use bulkhead_kernels::Residue;
use bulkhead_proto::internal::{Counters, Finished, Piece, WorkItem};
use bulkhead_worker_core::Clock;

/// What a loaded model is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelInfo {
    /// "embed" or "generate".
    pub task: &'static str,
    /// Embedding width, or 0.
    pub dimensions: u32,
    /// Longest input, tokens.
    pub context_tokens: u32,
    /// KV bytes that one token of one sequence takes; 0 for embeddings.
    pub kv_bytes_per_token: u64,
    /// Bytes that the weights take, as they are computed with.
    pub weights_bytes: u64,
}

/// What one step did.
#[derive(Debug, Default)]
pub struct StepOutcome {
    pub sequences: u32,
    pub tokens: u32,
    pub pieces: Vec<Piece>,
    /// Without the scrub report: the loop adds it after it has scrubbed.
    pub finished: Vec<Finished>,
    /// What the passes that it ended were expected to take, and took, nanoseconds; 0 where none was.
    pub expected_ns: u64,
    pub computed_ns: u64,
    /// Bytes that were not zero after they had been zeroed. The loop ends the worker.
    pub residue_bytes: u64,
}

/// A model with the sequences that it is working on.
pub trait Engine: Send {
    fn info(&self) -> ModelInfo;
    /// Before `assign`: prompts' whole blocks may stay for prompts that begin alike, under names made
    /// with this random key, until nobody used them for `idle_ns`. Models that cache nothing ignore it.
    fn cache_prefixes(&mut self, _key: u128, _idle_ns: u64) {}
    /// Once, before the first job: the tenant's bytes for KV and the longest step, nanoseconds.
    fn assign(&mut self, quota_bytes: u64, step_limit_ns: u64);
    /// Takes a job. One that cannot be run at all (too long, bad template) is answered by
    /// `finished` in the next step, so that there is one way out.
    fn add(&mut self, item: WorkItem);
    /// Drops a job: nothing more is computed for it. It is answered by `finished` with CANCELLED in
    /// the next step, or as soon as its memory is clean.
    fn cancel(&mut self, request: u64);
    /// Keeps nothing of this agent's prompts beyond its sequences.
    fn forget(&mut self, _agent: u64) {}
    /// When there is something for [`Engine::expire`] to do, on the loop's clock, nanoseconds.
    fn expires_at(&self) -> Option<u64> {
        None
    }
    /// Zeroes and reads back some of what was kept for later prompts and whose time has come: for a part
    /// of a step. It computes nothing, and needs no lease.
    fn expire(&mut self, _now_ns: &dyn Fn() -> u64) {}
    /// True while a step would do something.
    fn has_work(&self) -> bool;
    /// Runs one bounded step. `now_ns` reads the loop's clock, which ends it.
    fn step(&mut self, now_ns: &Clock<'_>) -> StepOutcome;
    /// Bytes of KV that live sequences hold, or that ended ones did and that are not clean yet.
    fn kv_bytes(&self) -> u64;
    /// Zeroes all that no live sequence needs (free KV blocks, kept scratch), reads it back, and
    /// says how many bytes were zeroed, how many read, and how many of those were not zero.
    fn scrub(&mut self) -> Scrubbed;
    /// What it did so far. `steps_over_limit` is the loop's.
    fn counters(&self) -> Counters {
        Counters::default()
    }
}

/// What a scrub did, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub zeroed: u64,
    pub verified: u64,
    pub residue: u64,
    /// Offset of the first of those in the piece of memory that was zeroed.
    pub first_residue: Option<u64>,
}

impl Scrubbed {
    /// So many bytes were zeroed, and this is what reading them back found.
    pub fn read_back(bytes: u64, found: Residue) -> Scrubbed {
        Scrubbed {
            zeroed: bytes,
            verified: bytes,
            residue: found.count,
            first_residue: found.first_offset,
        }
    }

    /// So many bytes were to be zeroed, on a device that does not answer: they count as dirty throughout, and nobody may
    /// use them again.
    pub fn unknown(bytes: u64) -> Scrubbed {
        Scrubbed {
            residue: bytes,
            first_residue: Some(0),
            ..Scrubbed::default()
        }
    }
}
