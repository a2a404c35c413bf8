//! Attention of every new token to its own sequence's earlier tokens, over paged keys and values.
//!
//! In a block, for every layer and key-value head: the keys of 16 tokens, turned around so that one
//! load gives one dimension of all 16; then their values, one token behind the other.
//!
//! Neighbouring tokens of a sequence see nearly the same keys, so they are computed together, with
//! all query heads that share a key-value head: a block is read once for up to [`ROWS`] rows. The
//! softmax is the running one of Milakov and Gimelshein (arXiv:1805.02867), as in FlashAttention, so
//! that scores of a few blocks at a time are enough, on the stack, however long the sequence is. A long
//! past is divided by positions too, and what comes of the parts is put together as that softmax allows.
//!
//! A token's result depends on its own query, keys and values alone, bit for bit: whatever is computed
//! beside it, sums are taken at the same positions in the same order. That is so of finite numbers: shares of
//! zero times values that are none, of later tokens in the same blocks, are none.

mod tile;

use super::simd;
use rayon::prelude::*;
use std::ops::Range;
use tile::{Join, Tile};

/// Rows (tokens times query heads) of one task at most.
const ROWS: usize = 24;
/// Positions that one task reads, from a multiple of this on.
const SPAN: usize = 1024;
/// Products of single numbers that are worth handing to another thread: some 20 µs.
const THREAD_WORK: usize = 500_000;
/// Floats of parts that wait to be joined, at most, if there is more than one run: 1 MiB.
const FOUND_MAX: usize = 1 << 18;
/// Results that one thread joins before another would have something to do.
const JOINS_PER_TASK: usize = 8;

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

    /// The positions that one task after the other reads for these queries.
    fn spans(&self, queries: &[Query<'_>]) -> impl ExactSizeIterator<Item = Range<usize>> + use<> {
        let first = queries
            .first()
            .map_or(0, |query| self.first(query.position));
        let last = queries.last().map_or(0, |query| query.position);
        (first / SPAN..last / SPAN + 1).map(|nth| nth * SPAN..(nth + 1) * SPAN)
    }
}

