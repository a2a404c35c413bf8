//! A few rows of one sequence against all keys and values that they see.

use super::{Attention, BLOCK_TOKENS, Query, ROWS};
use crate::compute::simd::{self, exp};
use pulp::{Simd, WithSimd};
use std::ops::Range;

/// Blocks whose scores are computed before their values are mixed: their values fit the first cache.
const BLOCKS: usize = 4;
/// Sums in turn, since one would wait for itself; as many for any number of rows.
const W: usize = 2;
/// Tokens of so many blocks.
const TOKENS: usize = BLOCKS * BLOCK_TOKENS;

/// Query heads that share a key-value head, for tokens that follow each other: [`ROWS`] at most.
pub(super) struct Tile<'a, 'o> {
    /// From the first row's first head on.
    pub(super) q: &'a [f32],
    pub(super) q_stride: usize,
    pub(super) queries: &'a [Query<'a>],
    pub(super) kv: &'a [f32],
    pub(super) how: &'a Attention,
    pub(super) head: usize,
    /// Query heads of each token.
    pub(super) shared: usize,
    /// What is read of what they see: from the beginning of a block to that of another.
    pub(super) positions: Range<usize>,
    /// Of each token.
    pub(super) out: Vec<&'o mut [f32]>,
    /// Where this is a part of the positions: greatest score and sum of each row, to be joined with the others'.
    pub(super) found: Option<&'o mut [f32]>,
}

/// Floats that a part of the positions leaves of `rows` rows: what was mixed, greatest scores, sums.
pub(super) fn found(rows: usize, width: usize) -> usize {
    rows * (width + 2)
}

/// Joins what parts of the positions left of the same rows.
pub(super) struct Join<'f, 'o> {
    /// Of each token.
    pub(super) out: Vec<&'o mut [f32]>,
    pub(super) rows: usize,
    /// One behind the other.
    pub(super) parts: &'f [f32],
}

impl WithSimd for Join<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Join { out, rows, parts } = self;
        let width = out.iter().map(|out| out.len()).sum::<usize>() / rows;
        let each = out.into_iter().flat_map(|out| out.chunks_exact_mut(width));
        for (row, out) in each.enumerate() {
            let (mut top, mut sum) = (f32::MIN, 0.0);
            out.fill(0.0);
            for part in parts.chunks_exact(found(rows, width)) {
                let mixed = &part[row * width..][..width];
                let (its_top, its_sum) = (part[rows * width + row], part[rows * (width + 1) + row]);
                let now = its_top.max(top);
                let (before, more) = (exp(top - now), exp(its_top - now));
                sum = sum * before + its_sum * more;
                top = now;
                for (out, mixed) in out.iter_mut().zip(mixed) {
                    *out = *out * before + mixed * more;
                }
            }
            finish(out, sum);
        }
    }
}

/// What was mixed, by the sum of its shares.
#[inline(always)]
fn finish(out: &mut [f32], sum: f32) {
    let inverse = 1.0 / sum;
    out.iter_mut().for_each(|x| *x *= inverse);
}

/// What is known of the rows so far: greatest score and sum of shares relative to it.
struct Running {
    top: [f32; ROWS],
    sum: [f32; ROWS],
    /// Scores and then shares of the blocks at hand.
    shares: [[f32; TOKENS]; ROWS],
}

impl WithSimd for Tile<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // Vectors per block of keys, and rows at a time as registers allow.
        match S::F32_LANES {
            16 => self.compute::<S, 8, 1>(simd),
            8 => self.compute::<S, 3, 2>(simd),
            4 => self.compute::<S, 4, 4>(simd),
            _ => self.compute::<S, 1, 16>(simd),
        }
    }
}

