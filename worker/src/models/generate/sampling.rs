//! Choosing the next token.
//!
//! The randomness of the n-th token of a sequence is a function of the request's seed and n alone, so
//! an answer does not depend on what else ran beside it, nor on how its prompt was divided into steps.

use bulkhead_kernels::compute::simd::softmax;

/// Temperatures above this make noise only.
pub const TEMPERATURE_MAX: f32 = 10.0;

/// How to choose.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampler {
    temperature: f32,
    top_p: f32,
    seed: u64,
}

/// Why a request's numbers are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// Not a temperature.
    #[error("temperature must be between 0 and 10")]
    Temperature,
    /// Not a share.
    #[error("top_p must be between 0 and 1")]
    TopP,
}

impl Sampler {
    /// Temperature 0 is greedy; a `top_p` of 0 means 1, which is off.
    pub fn new(temperature: f32, top_p: f32, seed: u64) -> Result<Self, SamplingError> {
        if !(0.0..=TEMPERATURE_MAX).contains(&temperature) {
            return Err(SamplingError::Temperature);
        }
        if !(0.0..=1.0).contains(&top_p) {
            return Err(SamplingError::TopP);
        }
        let top_p = if top_p == 0.0 { 1.0 } else { top_p };
        Ok(Sampler {
            temperature,
            top_p,
            seed,
        })
    }

    /// The token for place `nth` of the answer. `logits` is used up.
    pub fn choose(&self, logits: &mut [f32], nth: u64) -> u32 {
        if self.temperature < 1e-4 {
            return greatest(logits);
        }
        softmax(logits, 1.0 / self.temperature);
        let draw = uniform(self.seed, nth);
        if self.top_p >= 1.0 {
            return pick(logits.iter().copied().zip(0u32..), draw);
        }
        self.choose_from_top(logits, draw)
    }

    /// From the fewest tokens whose probabilities together reach `top_p`.
    fn choose_from_top(&self, probabilities: &[f32], draw: f32) -> u32 {
        // Tokens below this cannot be among them, and most are: what is left is quick to sort.
        let floor = (1.0 - self.top_p) / probabilities.len() as f32;
        let mut top: Vec<(f32, u32)> = probabilities
            .iter()
            .copied()
            .zip(0u32..)
            .filter(|(p, _)| *p > floor)
            .collect();
        top.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut sum = 0.0;
        let reached = top.iter().position(|(p, _)| {
            sum += p;
            sum >= self.top_p
        });
        top.truncate(reached.map_or(top.len(), |at| at + 1));
        let total: f32 = top.iter().map(|(p, _)| p).sum();
        pick(top.into_iter(), draw * total)
    }
}

fn greatest(logits: &[f32]) -> u32 {
    let better = |best: (f32, u32), (x, id): (f32, u32)| if x > best.0 { (x, id) } else { best };
    logits
        .iter()
        .copied()
        .zip(0u32..)
        .fold((f32::MIN, 0), better)
        .1
}

/// The entry in which the running sum passes `draw`; rounding may leave the last likely one.
fn pick(mut entries: impl Iterator<Item = (f32, u32)>, draw: f32) -> u32 {
    let mut sum = 0.0;
    let mut last = 0;
    let found = entries.find(|(p, id)| {
        if *p > 0.0 {
            last = *id;
        }
        sum += p;
        sum > draw
    });
    found.map_or(last, |(_, id)| id)
}

/// A number in [0, 1) for the n-th draw of a seed (SplitMix64 as a counter-based generator).
fn uniform(seed: u64, nth: u64) -> f32 {
    let mut z = seed.wrapping_add((nth + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -3.0];

    fn counts(sampler: &Sampler) -> [u32; 4] {
        let mut counts = [0; 4];
        for nth in 0..4000 {
            counts[sampler.choose(&mut LOGITS.clone(), nth) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_greatest() {
        let sampler = Sampler::new(0.0, 0.0, 9).expect("sound");
        assert_eq!(counts(&sampler), [0, 4000, 0, 0]);
    }

    #[test]
    fn draws_follow_the_probabilities() {
        let counts = counts(&Sampler::new(1.0, 1.0, 9).expect("sound"));
        // e^x over the sum: 0.089, 0.661, 0.243, 0.004.
        for (count, share) in counts.iter().zip([0.0895, 0.6614, 0.2433, 0.0045]) {
            assert!(
                (f64::from(*count) / 4000.0 - share).abs() < 0.03,
                "{counts:?}"
            );
        }
    }

    #[test]
    fn top_p_leaves_the_unlikely_out() {
        let counts = counts(&Sampler::new(1.0, 0.8, 9).expect("sound"));
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[2] > 500);
    }

    #[test]
    fn a_draw_depends_on_seed_and_place_alone() {
        let sampler = Sampler::new(1.0, 0.9, 5).expect("sound");
        let again = Sampler::new(1.0, 0.9, 5).expect("sound");
        let other = Sampler::new(1.0, 0.9, 6).expect("sound");
        let draws = |sampler: &Sampler| -> Vec<u32> {
            (0..50)
                .map(|nth| sampler.choose(&mut LOGITS.clone(), nth))
                .collect()
        };
        assert_eq!(draws(&sampler), draws(&again));
        assert_ne!(draws(&sampler), draws(&other));
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        assert_eq!(
            Sampler::new(f32::NAN, 0.5, 0),
            Err(SamplingError::Temperature)
        );
        assert_eq!(Sampler::new(-1.0, 0.5, 0), Err(SamplingError::Temperature));
        assert_eq!(Sampler::new(1.0, 1.5, 0), Err(SamplingError::TopP));
        let broken = Sampler::new(1.0, 0.5, 0).expect("sound");
        // Logits that are no numbers must not panic.
        broken.choose(&mut [f32::NAN, f32::NAN], 0);
    }
}
