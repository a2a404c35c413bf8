//! Rotary positions: by what angle each pair of a head's dimensions turns from one token to the next.
//!
//! After "RoFormer" (arXiv 2104.09864); the scalings after "Extending Context Window via Positional
//! Interpolation" (arXiv 2306.15595), YaRN (arXiv 2309.00071) and Llama 3.1's model card. Angles are
//! computed for the tokens of a step when they are needed, so that no table grows with the context.

use std::f64::consts::{PI, TAU};

/// Which dimensions of a head turn together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairs {
    /// Neighbours: 0 with 1, 2 with 3. So GGUF has it for the Llama family.
    Neighbours,
    /// One of the lower half with one of the upper half. So the original checkpoints have it.
    Halves,
}

/// How angles are changed for contexts beyond those of the training.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scaling {
    /// Not at all.
    None,
    /// All of them divided.
    Linear {
        /// By this.
        factor: f64,
    },
    /// Slow turns divided, fast ones kept, those between in between.
    Llama3 {
        /// What slow turns are divided by.
        factor: f64,
        /// Turns within the original context below which a pair is slow.
        low: f64,
        /// Turns within the original context above which a pair is fast.
        high: f64,
        /// The context of the training, tokens.
        original: f64,
    },
    /// The same with a ramp over the pairs, and a factor on queries and keys.
    Yarn {
        /// What slow turns are divided by.
        factor: f64,
        /// What queries and keys are multiplied with; none means 0.1 ln(factor) + 1.
        attention: Option<f64>,
        /// Turns within the original context above which a pair is fast.
        fast: f64,
        /// Turns within the original context below which a pair is slow.
        slow: f64,
        /// The context of the training, tokens.
        original: f64,
        /// Whether the ramp's ends are whole pairs.
        truncate: bool,
    },
}

/// The angles of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Which dimensions turn together.
    pub pairs: Pairs,
    /// Per pair: radians from one position to the next.
    pub frequencies: Vec<f64>,
    /// What turned queries and keys are multiplied with.
    pub magnitude: f64,
}

impl Rope {
    /// For heads of `width` dimensions. An error says which number makes no angles.
    pub fn new(pairs: Pairs, width: usize, base: f64, scaling: Scaling) -> Result<Self, String> {
        positive("its rope base", base)?;
        let plain = (0..width / 2).map(|pair| base.powf(-2.0 * pair as f64 / width as f64));
        let plain: Vec<f64> = plain.collect();
        let mut magnitude = 1.0;
        let frequencies = match scaling {
            Scaling::None => plain,
            Scaling::Linear { factor } => {
                positive("its rope scaling's factor", factor)?;
                plain.iter().map(|frequency| frequency / factor).collect()
            }
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => {
                for number in [factor, low, high, original, high - low] {
                    positive("a number of its llama3 rope scaling", number)?;
                }
                let scaled = |frequency: &f64| {
                    let turns = original * frequency / TAU;
                    let kept = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    kept * frequency + (1.0 - kept) * frequency / factor
                };
                plain.iter().map(scaled).collect()
            }
            Scaling::Yarn {
                factor,
                attention,
                fast,
                slow,
                original,
                truncate,
            } => {
                let attention = attention.unwrap_or(0.1 * factor.max(1.0).ln() + 1.0);
                for number in [factor, attention, fast, slow, original] {
                    positive("a number of its yarn rope scaling", number)?;
                }
                magnitude = attention;
                let ramp = Ramp::new(width, base, original, fast, slow, truncate);
                let scaled = |(pair, frequency): (usize, &f64)| {
                    let kept = 1.0 - ramp.at(pair);
                    kept * frequency + (1.0 - kept) * frequency / factor
                };
                plain.iter().enumerate().map(scaled).collect()
            }
        };
        let rope = Rope {
            pairs,
            frequencies,
            magnitude,
        };
        rope.checked()
    }

    /// Divides each pair's angle: some files have their scaling as such a list.
    pub fn divided(mut self, by: &[f32]) -> Result<Self, String> {
        for (frequency, by) in self.frequencies.iter_mut().zip(by) {
            positive("a factor of its rope", f64::from(*by))?;
            *frequency /= f64::from(*by);
        }
        self.checked()
    }

