//! What the fast functions mean: the same results by obvious loops in double precision.
//!
//! For tests, here and in crates that build on these functions. Nothing that serves calls this: it is
//! many times slower, and never changes for speed.

use super::linear::ROUNDED;
use super::paged::{Attention, BLOCK_TOKENS, Layout, Query};
use super::simd::Activation;
use super::{GROUP, Rows};
use std::ops::Range;

/// `x · Wᵀ + bias`: `weights` has a row of `inputs` per output, `x` whole rows of `inputs`, and the
/// result a row of outputs for each of those. `bias` may be empty.
pub fn linear(inputs: usize, weights: &Rows, bias: &[f32], x: &[f32]) -> Vec<f32> {
    let weights = weights.values();
    let mut out = Vec::new();
    for x in x.chunks_exact(inputs) {
        for (output, w) in weights.chunks_exact(inputs).enumerate() {
            let bias = f64::from(bias.get(output).copied().unwrap_or(0.0));
            out.push((bias + dot(x, w)) as f32);
        }
    }
    out
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| f64::from(*a) * f64::from(*b))
        .sum()
}

/// `x` as products in integers take it: per group of inputs, rounded to 65,535 equal steps between minus and
/// plus the greatest magnitude.
pub fn rounded(x: &[f32]) -> Vec<f32> {
    let group = |x: &[f32]| {
        let top = x.iter().fold(0f32, |top, x| top.max(x.abs()));
        let inverse = if top > 0.0 { ROUNDED / top } else { 0.0 };
        let one = |x: &f32| (x * inverse).round_ties_even() * (top / ROUNDED);
        x.iter().map(one).collect::<Vec<_>>()
    };
    x.chunks(GROUP).flat_map(group).collect()
}

/// Softmax of `scores * scale`.
pub fn softmax(scores: &[f64], scale: f64) -> Vec<f64> {
    let top = scores.iter().copied().fold(f64::MIN, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| ((s - top) * scale).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|p| p / sum).collect()
}

/// One head's output for the query `q`: values weighted by the softmax of products with keys.
fn head(q: &[f32], keys: &[Vec<f32>], values: &[Vec<f32>], scale: f64) -> Vec<f32> {
    let scores: Vec<f64> = keys.iter().map(|key| dot(q, key)).collect();
    let shares = softmax(&scores, scale);
    let value = |d: usize| {
        shares
            .iter()
            .zip(values)
            .map(|(p, v)| p * f64::from(v[d]))
            .sum::<f64>()
    };
    (0..q.len()).map(|d| value(d) as f32).collect()
}

/// Twin of [`super::paged::attend`], with `heads` query heads.
pub fn paged(
    q: &[f32],
    q_stride: usize,
    queries: &[Query<'_>],
    kv: &[f32],
    how: &Attention,
    heads: usize,
) -> Vec<f32> {
    let (layout, width) = (how.layout, how.layout.width);
    let mut out = Vec::new();
    for (query, q) in queries.iter().zip(q.chunks(q_stride)) {
        let first = how
            .window
            .map_or(0, |window| (query.position + 1).saturating_sub(window));
        for nth in 0..heads {
            let shared = nth / (heads / layout.heads);
            let (mut keys, mut values) = (Vec::new(), Vec::new());
            for position in first..=query.position {
                let block = query.blocks[position / BLOCK_TOKENS] as usize;
                let slot = position % BLOCK_TOKENS;
                let start = layout.keys(block, how.layer, shared);
                keys.push(
                    (0..width)
                        .map(|d| kv[start + d * BLOCK_TOKENS + slot])
                        .collect(),
                );
                let start = start + layout.part() + slot * width;
                values.push(kv[start..start + width].to_vec());
            }
            out.extend(head(
                &q[nth * width..][..width],
                &keys,
                &values,
                f64::from(how.scale),
            ));
        }
    }
    out
}

/// Twin of [`super::ragged::attend`].
pub fn ragged(qkv: &[f32], texts: &[Range<usize>], hidden: usize, heads: usize) -> Vec<f32> {
    let width = hidden / heads;
    let part = |row: usize, which: usize, nth: usize| {
        qkv[row * 3 * hidden + which * hidden + nth * width..][..width].to_vec()
    };
    let mut out = Vec::new();
    for text in texts {
        for row in text.clone() {
            for nth in 0..heads {
                let keys: Vec<_> = text.clone().map(|row| part(row, 1, nth)).collect();
                let values: Vec<_> = text.clone().map(|row| part(row, 2, nth)).collect();
                let scale = 1.0 / (width as f64).sqrt();
                out.extend(head(&part(row, 0, nth), &keys, &values, scale));
            }
        }
    }
    out
}

/// One value through an activation.
pub fn activation(activation: Activation, x: f32) -> f32 {
    let x = f64::from(x);
    let result = match activation {
        Activation::Gelu => 0.5 * x * erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3));
            0.5 * x * (1.0 + u.tanh())
        }
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Relu => x.max(0.0),
    };
    result as f32
}

