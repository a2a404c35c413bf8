//! How likely the model itself held a token to be: log-probabilities of its logits before bias,
//! penalties, temperature and filters (vLLM's `raw_logprobs`, which is its default).

use bulkhead_kernels::compute::choice::{self, BLOCK, Rank, Weights};

/// Alternatives of one token at most, as in OpenAI's API.
pub const LOGPROBS_MAX: u32 = 20;

/// Natural logarithms of probabilities at one place of an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Likelihoods {
    /// Of the token that was chosen.
    pub chosen: f32,
    /// The likeliest tokens and their own, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

impl Likelihoods {
    /// Of `chosen` and of the `most` likeliest. `None` if `chosen` is no token or nothing is likely.
    /// The logits hold neither NaN nor +∞.
    pub fn of(logits: &[f32], chosen: u32, most: u32) -> Option<Self> {
        let weights = Weights::new(logits, 1.0)?;
        let [sum] = weights.sums([Rank::LOWEST.weight]);
        let log_sum = f64::from(weights.top()) + sum.ln();
        let log_of = |logit: f32| (f64::from(logit) - log_sum) as f32;
        let top = greatest(logits, most.min(LOGPROBS_MAX) as usize);
        Some(Likelihoods {
            chosen: log_of(*logits.get(chosen as usize)?),
            top: top.into_iter().map(|(id, x)| (id, log_of(x))).collect(),
        })
    }
}

/// The `most` greatest logits, the greatest first, of equals the lowest id.
fn greatest(logits: &[f32], most: usize) -> Vec<(u32, f32)> {
    let mut top: Vec<(u32, f32)> = Vec::with_capacity(most + 1);
    for (block, first) in logits.chunks(BLOCK).zip((0u32..).step_by(BLOCK)) {
        let beats = |x: f32, top: &[(u32, f32)]| {
            top.len() < most || top.last().is_some_and(|(_, least)| x > *least)
        };
        if !beats(choice::top(block), &top) {
            continue;
        }
        for (x, id) in block.iter().copied().zip(first..) {
            if beats(x, &top) {
                let at = top.partition_point(|(_, greater)| *greater >= x);
                top.insert(at, (id, x));
                top.truncate(most);
            }
        }
    }
    top
}
