//! What a pass of a generation engine costs: learned from those before, and how much of a step is planned for.
//!
//! A pass costs a fixed part (the weights are read once), a part per token (the products), a part per
//! position of each sequence (its keys and values are read), a part per token and position that it looks
//! back at (attention), and a part per answer (the output matrix and the choice). Reading is a price of its
//! own: after thousands of tokens it is most of what one more costs, and a second one beside it costs little.
//! The prices are fitted to recent passes by least squares, none below zero; where they say nothing of a
//! price (nobody read a prompt for a while) it stays as it was.
//!
//! Of a step's limit so much is left free as recent steps ended later than they should have: the worst of
//! them counts, and fades. No pass has more than twice the tokens, or the answers, of the largest of late: the first ones, of
//! which nothing is known, are short however slow the model is, and what was learned from passes of a few
//! tokens is not believed of hundreds.

/// What is done in a pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepWork {
    /// Tokens computed.
    pub tokens: u64,
    /// Positions whose keys and values are read, summed over the sequences.
    pub reads: u64,
    /// Positions looked back at, summed over the tokens.
    pub positions: u64,
    /// Tokens whose successor is chosen.
    pub answers: u64,
}

/// Prices of one pass and of what is done in it, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of a pass that does nothing.
    pub step_ns: f64,
    /// Of a token.
    pub token_ns: f64,
    /// Of a position of a sequence.
    pub read_ns: f64,
    /// Of a token and a position that it looks back at.
    pub position_ns: f64,
    /// Of an answer.
    pub answer_ns: f64,
    /// Of a block that is cleaned on the way.
    pub block_ns: f64,
}

impl Prices {
    /// What work costs, without the fixed part.
    pub fn of(&self, work: StepWork) -> f64 {
        self.token_ns * work.tokens as f64
            + self.read_ns * work.reads as f64
            + self.position_ns * work.positions as f64
            + self.answer_ns * work.answers as f64
    }
}

/// What a reading still weighs after the next one.
const FORGET: f64 = 0.985;
/// A reading counts as at most this many times what was expected; but the first one in full.
const CLIP: f64 = 2.0;
/// How strongly each price stays where it is, relative to a reading. The fixed part gives way first:
/// steps of one token cannot tell it from the token's, and to believe it the token's would keep
/// every next step at one token.
const STAY: [f64; FEATURES] = [0.005, 0.05, 0.05, 0.05, 0.05];
/// Sweeps of the fit after each reading.
const SWEEPS: usize = 8;
/// What a miss still counts after the next step.
const MISS_FADES: f64 = 0.98;
/// Share of the limit that is always left free, and that is left free at most.
const FREE_MIN: f64 = 0.2;
const FREE_MAX: f64 = 0.4;
/// What a position looked back at, and an answer, cost beside a token, before anything is known.
const POSITION_TOKENS_GUESS: f64 = 1.0 / 4096.0;
const ANSWER_TOKENS_GUESS: f64 = 0.25;
/// How many times the tokens, and the answers, of the largest pass of late the next one may have, and how
/// that fades.
const GROWTH: f64 = 2.0;
const LARGEST_FADES: f64 = 0.99;

/// Sizes that the features are divided by, so that all are about one.
const SCALES: [f64; FEATURES] = [1.0, 32.0, 2048.0, 65_536.0, 8.0];
const FEATURES: usize = 5;

/// The learned prices.
#[derive(Clone, Debug)]
pub struct StepModel {
    /// Per scaled feature.
    prices: [f64; FEATURES],
    gram: [[f64; FEATURES]; FEATURES],
    moment: [f64; FEATURES],
    block_ns: f64,
    miss_ns: f64,
    tokens_most: f64,
    answers_most: f64,
}

impl StepModel {
    /// Starts from a guess: nanoseconds of a token.
    pub fn new(token_ns: u64) -> Self {
        let token_ns = token_ns.max(1) as f64;
        StepModel {
            prices: [
                0.0,
                token_ns * SCALES[1],
                0.0,
                token_ns * POSITION_TOKENS_GUESS * SCALES[3],
                token_ns * ANSWER_TOKENS_GUESS * SCALES[4],
            ],
            gram: [[0.0; FEATURES]; FEATURES],
            moment: [0.0; FEATURES],
            block_ns: 0.0,
            miss_ns: 0.0,
            tokens_most: 0.0,
            answers_most: 0.0,
        }
    }

    /// The prices as they are known now.
    pub fn prices(&self) -> Prices {
        let price = |at: usize| self.prices[at] / SCALES[at];
        Prices {
            step_ns: price(0),
            token_ns: price(1),
            read_ns: price(2),
            position_ns: price(3),
            answer_ns: price(4),
            block_ns: self.block_ns,
        }
    }

    /// Of `limit_ns`, what a step may be expected to take.
    pub fn room_ns(&self, limit_ns: u64) -> f64 {
        let limit = limit_ns as f64;
        limit - self.miss_ns.clamp(limit * FREE_MIN, limit * FREE_MAX)
    }

    /// Tokens that the next pass may have at most, at least one.
    pub fn tokens_max(&self) -> u64 {
        (self.tokens_most * GROWTH).max(1.0) as u64
    }

    /// Answers that the next pass may have at most, at least one.
    pub fn answers_max(&self) -> u64 {
        (self.answers_most * GROWTH).max(1.0) as u64
    }