/// The complementary error function: by its power series near zero, by its continued fraction
/// (Abramowitz and Stegun 7.1.5 and 7.1.14) beyond.
fn erfc(x: f64) -> f64 {
    if x < 0.0 {
        return 2.0 - erfc(-x);
    }
    if x < 2.5 {
        let (mut term, mut sum) = (x, x);
        for n in 1..80 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        return 1.0 - 2.0 / std::f64::consts::PI.sqrt() * sum;
    }
    let fraction = (1..200)
        .rev()
        .fold(x, |rest, n| x + f64::from(n) / 2.0 / rest);
    (-x * x).exp() / std::f64::consts::PI.sqrt() / fraction
}

/// `layer_norm(row)`.
pub fn layer_norm(row: &[f32], weight: &[f32], bias: &[f32], epsilon: f32) -> Vec<f32> {
    let count = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let square = |x: &f32| (f64::from(*x) - mean).powi(2);
    let deviation = (row.iter().map(square).sum::<f64>() / count + f64::from(epsilon)).sqrt();
    let one = |((x, w), b): ((&f32, &f32), &f32)| {
        ((f64::from(*x) - mean) / deviation * f64::from(*w) + f64::from(*b)) as f32
    };
    row.iter().zip(weight).zip(bias).map(one).collect()
}

/// `rms_norm(row) * weight`.
pub fn rms_norm(row: &[f32], weight: &[f32], epsilon: f32) -> Vec<f32> {
    let mean = dot(row, row) / row.len() as f64;
    let scale = 1.0 / (mean + f64::from(epsilon)).sqrt();
    let one = |(x, w): (&f32, &f32)| (f64::from(*x) * scale * f64::from(*w)) as f32;
    row.iter().zip(weight).map(one).collect()
}

/// Turns the first `heads` heads of rows that are `stride` apart. `turns` has, for each row, cosine and sine of
/// every pair, as many floats as a head is wide.
pub fn rotate(
    rows: &mut [f32],
    stride: usize,
    heads: usize,
    width: usize,
    turns: &[f32],
    neighbours: bool,
) {
    for (row, turns) in rows.chunks_mut(stride).zip(turns.chunks(width)) {
        for head in row[..heads * width].chunks_mut(width) {
            for pair in 0..width / 2 {
                let (a, b) = match neighbours {
                    true => (2 * pair, 2 * pair + 1),
                    false => (pair, pair + width / 2),
                };
                let [cos, sin] = [turns[2 * pair], turns[2 * pair + 1]].map(f64::from);
                let [x, y] = [head[a], head[b]].map(f64::from);
                head[a] = (x * cos - y * sin) as f32;
                head[b] = (x * sin + y * cos) as f32;
            }
        }
    }
}