/// `out = attention(q)`: `out` has a row of all query heads for each query, and so has `q`, where a
/// row begins every `q_stride` floats. A head's width is a multiple of 4. Queries of one sequence
/// that follow each other, with the same table, share their reading of keys and values.
pub fn attend(
    q: &[f32],
    q_stride: usize,
    queries: &[Query<'_>],
    kv: &[f32],
    how: &Attention,
    out: &mut [f32],
) {
    if queries.is_empty() {
        return;
    }
    let row = out.len() / queries.len();
    let heads = Heads::of(how, row);
    let runs: Vec<Range<usize>> = runs(queries, (ROWS / heads.together).max(1)).collect();
    let (mut runs, mut left) = (runs.as_slice(), out);
    while let Some(first) = runs.first() {
        let mut floats = 0;
        let fitting = runs.iter().take_while(|run| {
            floats += heads.found(how, &queries[(*run).clone()]);
            floats <= FOUND_MAX
        });
        let (some, others) = runs.split_at(fitting.count().max(1));
        let end = others.first().map_or(queries.len(), |run| run.start);
        let (out, rest) = left.split_at_mut((end - first.start) * row);
        attend_runs(q, q_stride, queries, some, kv, how, &heads, out);
        (runs, left) = (others, rest);
    }
}

/// How query heads are divided into tasks.
struct Heads {
    /// That share a key-value head.
    shared: usize,
    /// Of one task: all that share, or a part of them if they are many.
    together: usize,
    /// Tasks that have all heads of a token.
    parts: usize,
}

impl Heads {
    /// For rows of so many floats.
    fn of(how: &Attention, row: usize) -> Self {
        let all = row / how.layout.width;
        let shared = all / how.layout.heads;
        let fitting = (1..=shared.min(ROWS)).rev();
        let together = fitting.into_iter().find(|n| shared.is_multiple_of(*n));
        let together = together.unwrap_or(1);
        Heads {
            shared,
            together,
            parts: all / together,
        }
    }

    /// Floats that the tasks of a run leave to be joined, if they are several.
    fn found(&self, how: &Attention, queries: &[Query<'_>]) -> usize {
        match how.spans(queries).len() {
            1 => 0,
            spans => {
                let rows = queries.len() * self.together;
                self.parts * spans * tile::found(rows, how.layout.width)
            }
        }
    }
}

/// Some of the runs that queries are divided into; `out` has these alone.
#[expect(
    clippy::too_many_arguments,
    reason = "those of `attend`, and what it made of them"
)]
fn attend_runs(
    q: &[f32],
    q_stride: usize,
    queries: &[Query<'_>],
    runs: &[Range<usize>],
    kv: &[f32],
    how: &Attention,
    heads: &Heads,
    out: &mut [f32],
) {
    let width = how.layout.width;
    let &Heads {
        shared,
        together,
        parts,
    } = heads;
    let mut outs = out.chunks_exact_mut(together * width);
    let of_run = |run: &Range<usize>| heads.found(how, &queries[run.clone()]);
    let mut found = vec![0f32; runs.iter().map(of_run).sum()];
    let mut left = found.as_mut_slice();
    let (mut tasks, mut joins) = (Vec::new(), Vec::new());
    for run in runs {
        let queries = &queries[run.clone()];
        let tile = |part: usize, positions, out, found| Tile {
            q: &q[run.start * q_stride + part * together * width..],
            q_stride,
            queries,
            kv,
            how,
            head: part * together / shared,
            shared: together,
            positions,
            out,
            found,
        };
        let rows = run.len() * together;
        let mut of_part: Vec<Vec<&mut [f32]>> = (0..parts).map(|_| Vec::new()).collect();
        for _ in queries {
            for (outs, out) in of_part.iter_mut().zip(&mut outs) {
                outs.push(out);
            }
        }
        for (part, out) in of_part.into_iter().enumerate() {
            let mut spans = how.spans(queries);
            if spans.len() == 1 {
                tasks.extend(spans.next().map(|span| tile(part, span, out, None)));
                continue;
            }
            joins.push((out, rows, spans.len()));
            for span in spans {
                let (place, rest) =
                    std::mem::take(&mut left).split_at_mut(tile::found(rows, width));
                left = rest;
                let (mixed, found) = place.split_at_mut(rows * width);
                let mixed = mixed.chunks_exact_mut(together * width).collect();
                tasks.push(tile(part, span, mixed, Some(found)));
            }
        }
    }
    let of_run = |run: &Range<usize>| queries[run.clone()].iter().map(|one| one.position + 1);
    let work: usize = runs.iter().flat_map(of_run).sum();
    let each = 2 * work * shared * how.layout.heads * width / tasks.len();
    tasks
        .into_par_iter()
        .with_min_len(THREAD_WORK / each.max(1))
        .with_max_len((THREAD_WORK / each.max(1)).max(1))
        .for_each(simd::run);
    let mut found = found.as_slice();
    let joins: Vec<Join<'_, '_>> = joins
        .into_iter()
        .map(|(out, rows, spans)| {
            let (parts, rest) = found.split_at(spans * tile::found(rows, width));
            found = rest;
            Join { out, rows, parts }
        })
        .collect();
    joins
        .into_par_iter()
        .with_min_len(JOINS_PER_TASK)
        .for_each(simd::run);
}

/// Divides queries into runs of one table and of positions that follow each other, `longest` at most.
fn runs<'q>(
    queries: &'q [Query<'q>],
    longest: usize,
) -> impl Iterator<Item = std::ops::Range<usize>> + use<'q> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = queries.get(start)?;
        let follows = |(nth, query): &(usize, &Query<'_>)| {
            std::ptr::eq(query.blocks, first.blocks) && query.position == first.position + nth
        };
        let all = queries[start..].iter().take(longest).enumerate();
        let run = start..start + all.take_while(follows).count();
        start = run.end;
        Some(run)
    })
}