/// Runs `$call` with as many of the rows from `$row` to `$rows` as `R` and the registers allow.
macro_rules! by_rows {
    ($rows:expr, $R:ident, |$row:ident| $this:ident.$call:ident($($arg:expr),*)) => {
        let mut $row = 0;
        while $row < $rows {
            $row += match $rows - $row {
                left if left >= $R => $this.$call::<S, $R, V>($($arg),*),
                left if left >= 3 && $R > 3 => $this.$call::<S, 3, V>($($arg),*),
                left if left >= 2 && $R > 2 => $this.$call::<S, 2, V>($($arg),*),
                _ => $this.$call::<S, 1, V>($($arg),*),
            };
        }
    };
}

impl<'a> Tile<'a, '_> {
    #[inline(always)]
    fn compute<S: Simd, const R: usize, const V: usize>(mut self, simd: S) {
        let (Some(earliest), Some(latest)) = (self.queries.first(), self.queries.last()) else {
            return;
        };
        let rows = self.queries.len() * self.shared;
        let mut running = Running {
            top: [f32::NEG_INFINITY; ROWS],
            sum: [0.0; ROWS],
            shares: [[0.0; TOKENS]; ROWS],
        };
        self.out.iter_mut().for_each(|out| out.fill(0.0));
        let first = self.how.first(earliest.position).max(self.positions.start);
        let end = (latest.position + 1).min(self.positions.end);
        let mut next = first / BLOCK_TOKENS;
        let all = &latest.blocks[..end.div_ceil(BLOCK_TOKENS)];
        while next < all.len() {
            // Those of one multiple of so many tokens, wherever the first row begins to see.
            let from = next * BLOCK_TOKENS;
            let blocks = &all[next..all.len().min((next / BLOCKS + 1) * BLOCKS)];
            next += blocks.len();
            for (nth, block) in blocks.iter().enumerate() {
                let keys = self.part(*block, 0);
                by_rows!(rows, R, |row| self.score(
                    simd,
                    keys,
                    nth,
                    row,
                    &mut running
                ));
            }
            for row in 0..rows {
                self.share(simd, row, from, blocks.len() * BLOCK_TOKENS, &mut running);
            }
            by_rows!(rows, R, |row| self.mix(simd, blocks, row, &running));
        }
        if let Some(found) = self.found {
            found[..rows].copy_from_slice(&running.top[..rows]);
            found[rows..].copy_from_slice(&running.sum[..rows]);
            return;
        }
        for row in 0..rows {
            finish(self.out_of(row), running.sum[row]);
        }
    }

    /// The keys (0) or values (1) of a block.
    #[inline(always)]
    fn part(&self, block: u32, which: usize) -> &'a [f32] {
        let layout = self.how.layout;
        let start = layout.keys(block as usize, self.how.layer, self.head);
        &self.kv[start + which * layout.part()..][..layout.part()]
    }

    #[inline(always)]
    fn q_of(&self, row: usize) -> &[f32] {
        let width = self.how.layout.width;
        let start = row / self.shared * self.q_stride + row % self.shared * width;
        &self.q[start..][..width]
    }

    #[inline(always)]
    fn out_of(&mut self, row: usize) -> &mut [f32] {
        let width = self.how.layout.width;
        &mut self.out[row / self.shared][row % self.shared * width..][..width]
    }

    /// The products of R rows with the 16 keys of the `nth` block at hand.
    #[inline(always)]
    fn score<S: Simd, const R: usize, const V: usize>(
        &self,
        simd: S,
        keys: &[f32],
        nth: usize,
        row: usize,
        running: &mut Running,
    ) -> usize {
        let q: [&[f32]; R] = std::array::from_fn(|r| self.q_of(row + r));
        let (keys, _) = S::as_simd_f32s(keys);
        let (keys, _) = keys.as_chunks::<V>();
        let (keys, _) = keys.as_chunks::<W>();
        let mut sums = [[[simd.splat_f32s(0.0); V]; R]; W];
        for (at, keys) in keys.iter().enumerate() {
            for way in 0..W {
                for r in 0..R {
                    let q = simd.splat_f32s(q[r][at * W + way]);
                    for v in 0..V {
                        sums[way][r][v] = simd.mul_add_e_f32s(q, keys[way][v], sums[way][r][v]);
                    }
                }
            }
        }
        for r in 0..R {
            let scores = &mut running.shares[row + r][nth * BLOCK_TOKENS..][..BLOCK_TOKENS];
            let (scores, _) = S::as_mut_simd_f32s(scores);
            for v in 0..V {
                scores[v] = sums[0][r][v];
                for sums in &sums[1..] {
                    scores[v] = simd.add_f32s(scores[v], sums[r][v]);
                }
            }
        }
        R
    }

    /// Makes shares of a row's scores of `count` tokens from position `from` on, and brings what was
    /// mixed before to the new greatest score.
    #[inline(always)]
    fn share<S: Simd>(
        &mut self,
        simd: S,
        row: usize,
        from: usize,
        count: usize,
        running: &mut Running,
    ) {
        let position = self.queries[row / self.shared].position;
        let end = (position + 1).saturating_sub(from).min(count);
        let start = self.how.first(position).saturating_sub(from).min(end);
        let shares = &mut running.shares[row][..count];
        shares[..start].fill(0.0);
        shares[end..].fill(0.0);
        let seen = &mut shares[start..end];
        if seen.is_empty() {
            return;
        }
        let scale = self.how.scale;
        // A scale may be negative: then the least product is the greatest score.
        seen.iter_mut().for_each(|x| *x *= scale);
        let top = simd::max(simd, seen).max(running.top[row]);
        for x in seen.iter_mut() {
            *x = exp(*x - top);
        }
        let sum = simd::sum(simd, seen);
        if top > running.top[row] {
            let less = exp(running.top[row] - top);
            running.sum[row] *= less;
            running.top[row] = top;
            self.out_of(row).iter_mut().for_each(|x| *x *= less);
        }
        running.sum[row] += sum;
    }

    /// Adds the values of the blocks at hand, by their shares, to R rows.
    #[inline(always)]
    fn mix<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        blocks: &[u32],
        row: usize,
        running: &Running,
    ) -> usize {
        let (width, lanes) = (self.how.layout.width, S::F32_LANES);
        let p: [&[f32; TOKENS]; R] = std::array::from_fn(|r| &running.shares[row + r]);
        let whole = width / lanes * lanes;
        for column in (0..whole).step_by(lanes) {
            let mut sums = [[simd.splat_f32s(0.0); R]; W];
            for (nth, block) in blocks.iter().enumerate() {
                let values = self.part(*block, 1);
                for at in (0..BLOCK_TOKENS).step_by(W) {
                    for way in 0..W {
                        let value = &values[(at + way) * width + column..][..lanes];
                        let value = S::as_simd_f32s(value).0[0];
                        for r in 0..R {
                            let p = simd.splat_f32s(p[r][nth * BLOCK_TOKENS + at + way]);
                            sums[way][r] = simd.mul_add_e_f32s(p, value, sums[way][r]);
                        }
                    }
                }
            }
            for r in 0..R {
                let out = &mut self.out_of(row + r)[column..][..lanes];
                let out = &mut S::as_mut_simd_f32s(out).0[0];
                for sums in &sums {
                    *out = simd.add_f32s(*out, sums[r]);
                }
            }
        }
        for r in 0..R {
            for column in whole..width {
                let mut sum = 0.0;
                for (nth, block) in blocks.iter().enumerate() {
                    let values = self.part(*block, 1)[column..].iter().step_by(width);
                    let p = &p[r][nth * BLOCK_TOKENS..][..BLOCK_TOKENS];
                    sum += p.iter().zip(values).map(|(p, v)| p * v).sum::<f32>();
                }
                self.out_of(row + r)[column] += sum;
            }
        }
        R
    }
}
