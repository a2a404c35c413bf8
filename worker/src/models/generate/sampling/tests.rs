//! The sampler against plain ones, and the distributions of its draws.

use super::*;
use bulkhead_kernels::compute::choice::BLOCK;
use proptest::prelude::*;

const NO_HISTORY: History<'static> = History {
    tokens: &[],
    prompt_tokens: 0,
};

fn sampler(sampling: Sampling) -> Sampler {
    Sampler::new(sampling).expect("sound numbers")
}

/// The token at place `nth` of an answer of zeros.
fn nth(sampler: &mut Sampler, logits: &[f32], nth: usize) -> u32 {
    let history = History {
        tokens: &vec![0; nth],
        prompt_tokens: 0,
    };
    let mut logits = logits.to_vec();
    let token = sampler.choose(&mut logits, history, std::iter::empty());
    token.expect("something to choose from")
}

/// Logits of all kinds: spread, crowded, with many ties, and some that are no numbers.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    let one = prop_oneof![
        8 => -20f32..20.0,
        8 => (-6i8..6).prop_map(f32::from),
        1 => Just(f32::NEG_INFINITY),
        1 => Just(f32::NAN),
        1 => -1e4f32..-1e3,
    ];
    let few = proptest::collection::vec(one.clone(), 1..300);
    let many = proptest::collection::vec(one, BLOCK * 3..BLOCK * 5);
    prop_oneof![few, many]
}

proptest! {
    #[test]
    fn choosing_leaves_the_logits_as_they_were(
        logits in proptest::collection::vec(-20f32..20.0, 50),
        tokens in proptest::collection::vec(0u32..60, 0..80),
        temperature in 0f32..2.0,
        repetition in 0.1f32..3.0,
        presence in -2f32..2.0,
        frequency in -2f32..2.0,
    ) {
        let mut sampler = sampler(Sampling {
            temperature, repetition, presence, frequency,
            bias: vec![(3, 9.0), (3, -1.0), (70, 1.0)],
            ..Sampling::default()
        });
        let history = History { tokens: &tokens, prompt_tokens: tokens.len() / 2 };
        let mut after = logits.clone();
        let token = sampler.choose(&mut after, history, [1, 2, 90].into_iter());
        prop_assert_eq!(after, logits);
        prop_assert!(token.is_some_and(|token| token != 1 && token != 2));
    }

    /// Whoever is given the wish and the model's logits chooses the same token.
    #[test]
    fn a_wish_says_all_that_there_is_to_know(
        logits in logits(),
        tokens in proptest::collection::vec(0u32..60, 0..80),
        (temperature, top_k, top_p, min_p) in (
            prop_oneof![Just(0f32), 0.1f32..4.0], 0u32..40, 0f32..1.0, 0f32..0.3
        ),
        (repetition, presence, frequency) in (
            prop_oneof![Just(1f32), 0.1f32..3.0],
            prop_oneof![Just(0f32), -2f32..2.0],
            prop_oneof![Just(0f32), -2f32..2.0],
        ),
        seed in any::<u64>(),
    ) {
        let numbers = Sampling {
            temperature, top_k, top_p, min_p, repetition, presence, frequency, seed,
            bias: vec![(3, 9.0), (3, -1.0), (1, 2.0), (70, 1.0)],
        };
        let (mut here, mut there) = (sampler(numbers.clone()), sampler(numbers));
        // The same samplers all along, as for an answer that grows.
        for length in tokens.len() / 2..=tokens.len() {
            let history = History { tokens: &tokens[..length], prompt_tokens: tokens.len() / 2 };
            let banned = || [1, 2, 90, 90].into_iter();
            let mut row = logits.clone();
            let chosen = here.choose(&mut row, history, banned());
            let wish = there.wish(history, banned());
            prop_assert_eq!(wish.of(&mut logits.clone()), chosen);
            let ids: Vec<u32> = wish.changes.iter().map(|change| change.token).collect();
            prop_assert!(ids.is_sorted_by(|a, b| a < b), "each once, in order");
        }
    }

    /// What was counted step by step is what is counted at once, as after a preemption.
    #[test]
    fn penalties_follow_from_the_tokens(
        logits in proptest::collection::vec(-20f32..20.0, 30),
        tokens in proptest::collection::vec(0u32..30, 1..60),
        prompt in 0usize..60,
        repetition in 0.1f32..3.0,
        presence in -2f32..2.0,
        frequency in -2f32..2.0,
    ) {
        let prompt_tokens = prompt.min(tokens.len());
        let penalty = Penalty { repetition, presence, frequency };
        let penalties = || Penalties::new(penalty, vec![(5, 1.5)]);
        let mut stepwise = penalties();
        let mut got = Vec::new();
        for length in prompt_tokens..=tokens.len() {
            let history = History { tokens: &tokens[..length], prompt_tokens };
            got = logits.clone();
            stepwise.apply(&mut got, history, &mut Changed::default());
        }
        let answer = &tokens[prompt_tokens..];
        let expected: Vec<f32> = (0u32..).zip(&logits).map(|(id, logit)| {
            let mut logit = if id == 5 { logit + 1.5 } else { *logit };
            if tokens.contains(&id) {
                logit = if logit > 0.0 { logit / repetition } else { logit * repetition };
            }
            let count = answer.iter().filter(|token| **token == id).count();
            let present = if count > 0 { presence } else { 0.0 };
            logit - frequency * count as f32 - present
        }).collect();
        prop_assert_eq!(&got, &expected);
        let mut once = logits.clone();
        let history = History { tokens: &tokens, prompt_tokens };
        penalties().apply(&mut once, history, &mut Changed::default());
        prop_assert_eq!(once, expected);
    }

    #[test]
    fn log_probabilities_are_those_of_a_plain_softmax(
        mut logits in logits(),
        chosen in any::<proptest::sample::Index>(),
        most in 0u32..25,
    ) {
        make_finite(&mut logits);
        let chosen = chosen.index(logits.len()) as u32;
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let Some(got) = Likelihoods::of(&logits, chosen, most) else {
            prop_assert_eq!(top, f32::NEG_INFINITY);
            return Ok(());
        };
        let sum: f64 = logits.iter().map(|x| f64::from(x - top).exp()).sum();
        let log_of = |id: u32| f64::from(logits[id as usize] - top) - sum.ln();
        let close = |got: f32, id: u32| {
            let want = log_of(id);
            f64::from(got) == want || (f64::from(got) - want).abs() < 1e-5 * want.abs().max(1.0)
        };
        prop_assert!(close(got.chosen, chosen));
        let mut order: Vec<u32> = (0..logits.len() as u32).collect();
        order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        order.truncate(most.min(LOGPROBS_MAX) as usize);
        prop_assert_eq!(got.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), order);
        for (id, log) in got.top {
            prop_assert!(close(log, id));
        }
    }
}

