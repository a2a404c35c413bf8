//! Attention of every token to all tokens of its own text, and to no other.

use super::simd;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use std::ops::Range;

/// Query rows that one task computes: enough to pay for turning the keys around, few enough to share
/// one long text among the threads.
const TASK_ROWS: usize = 32;

/// What one task computes: query rows `rows`, which attend to `text`.
struct Task<'a> {
    text: Range<usize>,
    rows: Range<usize>,
    out: &'a mut [f32],
}

/// `out = attention(qkv)`: queries, keys and values side by side in each row of `qkv`, the ranges of
/// rows that are texts in `texts` (adjoining, in order, covering all rows).
pub fn attend(qkv: &[f32], texts: &[Range<usize>], hidden: usize, heads: usize, out: &mut [f32]) {
    let rows = 0..qkv.len() / (3 * hidden);
    attend_rows(qkv, texts, rows, hidden, heads, out);
}

/// [`attend`] for the queries of `rows` alone, which are all that `out` has.
pub fn attend_rows(
    qkv: &[f32],
    texts: &[Range<usize>],
    rows: Range<usize>,
    hidden: usize,
    heads: usize,
    out: &mut [f32],
) {
    let mut tasks = Vec::new();
    let mut rest = out;
    for text in texts {
        let end = text.end.min(rows.end);
        for start in (text.start.max(rows.start)..end).step_by(TASK_ROWS) {
            let rows = start..end.min(start + TASK_ROWS);
            let (mine, others) = rest.split_at_mut(rows.len() * hidden);
            tasks.push(Task {
                text: text.clone(),
                rows,
                out: mine,
            });
            rest = others;
        }
    }
    tasks.into_par_iter().with_max_len(1).for_each(|task| {
        simd::run(Run {
            task,
            qkv,
            hidden,
            heads,
        });
    });
}

struct Run<'a> {
    task: Task<'a>,
    qkv: &'a [f32],
    hidden: usize,
    heads: usize,
}

impl WithSimd for Run<'_> {
    type Output = ();
    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Run {
            task,
            qkv,
            hidden,
            heads,
        } = self;
        let size = hidden / heads;
        let length = task.text.len();
        let scale = 1.0 / (size as f32).sqrt();
        let part = |row: usize, which: usize, head: usize| {
            &qkv[row * 3 * hidden + which * hidden + head * size..][..size]
        };
        let mut keys = vec![0f32; size * length];
        let mut scores = vec![0f32; length];
        for head in 0..heads {
            for (at, row) in task.text.clone().enumerate() {
                for (d, k) in part(row, 1, head).iter().enumerate() {
                    keys[d * length + at] = *k;
                }
            }
            for (nth, row) in task.rows.clone().enumerate() {
                scores.fill(0.0);
                for (q, keys) in part(row, 0, head).iter().zip(keys.chunks_exact(length)) {
                    for (score, k) in scores.iter_mut().zip(keys) {
                        *score += q * k;
                    }
                }
                simd::softmax_in(simd, &mut scores, scale);
                let out = &mut task.out[nth * hidden + head * size..][..size];
                out.fill(0.0);
                for (p, row) in scores.iter().zip(task.text.clone()) {
                    for (out, v) in out.iter_mut().zip(part(row, 2, head)) {
                        *out += p * v;
                    }
                }
            }
        }
    }
}