    /// Learns that `work` took `ns`.
    pub fn observe(&mut self, work: StepWork, ns: u64) {
        if work.tokens == 0 {
            return;
        }
        let clip = if self.tokens_most > 0.0 {
            CLIP
        } else {
            f64::INFINITY
        };
        self.tokens_most = (self.tokens_most * LARGEST_FADES).max(work.tokens as f64);
        self.answers_most = (self.answers_most * LARGEST_FADES).max(work.answers as f64);
        let x = features(work);
        let expected: f64 = x.iter().zip(&self.prices).map(|(x, price)| x * price).sum();
        let y = (ns as f64).min(expected * clip);
        for (at, row) in self.gram.iter_mut().enumerate() {
            for (other, sum) in row.iter_mut().enumerate() {
                *sum = *sum * FORGET + x[at] * x[other];
            }
            self.moment[at] = self.moment[at] * FORGET + x[at] * y;
        }
        self.fit();
    }

    /// Least squares with a pull towards the prices as they are, one price at a time.
    fn fit(&mut self) {
        let before = self.prices;
        for _ in 0..SWEEPS {
            for (at, before) in before.iter().enumerate() {
                let row = &self.gram[at];
                let all: f64 = row
                    .iter()
                    .zip(&self.prices)
                    .map(|(x, price)| x * price)
                    .sum();
                let others = all - row[at] * self.prices[at];
                let pulled = self.moment[at] - others + STAY[at] * before;
                self.prices[at] = (pulled / (row[at] + STAY[at])).max(0.0);
            }
        }
    }

    /// Learns by how much a step ended later than it should have.
    pub fn missed(&mut self, by_ns: u64) {
        self.miss_ns = (self.miss_ns * MISS_FADES).max(by_ns as f64);
    }

    /// Learns that cleaning a block took `ns`.
    pub fn block(&mut self, ns: u64) {
        let ns = ns as f64;
        let first = self.block_ns == 0.0;
        self.block_ns += (ns - self.block_ns) * if first { 1.0 } else { 0.1 };
    }

    /// What cleaning a block takes, nanoseconds.
    pub fn block_ns(&self) -> f64 {
        self.block_ns
    }
}

fn features(work: StepWork) -> [f64; FEATURES] {
    let raw = [1, work.tokens, work.reads, work.positions, work.answers];
    std::array::from_fn(|at| raw[at] as f64 / SCALES[at])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TRUE: Prices = Prices {
        step_ns: 6_000_000.0,
        token_ns: 300_000.0,
        read_ns: 600.0,
        position_ns: 60.0,
        answer_ns: 500_000.0,
        block_ns: 0.0,
    };

    fn took(work: StepWork) -> u64 {
        (TRUE.step_ns + TRUE.of(work)) as u64
    }

    /// A prompt read in the largest pieces that fit, beside some decoding; returns the longest step.
    fn read_prompt(model: &mut StepModel, tokens: u64, limit_ns: u64) -> u64 {
        let (mut at, mut longest) = (0, 0);
        while at < tokens {
            let work = |n: u64| StepWork {
                tokens: n + 1,
                reads: at + n + 100,
                positions: n * at + n * n / 2 + 100,
                answers: 1,
            };
            let (prices, room) = (model.prices(), model.room_ns(limit_ns));
            let fits = |n: &u64| prices.step_ns + prices.of(work(*n)) <= room;
            let n = (1..=512).take_while(fits).last().unwrap_or(1);
            longest = longest.max(took(work(n)));
            model.observe(work(n), took(work(n)));
            at += n;
        }
        longest
    }

    #[test]
    fn pieces_shrink_as_a_prompt_grows_and_no_step_is_over_the_limit() {
        let limit = 25_000_000;
        let mut model = StepModel::new(5_000_000);
        read_prompt(&mut model, 500, limit);
        for _ in 0..500 {
            let decode = StepWork {
                tokens: 1,
                reads: 300,
                positions: 300,
                answers: 1,
            };
            model.observe(decode, took(decode));
        }
        let longest = read_prompt(&mut model, 8000, limit);
        assert!(longest <= limit, "{longest}");
        // And once it is known, the limit is used.
        let longest = read_prompt(&mut model, 8000, limit);
        assert!(longest > limit * 3 / 4, "{longest}");
    }

    #[test]
    fn a_miss_makes_room_and_fades() {
        let mut model = StepModel::new(1_000);
        let limit = 25_000_000;
        let before = model.room_ns(limit);
        model.missed(5_000_000);
        assert_eq!(model.room_ns(limit), 20_000_000.0);
        (0..300).for_each(|_| model.missed(0));
        assert_eq!(model.room_ns(limit), before);
        model.missed(u64::MAX);
        assert_eq!(model.room_ns(limit), 15_000_000.0);
    }

    proptest! {
        #[test]
        fn any_readings_leave_usable_prices(
            readings in proptest::collection::vec(
                (0u64..1000, 0u64..100_000, 0u64..10_000_000, 0u64..100, any::<u64>()), 0..60),
        ) {
            let mut model = StepModel::new(1_000_000);
            for (tokens, reads, positions, answers, ns) in readings {
                model.observe(StepWork { tokens, reads, positions, answers }, ns);
                model.missed(ns / 3);
                let p = model.prices();
                for price in [p.step_ns, p.token_ns, p.read_ns, p.position_ns, p.answer_ns] {
                    prop_assert!(price.is_finite() && price >= 0.0);
                }
                prop_assert!(model.room_ns(1000) >= 500.0);
            }
        }
    }
}