const FOUR: [f32; 4] = [0.0, 2.0, 1.0, -3.0];

/// What comes at a place of an answer whose tokens change nothing.
fn drawn(sampler: &Sampler, logits: &[f32], nth: usize) -> u32 {
    let history = History {
        tokens: &vec![0; nth],
        prompt_tokens: 0,
    };
    sampler.choice(history).of(logits).expect("a token")
}

/// How often each of four tokens comes in 4,000 draws.
fn counts(sampling: Sampling, logits: [f32; 4]) -> [u32; 4] {
    let sampler = sampler(sampling);
    let mut counts = [0; 4];
    for nth in 0..4000 {
        counts[drawn(&sampler, &logits, nth) as usize] += 1;
    }
    counts
}

fn hot(seed: u64) -> Sampling {
    Sampling {
        temperature: 1.0,
        seed,
        ..Sampling::default()
    }
}

/// Pearson's statistic against the expected shares stays below its 0.1 % point for `free` degrees.
fn fits(counts: &[u32], shares: &[f64]) {
    let all: f64 = counts.iter().map(|n| f64::from(*n)).sum();
    let chi: f64 = counts
        .iter()
        .zip(shares)
        .map(|(n, share)| (f64::from(*n) - share * all).powi(2) / (share * all))
        .sum();
    // Wilson and Hilferty's approximation of the quantile; 3.09 is the normal distribution's.
    let free = (counts.len() - 1) as f64;
    let limit = free * (1.0 - 2.0 / (9.0 * free) + 3.09 * (2.0 / (9.0 * free)).sqrt()).powi(3);
    assert!(chi < limit, "{chi} is over {limit}: {counts:?}");
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let weights: Vec<f64> = logits.iter().map(|x| f64::from(*x).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

#[test]
fn draws_follow_the_probabilities() {
    fits(&counts(hot(9), FOUR), &softmax(&FOUR));
    let warm = Sampling {
        temperature: 2.0,
        ..hot(10)
    };
    fits(&counts(warm, FOUR), &softmax(&FOUR.map(|x| x / 2.0)));
}

#[test]
fn draws_from_a_large_vocabulary_follow_the_probabilities_across_blocks() {
    let logits: Vec<f32> = (0..3 * BLOCK + 7).map(|id| (id % 5) as f32).collect();
    let sampler = sampler(hot(3));
    let mut counts = [0; 16];
    for nth in 0..20_000 {
        let id = drawn(&sampler, &logits, nth) as usize;
        counts[id * 16 / logits.len()] += 1;
    }
    let all = softmax(&logits);
    let mut shares = [0.0; 16];
    for (id, share) in all.iter().enumerate() {
        shares[id * 16 / logits.len()] += share;
    }
    fits(&counts, &shares);
}

#[test]
fn each_filter_leaves_out_what_it_should() {
    let none = |at: usize, sampling| assert_eq!(counts(sampling, FOUR)[at], 0);
    let top_k = Sampling { top_k: 2, ..hot(1) };
    none(0, top_k.clone());
    none(3, top_k);
    let top_p = Sampling {
        top_p: 0.8,
        ..hot(1)
    };
    none(0, top_p.clone());
    none(3, top_p);
    // e^-1 is 0.37 of the likeliest token's probability, e^-2 is 0.14.
    let min_p = Sampling {
        min_p: 0.2,
        ..hot(1)
    };
    none(0, min_p.clone());
    assert!(counts(min_p, FOUR)[2] > 500);
}

#[test]
fn of_equals_the_lowest_ids_are_kept_and_more_than_there_are_is_all() {
    let level = [1.0; 4];
    let top = |top_k| Sampling { top_k, ..hot(2) };
    let counts_of = |top_k| counts(top(top_k), level);
    assert_eq!(counts_of(1), [4000, 0, 0, 0]);
    assert_eq!(counts_of(2)[2..], [0, 0]);
    fits(&counts_of(2)[..2], &[0.5; 2]);
    fits(&counts_of(u32::MAX), &[0.25; 4]);
    let half = Sampling {
        top_p: 0.5,
        ..hot(2)
    };
    assert_eq!(counts(half, level)[2..], [0, 0]);
}

#[test]
fn greedy_takes_the_greatest_and_of_equals_the_first() {
    let mut greedy = sampler(Sampling::default());
    assert_eq!(nth(&mut greedy, &FOUR, 0), 1);
    assert_eq!(nth(&mut greedy, &[1.0, 5.0, 5.0], 0), 1);
    let mut cold = sampler(Sampling {
        temperature: 1e-4,
        ..hot(1)
    });
    assert_eq!(nth(&mut cold, &FOUR, 0), 1);
}

#[test]
fn what_is_no_number_is_never_chosen_and_infinity_is_the_greatest() {
    for temperature in [0.0, 1.0, 10.0] {
        let mut sampler = sampler(Sampling {
            temperature,
            repetition: 0.01,
            ..hot(4)
        });
        for place in 0..50 {
            let odd = [f32::NAN, 1.0, f32::NEG_INFINITY, -f32::NAN];
            assert_eq!(nth(&mut sampler, &odd, place), 1);
            let infinite = [0.0, 1.0, f32::INFINITY, f32::NAN];
            assert_eq!(nth(&mut sampler, &infinite, place), 2);
        }
        for nothing in [vec![], vec![f32::NAN; 9], vec![f32::NEG_INFINITY; 3000]] {
            let mut logits = nothing;
            let token = sampler.choose(&mut logits, NO_HISTORY, std::iter::empty());
            assert_eq!(token, None);
        }
    }
}

#[test]
fn a_draw_depends_on_seed_and_place_alone() {
    let draws = |seed| -> Vec<u32> {
        let mut sampler = sampler(hot(seed));
        (0..50).map(|at| nth(&mut sampler, &FOUR, at)).collect()
    };
    assert_eq!(draws(5), draws(5));
    assert_ne!(draws(5), draws(6));
    // Asked in another order, a place's draw is the same.
    let mut sampler = sampler(hot(5));
    let mut backwards: Vec<u32> = (0..50)
        .rev()
        .map(|at| nth(&mut sampler, &FOUR, at))
        .collect();
    backwards.reverse();
    assert_eq!(backwards, draws(5));
}

#[test]
fn numbers_that_mean_nothing_are_refused() {
    let refused = |sampling| Sampler::new(sampling).map(|_| ()).expect_err("refused");
    let base = Sampling::default;
    for bad in [f32::NAN, f32::INFINITY, -1.0, 10.5] {
        let temperature = Sampling {
            temperature: bad,
            ..base()
        };
        assert_eq!(refused(temperature), SamplingError::Temperature);
        let top_p = Sampling {
            top_p: bad,
            ..base()
        };
        assert_eq!(refused(top_p), SamplingError::TopP);
        let min_p = Sampling {
            min_p: bad,
            ..base()
        };
        assert_eq!(refused(min_p), SamplingError::MinP);
        let repetition = Sampling {
            repetition: bad,
            ..base()
        };
        assert_eq!(refused(repetition), SamplingError::Repetition);
    }
    for bad in [f32::NAN, 2.1, -2.1] {
        let presence = Sampling {
            presence: bad,
            ..base()
        };
        assert_eq!(refused(presence), SamplingError::Presence);
        let frequency = Sampling {
            frequency: bad,
            ..base()
        };
        assert_eq!(refused(frequency), SamplingError::Frequency);
    }
    let bias = |bias| Sampling { bias, ..base() };
    assert_eq!(refused(bias(vec![(1, 100.5)])), SamplingError::Bias);
    let many = vec![(1, 1.0); BIASES_MAX + 1];
    assert_eq!(refused(bias(many)), SamplingError::Biases);
}

/// Prints what a token costs by the size of the vocabulary: the least of many, in microseconds. Nothing
/// is asserted about time: machines differ.
#[test]
fn what_a_token_costs() {
    let set = |name, change: fn(&mut Sampling)| {
        let mut sampling = Sampling::default();
        change(&mut sampling);
        (name, sampling)
    };
    let settings = [
        set("greedy", |_| ()),
        set("temperature", |s| s.temperature = 1.0),
        set("min_p", |s| (s.temperature, s.min_p) = (1.0, 0.05)),
        set("top_k", |s| (s.temperature, s.top_k) = (1.0, 40)),
        set("top_p", |s| (s.temperature, s.top_p) = (1.0, 0.95)),
        set("top_p, hot", |s| (s.temperature, s.top_p) = (10.0, 0.95)),
        set("all", |s| {
            (s.temperature, s.top_k, s.top_p, s.min_p) = (0.8, 40, 0.95, 0.05);
            (s.repetition, s.presence, s.frequency) = (1.1, 0.5, 0.5);
        }),
    ];
    for vocabulary in [49_152u32, 151_936] {
        // Bell-shaped, about as wide as a model's, with a few tokens far above.
        let noise = |id: u32, of: u64| uniform(of, u64::from(id)) as f32;
        let bell = |id: u32| (0..6).map(|of| noise(id, of) - 0.5).sum::<f32>() * 4.0;
        let mut logits: Vec<f32> = (0..vocabulary).map(bell).collect();
        (0..20).for_each(|at| logits[at * 997] += 12.0 - at as f32 / 3.0);
        let tokens: Vec<u32> = (0..2000).map(|at| at * 7).collect();
        let history = History {
            tokens: &tokens,
            prompt_tokens: 1000,
        };
        for (name, sampling) in &settings {
            let mut sampler = sampler(sampling.clone());
            let least = least_us(|| {
                let token = sampler.choose(&mut logits, history, std::iter::empty());
                assert!(token.is_some());
            });
            println!("{vocabulary:>7} {name:<12} {least:>5} us");
        }
        let least = least_us(|| {
            let likely = Likelihoods::of(&logits, 7, LOGPROBS_MAX);
            assert!(likely.is_some());
        });
        println!("{vocabulary:>7} {:<12} {least:>5} us", "logprobs");
    }
}

fn least_us(mut run: impl FnMut()) -> u128 {
    let time = |_| {
        let began = std::time::Instant::now();
        run();
        began.elapsed().as_micros()
    };
    (0..200).map(time).min().unwrap_or(0)
}
