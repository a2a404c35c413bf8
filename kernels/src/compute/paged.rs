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
//! beside it, sums are taken at the same positions in the same order.

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
    let width = how.layout.width;
    let shared = out.len() / queries.len() / how.layout.heads / width;
    // Query heads of one task: all that share a key-value head, or a part of them if they are many.
    let together = (1..=shared.min(ROWS)).rev();
    let together = together.into_iter().find(|n| shared.is_multiple_of(*n));
    let together = together.unwrap_or(1);
    let parts = out.len() / queries.len() / width / together;
    let mut outs = out.chunks_exact_mut(together * width);
    let runs: Vec<Range<usize>> = runs(queries, (ROWS / together).max(1)).collect();
    // What the tasks of a run leave together, if they are several.
    let places = |run: &Range<usize>| match how.spans(&queries[run.clone()]).len() {
        1 => 0,
        spans => spans * tile::found(run.len() * together, width),
    };
    let mut found = vec![0f32; parts * runs.iter().map(places).sum::<usize>()];
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
    let work: usize = queries.iter().map(|query| query.position + 1).sum();
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