/// Puts keys and values of rows that are `stride` apart, the keys behind `skip` floats and the values behind the
/// keys, into the queries' places.
pub fn store(
    rows: &[f32],
    stride: usize,
    skip: usize,
    queries: &[Query<'_>],
    kv: &mut [f32],
    layout: Layout,
    layer: usize,
) {
    let width = layout.width;
    for (query, row) in queries.iter().zip(rows.chunks(stride)) {
        let (keys, values) = row[skip..].split_at(layout.heads * width);
        for head in 0..layout.heads {
            for d in 0..width {
                let [key, value] = places(query.blocks, query.position, layout, layer, head, d);
                kv[key] = keys[head * width + d];
                kv[value] = values[head * width + d];
            }
        }
    }
}

/// Keys and values of all positions up to a query's own: a row of all heads for each.
pub fn gather(kv: &[f32], query: &Query<'_>, layout: Layout, layer: usize) -> (Vec<f32>, Vec<f32>) {
    let mut found = (Vec::new(), Vec::new());
    for position in 0..=query.position {
        for head in 0..layout.heads {
            for d in 0..layout.width {
                let [key, value] = places(query.blocks, position, layout, layer, head, d);
                found.0.push(kv[key]);
                found.1.push(kv[value]);
            }
        }
    }
    found
}

/// Where one number of a key and of a value is.
fn places(
    blocks: &[u32],
    position: usize,
    layout: Layout,
    layer: usize,
    head: usize,
    d: usize,
) -> [usize; 2] {
    let slot = position % BLOCK_TOKENS;
    let keys = layout.keys(blocks[position / BLOCK_TOKENS] as usize, layer, head);
    [
        keys + d * BLOCK_TOKENS + slot,
        keys + layout.part() + slot * layout.width + d,
    ]
}

/// The id of the greatest logit, the lowest of equals; NaN is no candidate, and infinity the greatest number.
/// `None` if there is none above minus infinity.
pub fn greedy(logits: &[f32]) -> Option<u32> {
    let mut best: Option<(f32, u32)> = None;
    for (id, logit) in (0..).zip(logits) {
        let logit = logit.min(f32::MAX);
        let is_better = best.is_none_or(|(other, _)| logit > other);
        if !logits[id as usize].is_nan() && logit > f32::NEG_INFINITY && is_better {
            best = Some((logit, id));
        }
    }
    best.map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_turn_swaps_the_two_of_a_pair() {
        let quarter = [0.0, 1.0, 0.0, 1.0];
        let mut neighbours = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate(&mut neighbours, 5, 1, 4, &quarter, true);
        assert_eq!(neighbours, [-2.0, 1.0, -4.0, 3.0, 9.0]);
        let mut halves = [1.0, 2.0, 3.0, 4.0, 9.0];
        rotate(&mut halves, 5, 1, 4, &quarter, false);
        assert_eq!(halves, [-3.0, -4.0, 1.0, 2.0, 9.0]);
    }

    #[test]
    fn what_is_stored_is_gathered_and_is_what_attention_sees() {
        let layout = Layout {
            layers: 2,
            heads: 2,
            width: 2,
        };
        let blocks = [3, 1];
        let queries: Vec<_> = (0..20)
            .map(|position| Query {
                blocks: &blocks,
                position,
            })
            .collect();
        // A query, two keys and two values, all different.
        let rows: Vec<f32> = (0..20 * 12).map(|n| n as f32 / 240.0).collect();
        let mut kv = vec![0.0; 4 * layout.block()];
        store(&rows, 12, 4, &queries, &mut kv, layout, 1);
        let (keys, values) = gather(&kv, &queries[19], layout, 1);
        for (row, (keys, values)) in rows.chunks(12).zip(keys.chunks(4).zip(values.chunks(4))) {
            assert_eq!((&row[4..8], &row[8..12]), (keys, values));
        }
        // The first token sees itself alone.
        let how = Attention::new(layout, 1);
        let first = paged(&rows, 12, &queries[..1], &kv, &how, 2);
        assert_eq!(first, &rows[8..12]);
    }

    #[test]
    fn the_error_function_has_its_known_values() {
        for (x, want) in [
            (0.0, 1.0),
            (0.5, 0.479_500_122_186_953_5),
            (2.0, 0.004_677_734_981_047_266),
            (3.0, 2.209_049_699_858_544e-5),
            (-1.0, 1.842_700_792_949_715),
        ] {
            assert!((erfc(x) - want).abs() < 1e-12, "{x}: {}", erfc(x));
        }
    }
}