    fn checked(self) -> Result<Self, String> {
        for frequency in &self.frequencies {
            positive("an angle of its rope", *frequency)?;
        }
        Ok(self)
    }

    /// Cosine and sine of every pair at `position`, into `turns`.
    pub fn turns(&self, position: usize, turns: &mut [f32]) {
        let (turns, _) = turns.as_chunks_mut::<2>();
        for (turn, frequency) in turns.iter_mut().zip(&self.frequencies) {
            let (sin, cos) = (position as f64 * frequency).sin_cos();
            *turn = [(cos * self.magnitude) as f32, (sin * self.magnitude) as f32];
        }
    }
}

/// An error unless the number is above zero and finite.
fn positive(what: &str, number: f64) -> Result<(), String> {
    match number.is_finite() && number > 0.0 {
        true => Ok(()),
        false => Err(format!("{what} is {number}")),
    }
}

/// YaRN's ramp from fast pairs (0) to slow ones (1).
struct Ramp {
    low: f64,
    high: f64,
}

impl Ramp {
    fn new(width: usize, base: f64, original: f64, fast: f64, slow: f64, truncate: bool) -> Self {
        let width = width as f64;
        // The pair that turns so often within the original context.
        let pair = |turns: f64| width * (original / (turns * 2.0 * PI)).ln() / (2.0 * base.ln());
        let (mut low, mut high) = (pair(fast), pair(slow));
        if truncate {
            (low, high) = (low.floor(), high.ceil());
        }
        let (low, mut high) = (low.max(0.0), high.min(width - 1.0));
        if low == high {
            high += 0.001;
        }
        Ramp { low, high }
    }

    fn at(&self, pair: usize) -> f64 {
        ((pair as f64 - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frequencies(scaling: Scaling) -> Vec<f64> {
        let rope = Rope::new(Pairs::Halves, 8, 10_000.0, scaling).expect("it makes angles");
        rope.frequencies
    }

    #[test]
    fn linear_scaling_divides_all_and_lists_divide_each() {
        let plain = frequencies(Scaling::None);
        assert_eq!(plain[0], 1.0);
        let linear = frequencies(Scaling::Linear { factor: 4.0 });
        assert!(plain.iter().zip(&linear).all(|(a, b)| a / 4.0 == *b));
        let rope = Rope::new(Pairs::Halves, 4, 10_000.0, Scaling::None).expect("it makes angles");
        let by = rope.clone().divided(&[1.0, 8.0]).expect("it divides");
        assert_eq!(by.frequencies, [1.0, rope.frequencies[1] / 8.0]);
        assert!(rope.divided(&[0.0, f32::NAN]).is_err());
    }

    #[test]
    fn llama3_and_yarn_keep_fast_turns_and_divide_slow_ones() {
        let plain = frequencies(Scaling::None);
        for scaling in [
            Scaling::Llama3 {
                factor: 8.0,
                low: 1.0,
                high: 4.0,
                original: 512.0,
            },
            Scaling::Yarn {
                factor: 8.0,
                attention: None,
                fast: 32.0,
                slow: 1.0,
                original: 512.0,
                truncate: true,
            },
        ] {
            let scaled = frequencies(scaling);
            assert_eq!(scaled[0], plain[0]);
            assert!((scaled[3] - plain[3] / 8.0).abs() < 1e-12);
            assert!(scaled.windows(2).all(|pair| pair[0] > pair[1]));
        }
    }

    #[test]
    fn numbers_that_make_no_angles_are_refused() {
        let with = |base, scaling| Rope::new(Pairs::Halves, 8, base, scaling);
        for base in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert!(with(base, Scaling::None).is_err());
        }
        for factor in [0.0, -2.0, f64::NAN, f64::INFINITY] {
            assert!(with(1e4, Scaling::Linear { factor }).is_err());
        }
        let equal = Scaling::Llama3 {
            factor: 8.0,
            low: 1.0,
            high: 1.0,
            original: 512.0,
        };
        assert!(with(1e4, equal).is_err());
    }
}
