//! Whether a step keeps its limit while a prompt of thousands of tokens is read beside a neighbour that decodes,
//! and what that costs either of them.
//!
//! The engine has seen nothing before: its first steps, in which no price is known, count too. The
//! neighbour is another agent of the same tenant. Then the same prompt is read alone, within the limit and
//! in the largest pieces that there are without one.
//!
//! A machine that is itself a guest takes its processors away now and then, and says so too coarsely to be
//! subtracted from a step. So threads that do nothing but read the clock tell how often and for how long,
//! before and after ([`Stalls`]).

use super::stalls::Stalls;
use crate::bare::{Bare, STEP_LIMIT_NS, Stepped};
use crate::{Failure, Figure, workload::TEXT};
use bulkhead_proto::internal::Outcome;
use std::path::Path;

/// Tokens of a copy of the text as SmolLM2 reads it.
const TEXT_TOKENS: u32 = 36;
/// Tokens that the neighbour writes alone, before the prompt comes.
const ALONE_TOKENS: u32 = 200;
/// Tokens that it may write: it is stopped once the prompt is read.
const NEIGHBOUR_TOKENS: u32 = 7000;
/// The two agents.
const NEIGHBOUR: u64 = 1;
const READER: u64 = 2;
/// A limit that no step reaches, nanoseconds.
const UNLIMITED_NS: u64 = 3_600_000_000_000;

/// What was seen of all steps within the limit.
#[derive(Default)]
struct Seen {
    steps: Vec<Stepped>,
}

/// Measures it on a fresh engine.
pub async fn measure(
    model: &Path,
    threads: usize,
    prompt_tokens: u32,
) -> Result<Vec<Figure>, Failure> {
    let mut stalls = Stalls::watch(threads);
    let mut engine = Bare::open(model, "gguf", &["model.gguf"], threads)?;
    engine.tell_waiting();
    let prompt = vec![TEXT; (prompt_tokens / TEXT_TOKENS) as usize].join(" ");
    let mut seen = Seen::default();
    eprintln!("smollm2, a neighbour that decodes");
    let neighbour = engine.generate_for(NEIGHBOUR, TEXT, NEIGHBOUR_TOKENS);
    let until = |tokens| move |step: &Stepped| tokens_of(step, neighbour) >= Some(tokens);
    let alone = seen.run(&mut engine, until(ALONE_TOKENS)).await?;
    eprintln!("smollm2, a prompt of some {prompt_tokens} tokens beside it");
    let beside = seen.read(&mut engine, &prompt).await?;
    engine.cancel(neighbour);
    seen.run(&mut engine, |_| false).await?;
    eprintln!("smollm2, the same prompt alone");
    let single = seen.read(&mut engine, &prompt).await?;
    seen.run(&mut engine, |_| false).await?;
    eprintln!("smollm2, the same prompt in the largest pieces");
    engine.limit_steps(UNLIMITED_NS);
    let whole = Seen::default().read(&mut engine, &prompt).await?;

    drop(engine);
    stalls.add(Stalls::watch(threads));

    let mut figures = seen.figures();
    figures.extend(stalls.figures());
    figures.extend(gaps("neighbour_alone", &alone.times(neighbour)));
    figures.extend(gaps("neighbour_beside", &beside.times(neighbour)));
    figures.extend(first_token(&beside, &single, &whole));
    Ok(figures)
}

/// Tokens of an answer so far, where a step brought more of it.
fn tokens_of(step: &Stepped, request: u64) -> Option<u32> {
    let mut pieces = step.outcome.pieces.iter();
    let piece = pieces.find(|piece| piece.request == request)?;
    Some(piece.output_tokens)
}

/// Some steps, one behind the other.
struct Stretch {
    /// When each piece came, and whose it was.
    pieces: Vec<(u64, f64)>,
    steps: usize,
    seconds: f64,
    /// Tokens of the prompt that was read, if one was.
    prompt_tokens: u32,
}

impl Stretch {
    fn times(&self, request: u64) -> Vec<f64> {
        let of = self.pieces.iter().filter(|(whose, _)| *whose == request);
        of.map(|(_, at)| *at).collect()
    }
}

impl Seen {
    /// Steps until `over` holds, or nothing is left to do.
    async fn run(
        &mut self,
        engine: &mut Bare,
        over: impl Fn(&Stepped) -> bool,
    ) -> Result<Stretch, Failure> {
        let (mut pieces, mut began, mut seconds) = (Vec::new(), None, 0.0);
        let (mut steps, mut prompt_tokens) = (0, 0);
        while let Some(step) = engine.step() {
            let began = *began.get_or_insert(step.at - step.seconds);
            seconds = step.at - began;
            steps += 1;
            let came = step.outcome.pieces.iter();
            pieces.extend(came.map(|piece| (piece.request, step.at)));
            for finished in &step.outcome.finished {
                if !matches!(finished.outcome(), Outcome::Ok | Outcome::Cancelled) {
                    return Err(format!("the engine refused: {}", finished.detail).into());
                }
                prompt_tokens = finished.input_tokens;
            }
            let over = over(&step);
            self.steps.push(step);
            if over {
                break;
            }
            // Between steps, whoever wants to end the program is heard.
            tokio::task::yield_now().await;
        }
        Ok(Stretch {
            pieces,
            steps,
            seconds,
            prompt_tokens,
        })
    }

