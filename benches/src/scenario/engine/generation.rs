//! Tokens a second: of a prompt, of one answer, and of eight answers side by side.

use super::{Contest, PARALLEL, Rates, served};
use crate::{Failure, Figure, bare::Run, workload::TEXT};
use std::collections::BTreeMap;

/// The prompt is the text so many times: some 500 tokens.
const PROMPT_TEXTS: usize = 13;
/// Tokens of each answer.
const ANSWER_TOKENS: u32 = 64;
/// Tokens of each answer where several are written at once: the last has begun long before the first
/// ends.
const LONG_ANSWER_TOKENS: u32 = 192;

/// Measures all three.
pub async fn measure(contest: &mut Contest) -> Result<Vec<Figure>, Failure> {
    let mut figures = alone(contest).await?;
    figures.extend(together(contest)?);
    Ok(figures)
}

/// A long prompt.
pub fn prompt() -> String {
    [TEXT; PROMPT_TEXTS].join(" ")
}

async fn alone(contest: &mut Contest) -> Result<Vec<Figure>, Failure> {
    eprintln!("smollm2, one sequence");
    let prompt = prompt();
    let (mut prefill, mut decode, mut read) = (Rates::default(), Rates::default(), 0);
    for round in 0..=contest.rounds {
        contest.smollm2.generate(&prompt, ANSWER_TOKENS);
        let run = contest.smollm2.drain()?;
        let (ours_prefill, ours_decode) = rates_alone(&run)?;
        let theirs = match &mut contest.peer {
            Some(peer) => Some(peer.generate(std::slice::from_ref(&prompt), ANSWER_TOKENS)?),
            None => None,
        };
        let served = served::answer(&contest.client, &prompt, ANSWER_TOKENS).await?;
        if round == 0 {
            read = served.input_tokens;
            continue;
        }
        prefill.bare.push(ours_prefill);
        decode.bare.push(ours_decode);
        prefill.server.push(served.prefill_tok_s());
        decode.server.push(served.decode_tok_s());
        if let Some(theirs) = theirs {
            prefill
                .peer
                .push(f64::from(theirs.prompt_tokens) / theirs.prefill_seconds);
            decode
                .peer
                .push(f64::from(theirs.decoded_tokens) / theirs.decode_seconds);
        }
    }
    let peer = contest.peer.as_ref().map_or("", |peer| &peer.generation);
    let mut figures = prefill.figures(
        "smollm2/prefill",
        "tokens/s",
        ("llamacpp", peer),
        &format!("bare engine, prompt of {read} tokens until the first piece"),
    );
    figures.extend(decode.figures(
        "smollm2/decode",
        "tokens/s",
        ("llamacpp", peer),
        &format!("bare engine, {ANSWER_TOKENS} tokens, first piece to last"),
    ));
    Ok(figures)
}

/// Tokens a second of the prompt and of the answer. The first piece belongs to the prompt: its token
/// came out of the prefill.
fn rates_alone(run: &Run) -> Result<(f64, f64), Failure> {
    let none = "the model answered nothing";
    let (first, last) = (
        run.shown.first().ok_or(none)?,
        run.shown.last().ok_or(none)?,
    );
    let input = run.finished.first().map_or(0, |one| one.input_tokens);
    let decoded = last.tokens.saturating_sub(first.tokens);
    Ok((
        f64::from(input) / first.at,
        f64::from(decoded) / (last.at - first.at),
    ))
}

fn together(contest: &mut Contest) -> Result<Vec<Figure>, Failure> {
    eprintln!("smollm2, {PARALLEL} sequences");
    // Different beginnings, so that no engine can compute one for another.
    let prompts: Vec<String> = (0..PARALLEL).map(|nth| format!("{nth}. {TEXT}")).collect();
    let mut rates = Rates::default();
    for round in 0..=contest.rounds {
        for prompt in &prompts {
            contest.smollm2.generate(prompt, LONG_ANSWER_TOKENS);
        }
        let ours = rate_together(&contest.smollm2.drain()?)?;
        let theirs = match &mut contest.peer {
            Some(peer) => Some(peer.generate(&prompts, LONG_ANSWER_TOKENS)?),
            None => None,
        };
        if round == 0 {
            continue;
        }
        rates.bare.push(ours);
        if let Some(theirs) = theirs {
            rates
                .peer
                .push(f64::from(theirs.decoded_tokens) / theirs.decode_seconds);
        }
    }
    let peer = contest.peer.as_ref().map_or("", |peer| &peer.generation);
    let how = format!("bare engine, {PARALLEL} answers at once, while all of them are written");
    Ok(rates.figures("smollm2/parallel8", "tokens/s", ("llamacpp", peer), &how))
}

/// Tokens a second of all answers together, from when the last of them began until the first ended.
fn rate_together(run: &Run) -> Result<f64, Failure> {
    let mut answers: BTreeMap<u64, Vec<(f64, u32)>> = BTreeMap::new();
    for shown in &run.shown {
        let answer = answers.entry(shown.request).or_default();
        answer.push((shown.at, shown.tokens));
    }
    let none = "nobody answered";
    let begins = answers.values().filter_map(|answer| answer.first());
    let ends = answers.values().filter_map(|answer| answer.last());
    let from = begins.map(|(at, _)| *at).reduce(f64::max).ok_or(none)?;
    let to = ends.map(|(at, _)| *at).reduce(f64::min).ok_or(none)?;
    if to <= from {
        return Err("the answers were not written side by side".into());
    }
    let tokens = |answer: &[(f64, u32)]| {
        let until = |time: f64| {
            let before = answer.iter().rev().find(|(at, _)| *at <= time);
            before.map_or(0, |(_, tokens)| *tokens)
        };
        until(to) - until(from)
    };
    let sum: u32 = answers.values().map(|answer| tokens(answer)).sum();
    Ok(f64::from(sum) / (to - from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare::Shown;

    #[test]
    fn only_the_time_in_which_all_write_counts() {
        let shown = |request, tokens, at| Shown {
            request,
            tokens,
            at,
        };
        let run = Run {
            shown: vec![
                shown(1, 1, 0.5),
                shown(1, 2, 1.0),
                shown(2, 1, 1.0),
                shown(1, 4, 2.0),
                shown(2, 2, 2.0),
                shown(2, 3, 3.0),
            ],
            ..Run::default()
        };
        // From 1.0 to 2.0: two tokens of the first and one of the second.
        assert_eq!(rate_together(&run).expect("they overlap"), 3.0);
    }
}
