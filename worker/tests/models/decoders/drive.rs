//! Driving a decoder: ragged steps over sequences whose blocks lie in no order.

use bulkhead_worker::models::decoder::{Decoder, Given, Row};
use bulkhead_worker_core::PassKind;
use std::ops::Range;

/// Tokens of a KV block.
const BLOCK_TOKENS: usize = 16;

/// A sequence, and the blocks that it got.
struct Sequence {
    tokens: Vec<u32>,
    computed: usize,
    blocks: Vec<u32>,
}

/// Sequences in blocks that lie in no order.
fn sequences(prompts: &[Vec<u32>], answer_tokens: usize) -> Vec<Sequence> {
    let mut free = (0..16u32).map(|nth| nth * 7 % 16);
    let each = |prompt: &Vec<u32>| Sequence {
        tokens: prompt.clone(),
        computed: 0,
        blocks: free
            .by_ref()
            .take((prompt.len() + answer_tokens).div_ceil(BLOCK_TOKENS))
            .collect(),
    };
    prompts.iter().map(each).collect()
}

/// One step: `pieces` tokens of each. Returns the logits of those whose last known token it computed.
fn step(
    decoder: &mut dyn Decoder,
    sequences: &mut [Sequence],
    pieces: &[usize],
) -> Vec<(usize, Vec<f32>)> {
    let (mut rows, mut wanted, mut whose) = (Vec::new(), Vec::new(), Vec::new());
    for (table, (sequence, piece)) in sequences.iter_mut().zip(pieces).enumerate() {
        let end = sequence
            .tokens
            .len()
            .min(sequence.computed.saturating_add(*piece));
        for position in sequence.computed..end {
            rows.push(Row {
                token: sequence.tokens[position],
                position,
                table,
            });
        }
        let moved = end > sequence.computed;
        sequence.computed = end;
        if moved && end == sequence.tokens.len() {
            wanted.push(rows.len() - 1);
            whose.push(table);
        }
    }
    let vocabulary = decoder.shape().vocabulary;
    let tables: Vec<&[u32]> = sequences.iter().map(|one| one.blocks.as_slice()).collect();
    let given = Given {
        rows: &rows,
        wanted: &wanted,
        tables: &tables,
    };
    let logits = forward(decoder, given);
    assert_eq!(logits.len(), wanted.len() * vocabulary);
    let logits = logits.chunks(vocabulary).map(<[f32]>::to_vec);
    whose.into_iter().zip(logits).collect()
}

/// A whole pass.
pub fn forward<'a>(decoder: &'a mut dyn Decoder, given: Given<'_>) -> &'a mut [f32] {
    let logits = decoder.advance(PassKind::Reading, given, &mut |_| true);
    logits.expect("it computes").expect("it was not stopped")
}

/// Logits after each prompt, all computed together in pieces of these sizes.
pub fn logits(decoder: &mut dyn Decoder, prompts: &[Vec<u32>], pieces: &[usize]) -> Vec<Vec<f32>> {
    let mut sequences = sequences(prompts, 0);
    let mut all = vec![Vec::new(); prompts.len()];
    while all.iter().any(Vec::is_empty) {
        for (whose, logits) in step(decoder, &mut sequences, pieces) {
            all[whose] = logits;
        }
    }
    all
}

fn greatest(logits: &[f32]) -> u32 {
    let top = logits.iter().zip(0u32..).max_by(|a, b| a.0.total_cmp(b.0));
    top.expect("a vocabulary").1
}

/// Greedy answers of `count` tokens to each prompt, together.
pub fn answers(decoder: &mut dyn Decoder, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let mut sequences = sequences(prompts, count);
    // Prompts of different lengths, so that some answer while others are still read.
    while sequences
        .iter()
        .zip(prompts)
        .any(|(one, prompt)| one.tokens.len() < prompt.len() + count)
    {
        let pieces: Vec<usize> = sequences
            .iter()
            .zip(prompts)
            .map(|(one, prompt)| {
                if one.tokens.len() < prompt.len() + count {
                    7
                } else {
                    0
                }
            })
            .collect();
        for (whose, logits) in step(decoder, &mut sequences, &pieces) {
            sequences[whose].tokens.push(greatest(&logits));
        }
    }
    sequences
        .into_iter()
        .zip(prompts)
        .map(|(one, prompt)| one.tokens[prompt.len()..].to_vec())
        .collect()
}