    /// Reads a prompt to its first token, which is all that is asked for.
    async fn read(&mut self, engine: &mut Bare, prompt: &str) -> Result<Stretch, Failure> {
        let request = engine.generate_for(READER, prompt, 1);
        let first = self
            .run(engine, |step| tokens_of(step, request).is_some())
            .await?;
        // The rest is cleaning, and belongs to nobody's first token.
        let answered = |step: &Stepped| {
            let mut finished = step.outcome.finished.iter();
            finished.any(|one| one.request == request)
        };
        let rest = self.run(engine, answered).await?;
        if first.times(request).is_empty() {
            return Err("the prompt's answer has no text".into());
        }
        Ok(Stretch {
            prompt_tokens: first.prompt_tokens.max(rest.prompt_tokens),
            ..first
        })
    }

    fn figures(&self) -> Vec<Figure> {
        let limit = STEP_LIMIT_NS as f64 / 1e9;
        let count = |over: &dyn Fn(&Stepped) -> bool| {
            self.steps.iter().filter(|step| over(step)).count() as f64
        };
        let longest = self.steps.iter().map(|step| step.seconds);
        let own = self.steps.iter().map(own_seconds);
        let expected = self.steps.iter().filter_map(taken_of_expected).collect();
        let errors = Sorted::new(expected);
        let how = format!("a limit of {} ms", limit * 1e3);
        let others = "without what other programs took of the processors, as the kernel says";
        vec![
            Figure::lower(
                "steps/longest_ms",
                longest.reduce(f64::max).unwrap_or(0.0) * 1e3,
                "ms",
                how.clone(),
            ),
            Figure::lower(
                "steps/longest_own_ms",
                own.reduce(f64::max).unwrap_or(0.0) * 1e3,
                "ms",
                format!("{how}, {others}"),
            ),
            Figure::lower(
                "steps/over_limit",
                count(&|step| step.seconds > limit),
                "steps",
                format!("of {} steps, {how}", self.steps.len()),
            ),
            Figure::lower(
                "steps/over_limit_own",
                count(&|step| own_seconds(step) > limit),
                "steps",
                others,
            ),
            Figure::lower(
                "steps/over_limit_per_minute",
                count(&|step| step.seconds > limit) * 60.0
                    / self.steps.iter().map(|step| step.seconds).sum::<f64>(),
                "1/min",
                "of these steps' time; see steps/machine_stalls_per_minute",
            ),
            Figure::lower(
                "steps/taken_of_expected_p50",
                errors.at(0.5),
                "ratio",
                "computing, as the prices of the steps before said",
            ),
            Figure::lower("steps/taken_of_expected_p99", errors.at(0.99), "ratio", ""),
            Figure::lower("steps/taken_of_expected_max", errors.at(1.0), "ratio", ""),
        ]
    }
}

/// What a step took by itself.
fn own_seconds(step: &Stepped) -> f64 {
    (step.seconds - step.waited_seconds).max(0.0)
}

fn taken_of_expected(step: &Stepped) -> Option<f64> {
    let expected = step.outcome.expected_ns;
    (expected > 0).then(|| step.outcome.computed_ns as f64 / expected as f64)
}

/// The neighbour's time between pieces.
fn gaps(name: &str, times: &[f64]) -> [Figure; 3] {
    let gaps = times.windows(2).map(|pair| (pair[1] - pair[0]) * 1e3);
    let gaps = Sorted::new(gaps.collect());
    let figure = |what: &str, at| {
        Figure::lower(
            &format!("steps/{name}/{what}_ms"),
            gaps.at(at),
            "ms",
            format!("between {} tokens as they came", times.len()),
        )
    };
    [figure("p50", 0.5), figure("p99", 0.99), figure("max", 1.0)]
}

fn first_token(beside: &Stretch, single: &Stretch, whole: &Stretch) -> [Figure; 4] {
    let figure = |name: &str, stretch: &Stretch, how: &str| {
        Figure::lower(
            &format!("steps/first_token/{name}_s"),
            stretch.seconds,
            "s",
            format!(
                "prompt of {} tokens in {} steps, {how}",
                stretch.prompt_tokens, stretch.steps
            ),
        )
    };
    [
        figure("beside", beside, "beside the neighbour"),
        figure("alone", single, "alone"),
        figure("undivided", whole, "alone, in the largest pieces"),
        Figure::lower(
            "steps/price_of_dividing",
            single.seconds / whole.seconds,
            "ratio",
            "alone, within the limit over in the largest pieces",
        ),
    ]
}

/// Values in order.
struct Sorted(Vec<f64>);

impl Sorted {
    fn new(mut values: Vec<f64>) -> Self {
        values.sort_unstable_by(f64::total_cmp);
        Sorted(values)
    }

    /// The value that the share `at` of all are not above; 0 of none.
    fn at(&self, at: f64) -> f64 {
        let nth = (self.0.len() as f64 * at).ceil() as usize;
        let nth = nth.clamp(1, self.0.len().max(1)) - 1;
        self.0.get(nth).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_values_is_the_least_that_covers_it() {
        let sorted = Sorted::new((1..=200).rev().map(f64::from).collect());
        assert_eq!(sorted.at(0.5), 100.0);
        assert_eq!(sorted.at(0.99), 198.0);
        assert_eq!(sorted.at(1.0), 200.0);
        assert_eq!(Sorted::new(Vec::new()).at(0.5), 0.0);
    }

    #[test]
    fn gaps_lie_between_neighbours() {
        let [p50, _, max] = gaps("x", &[1.0, 1.25, 1.5, 2.5]);
        assert_eq!((p50.value, max.value), (250.0, 1000.0));
        assert_eq!(gaps("x", &[])[0].value, 0.0);
    }
}
