//! The engine model: what one batch on one device costs in time, and what its KV pool holds.
//!
//! A fit to the profile that VTC (OSDI 2024) published for Llama-2-7B on an A10G. All times are
//! integers in nanoseconds. No queue, no tenant and no order of requests is known here.
//!
//! Of the readings of that model that were tried, the one kept comes closest to the published figures.
//! A request is admitted if the pool holds every running sequence to its own end ([`Engine::holds`]);
//! setting aside the sum of all final lengths instead gives a VTC a third too fair whose light tenants
//! wait more than twice as long as published. Once ten steps have passed, admission is tried before
//! every step until somebody fits. A prefill delays the whole batch and yields the first token; a
//! decode step costs by the tokens held, not by those promised. What the model leaves out (the server
//! around the engine) makes it 7 % faster than the published runs.

use crate::pool::{Claim, peak_tokens};
use crate::workload::Arrival;

/// The constants of one device and model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Prefill of one prompt token, ns.
    pub prefill_token_ns: u64,
    /// What each decode step costs whatever its batch, ns.
    pub step_ns: u64,
    /// What each sequence of the batch adds to a decode step, ns.
    pub step_sequence_ns: u64,
    /// What each token held in the KV pool adds to a decode step, ns.
    pub step_kv_token_ns: u64,
    /// Tokens that the KV pool holds.
    pub kv_tokens_max: u64,
    /// Prompt tokens of one prefill mini-batch.
    pub prefill_tokens_max: u64,
    /// Decode steps between two admissions while the batch is not empty.
    pub steps_between_admissions: u32,
}

impl Engine {
    /// The A10G of the paper with Llama-2-7B.
    pub const fn a10g() -> Self {
        Engine {
            prefill_token_ns: 214_000,
            step_ns: 16_300_000,
            step_sequence_ns: 245_000,
            step_kv_token_ns: 2_020,
            kv_tokens_max: 10_000,
            prefill_tokens_max: 3_072,
            steps_between_admissions: 10,
        }
    }

    /// Time to prefill a mini-batch of `tokens` prompt tokens, ns.
    pub fn prefill_ns(&self, tokens: u64) -> u64 {
        self.prefill_token_ns.saturating_mul(tokens)
    }

    /// Time of one decode step of `batch` sequences that hold `kv_tokens`, ns.
    pub fn decode_ns(&self, batch: u64, kv_tokens: u64) -> u64 {
        let sequences = self.step_sequence_ns.saturating_mul(batch);
        let tokens = self.step_kv_token_ns.saturating_mul(kv_tokens);
        self.step_ns
            .saturating_add(sequences)
            .saturating_add(tokens)
    }

    /// Whether a request could run alone. Prefill yields the first token, so one without output
    /// could not be told from one that never ran.
    pub fn can_run(&self, request: &Arrival) -> bool {
        request.output > 0
            && u64::from(request.input) <= self.prefill_tokens_max
            && self.holds(&[], request)
    }

    /// Whether the pool holds a newcomer beside those that run, up to the end of each of them.
    pub fn holds(&self, running: &[Claim], newcomer: &Arrival) -> bool {
        let claims = [running, &[Engine::claim(newcomer)]].concat();
        peak_tokens(&claims) <= self.kv_tokens_max
    }

    /// What a newcomer claims. Prefill gives it one token while the others stand still, so it is
    /// counted as it will be after that.
    pub fn claim(newcomer: &Arrival) -> Claim {
        Claim {
            held: u64::from(newcomer.input) + 1,
            left: u64::from(newcomer.output).saturating_sub(1),
        }
    }
}