/// Logits after each of the first `answering` prompts, all of which are read in one pass that is left before every
/// stage, while a pass of `others` comes and goes in between. Before the stage `at`, `dropped` is taken out of it.
pub fn stopped(
    decoder: &mut dyn Decoder,
    prompts: &[Vec<u32>],
    answering: usize,
    others: &[Vec<u32>],
    (at, dropped): (usize, Option<usize>),
) -> Vec<Vec<f32>> {
    let all: Vec<Vec<u32>> = prompts.iter().chain(others).cloned().collect();
    let sequences = sequences(&all, 0);
    let blocks = |range: Range<usize>| -> Vec<&[u32]> {
        sequences[range]
            .iter()
            .map(|one| one.blocks.as_slice())
            .collect()
    };
    let (mine, theirs) = (0..prompts.len(), prompts.len()..all.len());
    let mut parts: Vec<usize> = mine.collect();
    let vocabulary = decoder.shape().vocabulary;
    let mut stage = 0;
    loop {
        if stage == at
            && let Some(dropped) = dropped
        {
            let (rows, answers) = without(prompts, answering, dropped);
            let scrubbed = decoder.keep(PassKind::Reading, &rows, &answers);
            assert_eq!(scrubbed.residue, 0);
            parts.retain(|part| *part != dropped);
        }
        let (rows, mut wanted) = whole(parts.iter().map(|part| &all[*part]));
        wanted.truncate(parts.iter().filter(|part| **part < answering).count());
        let tables: Vec<&[u32]> = parts
            .iter()
            .map(|part| blocks(*part..part + 1)[0])
            .collect();
        let given = Given {
            rows: &rows,
            wanted: &wanted,
            tables: &tables,
        };
        let mut next = 0;
        let done = decoder.advance(PassKind::Reading, given, &mut |stage| {
            next = stage;
            false
        });
        if let Some(logits) = done.expect("it computes") {
            assert_eq!(logits.len(), wanted.len() * vocabulary);
            return logits.chunks(vocabulary).map(<[f32]>::to_vec).collect();
        }
        assert_eq!(next, stage + 1, "one stage at a time");
        stage = next;
        // Whatever is not needed is scrubbed, and another pass uses the same buffers.
        decoder.scrub();
        let (rows, wanted) = whole(others.iter());
        let given = Given {
            rows: &rows,
            wanted: &wanted,
            tables: &blocks(theirs.clone()),
        };
        let logits = decoder.advance(PassKind::Decoding, given, &mut |_| true);
        assert!(logits.expect("it computes").is_some());
    }
}

/// Rows of whole prompts, and the last one of each.
fn whole<'a>(prompts: impl Iterator<Item = &'a Vec<u32>>) -> (Vec<Row>, Vec<usize>) {
    let (mut rows, mut wanted) = (Vec::new(), Vec::new());
    for (table, prompt) in prompts.enumerate() {
        rows.extend(prompt.iter().enumerate().map(|(position, token)| Row {
            token: *token,
            position,
            table,
        }));
        wanted.push(rows.len() - 1);
    }
    (rows, wanted)
}

/// The rows and the answers of all prompts but one, where the first `answering` answer.
fn without(prompts: &[Vec<u32>], answering: usize, dropped: usize) -> (Vec<usize>, Vec<usize>) {
    let (rows, _) = whole(prompts.iter());
    let kept = rows
        .iter()
        .enumerate()
        .filter(|(_, row)| row.table != dropped);
    let answers = (0..answering).filter(|prompt| *prompt != dropped);
    (kept.map(|(row, _)| row).collect(), answers.collect())
}

/// How far the logits of two runs are apart at most.
pub fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
