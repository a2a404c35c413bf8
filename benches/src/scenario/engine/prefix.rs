//! The prefix cache through the whole server: what it gains a tenant, and whether the time until the first
//! token tells another tenant which prompts came before.
//!
//! In every round the first tenant sends a prompt that nobody sent before, and then one that begins with
//! it; the second tenant sends the prompt that the first has just sent, and one that nobody sent. Its two
//! times are compared by medians and by the rank test of Mann and Whitney (1947), whose statistic is below
//! 1.96 in 95 of 100 runs where there is no difference.

use super::{median, served};
use crate::{
    Failure, Figure,
    args::ServerArgs,
    server::Server,
    workload::{GENERATE_MODEL, TEXT},
};
use bulkhead_client::AgentClient;

/// The prompt is the text so many times: some 400 tokens.
const PROMPT_TEXTS: usize = 10;
/// Tokens of each answer: only the first is timed.
const ANSWER_TOKENS: u32 = 2;
/// Prompts of each kind for every round of the other figures: these differ by less.
const PER_ROUND: u32 = 3;

/// Seconds until the first token, by kind of prompt.
#[derive(Default)]
struct Times {
    new: Vec<f64>,
    cached: Vec<f64>,
    others_sent: Vec<f64>,
    others_unsent: Vec<f64>,
}

/// Measures on a server of its own.
pub async fn measure(rounds: u32, settings: &ServerArgs) -> Result<Vec<Figure>, Failure> {
    eprintln!("smollm2, prompts that begin alike");
    let mut settings = settings.clone();
    let cached = format!("models.prefix_cache=[{GENERATE_MODEL:?}]");
    settings.settings.push(cached);
    let server = Server::start(&settings).await?;
    let (first, second) = (
        server.tenant("first").await?,
        server.tenant("second").await?,
    );
    for client in [&first, &second] {
        served::answer(client, TEXT, ANSWER_TOKENS).await?;
    }
    let (mut times, mut read) = (Times::default(), 0);
    for round in 0..rounds * PER_ROUND {
        read = one_round(round, &first, &second, &mut times).await?;
    }
    server.stop().await?;
    Ok(figures(times, read))
}

async fn one_round(
    round: u32,
    first: &AgentClient,
    second: &AgentClient,
    times: &mut Times,
) -> Result<u32, Failure> {
    let sent = prompt(2 * round);
    let answer = served::answer(first, &sent, ANSWER_TOKENS).await?;
    times.new.push(answer.first_s());
    let longer = format!("{sent} And then?");
    let again = served::answer(first, &longer, ANSWER_TOKENS).await?;
    times.cached.push(again.first_s());

    let unsent = prompt(2 * round + 1);
    let mut prompts = [(&sent, true), (&unsent, false)];
    // In turns, since who comes second may find a machine that is warmer.
    prompts.rotate_left(round as usize % 2);
    for (prompt, was_sent) in prompts {
        let took = served::answer(second, prompt, ANSWER_TOKENS)
            .await?
            .first_s();
        match was_sent {
            true => times.others_sent.push(took),
            false => times.others_unsent.push(took),
        }
    }
    Ok(answer.input_tokens)
}

/// A long prompt that no other begins like. All are equally long.
fn prompt(nth: u32) -> String {
    format!("{nth:06}. {}", [TEXT; PROMPT_TEXTS].join(" "))
}

fn figures(times: Times, read: u32) -> Vec<Figure> {
    let z = rank_z(&times.others_sent, &times.others_unsent);
    let spread = format!(
        "ms at the quartiles: sent by another tenant before {}, never sent {}",
        quartiles_ms(&times.others_sent),
        quartiles_ms(&times.others_unsent)
    );
    let new = median(times.new);
    let ratio = median(times.others_sent) / median(times.others_unsent);
    vec![
        Figure::higher(
            "smollm2/prefix/gain",
            new / median(times.cached),
            "ratio",
            format!(
                "time to the first token, prompt of {read} tokens: {:.0} ms when it is new",
                new * 1e3
            ),
        ),
        Figure::lower(
            "smollm2/prefix/other_tenant_diff",
            (ratio - 1.0).abs(),
            "ratio",
            spread,
        ),
        Figure::lower(
            "smollm2/prefix/other_tenant_z",
            z.abs(),
            "z",
            "Mann and Whitney's rank test on the same times: below 1.96 there is no difference to see",
        ),
    ]
}

fn quartiles_ms(times: &[f64]) -> String {
    let mut sorted = times.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let at = |quarter: usize| {
        let place = sorted.len().saturating_sub(1) * quarter / 4;
        sorted.get(place).copied().unwrap_or_default() * 1e3
    };
    format!("{:.0}/{:.0}/{:.0}", at(1), at(2), at(3))
}

/// The rank test's statistic, in its own standard deviations: positive where `a` is the greater.
fn rank_z(a: &[f64], b: &[f64]) -> f64 {
    let wins = |x: &f64| {
        let won = |y: &f64| match x.total_cmp(y) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        b.iter().map(won).sum::<f64>()
    };
    let u: f64 = a.iter().map(wins).sum();
    let (n, m) = (a.len() as f64, b.len() as f64);
    (u - n * m / 2.0) / (n * m * (n + m + 1.0) / 12.0).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rank_test_knows_alike_from_different() {
        let low: Vec<f64> = (0..20).map(f64::from).collect();
        let high: Vec<f64> = (0..20).map(|x| f64::from(x) + 15.0).collect();
        assert_eq!(rank_z(&low, &low), 0.0);
        assert!(rank_z(&high, &low) > 4.0);
        assert!(rank_z(&low, &high) < -4.0);
        // By hand: of 2 × 2 pairs three are won, and the deviation is that of 5 / 3.
        assert!((rank_z(&[2.0, 4.0], &[1.0, 3.0]) - 1.0 / (5.0f64 / 3.0).sqrt()).abs() < 1e-9);
    }

    #[test]
    fn prompts_differ_and_are_equally_long() {
        assert_ne!(prompt(1), prompt(2));
        assert_eq!(prompt(1).len(), prompt(2000).len());
    }
}
