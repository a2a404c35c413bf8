//! One draw among the tokens that are left.

use super::weights::{Block, Rank, Weights};

/// The token in which the running sum of the weights, in order of ids, passes the share `at` of their
/// whole. `None` if no token is left.
pub fn draw(weights: &Weights<'_>, least: Rank, at: f64) -> Option<u32> {
    let mut sums = Vec::new();
    weights.each(least.weight, |block| {
        sums.push((block.index(), block.sum(least)));
    });
    let goal = at * sums.iter().map(|(_, sum)| sum).sum::<f64>();
    let mut before = 0.0;
    let mut chosen = None;
    for (index, sum) in sums.into_iter().filter(|(_, sum)| *sum > 0.0) {
        chosen = Some((index, before));
        before += sum;
        if before > goal {
            break;
        }
    }
    let (index, before) = chosen?;
    within(&weights.block(index), least, goal - before)
}

/// The same inside one block; rounding may leave its last token.
fn within(block: &Block, least: Rank, goal: f64) -> Option<u32> {
    let mut sum = 0.0;
    let mut last = None;
    for (weight, id) in block.entries() {
        if least.admits(weight, id) {
            last = Some(id);
            sum += f64::from(weight);
            if sum > goal {
                break;
            }
        }
    }
    last
}

/// A number in [0, 1) for the n-th draw of a seed: SplitMix64 (Steele, Lea and Flood 2014), its state
/// computed from n instead of kept.
pub fn uniform(seed: u64, nth: u64) -> f64 {
    let mut z = seed.wrapping_add(nth.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
