//! How full the KV pool will get: the sum that admission rests on.
//!
//! A sequence's whole length is promised to it at admission, but sequences do not end together, and
//! what one gives back another may use. No sequence is ever evicted to make room.

use std::cmp::Reverse;

/// What one sequence has in the pool and has yet to put there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Tokens that it holds.
    pub held: u64,
    /// Tokens that it has yet to produce.
    pub left: u64,
}

/// The most tokens that these sequences will ever hold together, if each produces one token a step
/// and gives all of its own back when it ends.
///
/// The peak is at the end of some sequence. By then those with as much left or more have grown by
/// what it had left, and those with less are gone.
pub fn peak_tokens(claims: &[Claim]) -> u64 {
    let mut claims = claims.to_vec();
    claims.sort_unstable_by_key(|claim| Reverse(claim.left));
    let (mut held, mut peak) = (0, 0);
    for (claim, sequences) in claims.iter().zip(1..) {
        held += claim.held;
        peak = peak.max(held + claim.left * sequences);
    }
    peak
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draw::Draw;

    fn stepwise(mut claims: Vec<Claim>) -> u64 {
        let mut peak = 0;
        while !claims.is_empty() {
            peak = peak.max(claims.iter().map(|claim| claim.held).sum());
            claims.retain(|claim| claim.left > 0);
            for claim in &mut claims {
                claim.held += 1;
                claim.left -= 1;
            }
        }
        peak
    }

    #[test]
    fn the_peak_is_what_stepping_finds() {
        for seed in 0..200 {
            let mut draw = Draw::new(seed);
            let claims = (0..draw.below(12)).map(|_| Claim {
                held: draw.below(50),
                left: draw.below(50),
            });
            let claims = claims.collect::<Vec<_>>();
            let peak = peak_tokens(&claims);
            assert_eq!(peak, stepwise(claims), "seed {seed}");
        }
    }
}
