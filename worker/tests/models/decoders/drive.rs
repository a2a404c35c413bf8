//! Driving a decoder: ragged steps over sequences whose blocks lie in no order.

use bulkhead_worker::models::decoder::{Decoder, Row};

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
    let logits = decoder
        .forward(&rows, &wanted, &tables)
        .expect("it computes");
    assert_eq!(logits.len(), wanted.len() * vocabulary);
    let logits = logits.chunks(vocabulary).map(<[f32]>::to_vec);
    whose.into_iter().zip(logits).collect()
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

/// How far the logits of two runs are apart at most.
pub fn apart(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let pairs = a.iter().flatten().zip(b.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
