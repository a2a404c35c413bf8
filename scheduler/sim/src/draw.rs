//! Chance from a seed: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
//!
//! Written out here so that a workload depends on its seed and on no other crate's version. Never
//! used by engine or policies, which know no chance.

const NS_PER_S: f64 = 1e9;

/// A stream of draws; the same seed gives the same stream.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Draw(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to below `end`; 0 where `end` is 0. The bias is below `end` / 2^64.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits().checked_rem(end).unwrap_or(0)
    }

    /// Nanoseconds to the next arrival of a Poisson process of `per_ks` arrivals in 1,000 s.
    pub(crate) fn gap_ns(&mut self, per_ks: u32) -> u64 {
        // 53 bits, half a step off zero, so that the logarithm is finite.
        let u = ((self.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        (-u.ln() * 1000.0 * NS_PER_S / f64::from(per_ks)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_the_published_one() {
        let mut draw = Draw::new(1_234_567);
        assert_eq!(draw.bits(), 6_457_827_717_110_365_317);
        assert_eq!(draw.bits(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn gaps_have_the_mean_of_their_rate() {
        let mut draw = Draw::new(1);
        let sum: u64 = (0..10_000).map(|_| draw.gap_ns(2_000)).sum();
        let mean_ms = sum / 10_000 / 1_000_000;
        assert!((480..520).contains(&mean_ms), "{mean_ms} ms");
    }
}
