//! Attention of every new token to its own sequence's earlier tokens, over paged keys and values.
//!
//! In a block, for every layer and key-value head: the keys of 16 tokens, turned around so that one
//! load gives one dimension of all 16; then their values, one token behind the other.

use super::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;

/// Tokens whose keys and values one block holds.
pub const BLOCK_TOKENS: usize = 16;

/// Where things are inside a block.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Layers of the model.
    pub layers: usize,
    /// Key-value heads.
    pub heads: usize,
    /// Width of a head, floats.
    pub width: usize,
}

impl Layout {
    /// Floats of the keys (or the values) of one head in one layer of one block.
    pub fn part(&self) -> usize {
        BLOCK_TOKENS * self.width
    }

    /// Floats of a block.
    pub fn block(&self) -> usize {
        self.layers * self.heads * 2 * self.part()
    }

    /// First float of a head's keys; its values follow.
    pub fn keys(&self, block: usize, layer: usize, head: usize) -> usize {
        block * self.block() + (layer * self.heads + head) * 2 * self.part()
    }

    /// Bytes of a block.
    pub fn block_bytes(&self) -> usize {
        self.block() * size_of::<f32>()
    }

    /// Bytes that a token takes.
    pub fn token_bytes(&self) -> u64 {
        (self.block_bytes() / BLOCK_TOKENS) as u64
    }
}

/// One new token: which blocks its sequence has, and where in the sequence it is.
#[derive(Clone, Copy)]
pub struct Query<'a> {
    pub blocks: &'a [u32],
    pub position: usize,
}

/// Which keys and values are attended to, and how.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub layout: Layout,
    pub layer: usize,
    /// What the products of queries and keys are multiplied with.
    pub scale: f32,
    /// Each token attends to so many last positions, its own among them; none means to all.
    pub window: Option<usize>,
}

impl Attention {
    /// The usual: to all earlier positions, scaled by 1 / √width.
    pub fn new(layout: Layout, layer: usize) -> Self {
        Attention {
            layout,
            layer,
            scale: 1.0 / (layout.width as f32).sqrt(),
            window: None,
        }
    }

    /// First position that the token at `position` attends to.
    fn first(&self, position: usize) -> usize {
        let window = self.window.unwrap_or(usize::MAX).max(1);
        (position + 1).saturating_sub(window)
    }
}

/// `out = attention(q)`: `out` has a row of all query heads for each query, and so has `q`, where a
/// row begins every `q_stride` floats. A head's width is a multiple of 4. Each task is one query and
/// one key-value head with the query heads that share it.
pub fn attend(
    q: &[f32],
    q_stride: usize,
    queries: &[Query<'_>],
    kv: &[f32],
    how: &Attention,
    out: &mut [f32],
) {
    let width = out.len() / queries.len().max(1);
    let layout = how.layout;
    let group = width / layout.heads;
    out.par_chunks_mut(group)
        .enumerate()
        .for_each(|(task, out)| {
            let (row, head) = (task / layout.heads, task % layout.heads);
            let q = &q[row * q_stride + head * group..][..group];
            simd::run(Head {
                q,
                query: queries[row],
                kv,
                how,
                head,
                out,
            });
        });
}

struct Head<'a> {
    q: &'a [f32],
    query: Query<'a>,
    kv: &'a [f32],
    how: &'a Attention,
    head: usize,
    out: &'a mut [f32],
}

impl WithSimd for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match S::F32_LANES {
            16 => self.compute::<S, 1>(simd),
            8 => self.compute::<S, 2>(simd),
            4 => self.compute::<S, 4>(simd),
            _ => self.compute::<S, 16>(simd),
        }
    }
}

impl Head<'_> {
    #[inline(always)]
    fn compute<S: Simd, const V: usize>(self, simd: S) {
        let Attention { layout, layer, .. } = *self.how;
        let (width, part) = (layout.width, layout.part());
        // Positions before the window that share its first block are scored, and then left out.
        let length = self.query.position + 1;
        let first = self.how.first(self.query.position);
        let skipped = first / BLOCK_TOKENS;
        let blocks = &self.query.blocks[skipped..length.div_ceil(BLOCK_TOKENS)];
        let seen = first - skipped * BLOCK_TOKENS..length - skipped * BLOCK_TOKENS;
        let heads = self.q.len() / width;
        let padded = blocks.len() * BLOCK_TOKENS;
        let mut scores = vec![0f32; heads * padded];
        for (nth, block) in blocks.iter().enumerate() {
            let start = layout.keys(*block as usize, layer, self.head);
            let keys = &self.kv[start..start + part];
            for (q, scores) in self
                .q
                .chunks_exact(width)
                .zip(scores.chunks_exact_mut(padded))
            {
                let scores = &mut scores[nth * BLOCK_TOKENS..][..BLOCK_TOKENS];
                block_scores::<S, V>(simd, q, keys, scores);
            }
        }
        self.out.fill(0.0);
        for scores in scores.chunks_exact_mut(padded) {
            scores[..seen.start].fill(0.0);
            simd::softmax_in(simd, &mut scores[seen.clone()], self.how.scale);
        }
        for (nth, block) in blocks.iter().enumerate() {
            let start = layout.keys(*block as usize, layer, self.head) + part;
            let values = &self.kv[start..start + part];
            let tokens = BLOCK_TOKENS.min(seen.end - nth * BLOCK_TOKENS);
            for (out, p) in self
                .out
                .chunks_exact_mut(width)
                .zip(scores.chunks_exact(padded))
            {
                let p = &p[nth * BLOCK_TOKENS..][..tokens];
                for (p, value) in p.iter().zip(values.chunks_exact(width)) {
                    for (out, v) in out.iter_mut().zip(value) {
                        *out += p * v;
                    }
                }
            }
        }
    }
}

/// The products of one query with 16 keys. Four sums in turn, since one would wait for itself.
#[inline(always)]
fn block_scores<S: Simd, const V: usize>(simd: S, q: &[f32], keys: &[f32], out: &mut [f32]) {
    let (keys, _) = S::as_simd_f32s(keys);
    let (keys, _) = keys.as_chunks::<V>();
    let mut sums = [[simd.splat_f32s(0.0); V]; 4];
    for (q, keys) in q.chunks_exact(4).zip(keys.chunks_exact(4)) {
        for way in 0..4 {
            let q = simd.splat_f32s(q[way]);
            for v in 0..V {
                sums[way][v] = simd.mul_add_f32s(q, keys[way][v], sums[way][v]);
            }
        }
    }
    let (out, _) = S::as_mut_simd_f32s(out);
    for v in 0..V {
        let left = simd.add_f32s(sums[0][v], sums[1][v]);
        out[v] = simd.add_f32s(left, simd.add_f32s(sums[2][v], sums[3][v]));
    }
}
