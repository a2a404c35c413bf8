//! The encoder's forward pass, in pieces of any size.
//!
//! A layer has two halves. The first makes queries, keys and values of each row; the second lets each row
//! attend to all of its text's, and does the rest. Inside a half rows do not depend on each other, so a
//! piece is some rows through one half, and what a piece yields is the same however the rows are divided.
//! So even one long text in a large model never makes a step too long.

use super::config::Config;
use super::weights::{Embeddings, Layer, Reader};
use crate::engine::Scrubbed;
use crate::models::scratch::{Buffer, sum};
use crate::models::{LoadError, ModelFiles};
use bulkhead_kernels::compute::Linear;
use bulkhead_kernels::compute::ragged::attend_rows;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of embeddings that one task makes.
const EMBED_ROWS: usize = 32;

/// Rows of a piece at least, unless there are fewer: each piece reads all of a half's weights.
const PIECE_ROWS_MIN: usize = 32;
/// What a product inside attention costs more than one with weights, about.
const ATTENTION_FACTOR: usize = 2;

/// Units of work that a row's first half is; so many, that the second's can be told closely enough.
const FIRST_HALF_UNITS: u64 = 16;

/// How far a batch has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    layer: usize,
    second_half: bool,
    row: usize,
}

/// What a layer computes in.
#[derive(Debug, Default)]
pub struct Scratch {
    qkv: Buffer,
    mixed: Buffer,
    change: Buffer,
    inner: Buffer,
}

impl Scratch {
    /// Zeroes and reads back all that was written, but for what a batch that is still on its way needs
    /// between two pieces.
    pub fn scrub(&mut self, on_its_way: bool) -> Scrubbed {
        let inside = [&mut self.mixed, &mut self.change, &mut self.inner];
        let done =
            (inside.into_iter()).fold(Scrubbed::default(), |all, buffer| sum(all, buffer.scrub()));
        match on_its_way {
            true => done,
            false => sum(done, self.qkv.scrub()),
        }
    }
}

impl Scratch {
    /// Zeroes and reads back what is kept of these rows, `hidden` wide, between two pieces.
    pub fn forget(&mut self, rows: &Range<usize>, hidden: usize) -> Scrubbed {
        let row = 3 * hidden;
        self.qkv.scrub_part(rows.start * row..rows.end * row)
    }
}

/// A token of a batch, and its row in the table of positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    id: u32,
    position: u32,
}

/// A loaded encoder.
#[derive(Debug)]
pub struct Model {
    config: Config,
    embeddings: Embeddings,
    layers: Vec<Layer>,
}

impl Model {
    /// Builds the model from the weights among `files`, each of which is freed as it is read.
    pub(crate) fn read(config: Config, files: &mut ModelFiles) -> Result<Self, LoadError> {
        let mut reader = Reader::open(files, &config)?;
        let embeddings = reader.embeddings()?;
        let layers = (0..config.layers).map(|nth| reader.layer(nth));
        Ok(Model {
            layers: layers.collect::<Result<_, _>>()?,
            embeddings,
            config,
        })
    }

    /// Width of a vector.
    pub fn hidden(&self) -> usize {
        self.config.hidden
    }

    /// Bytes that the weights take.
    pub fn bytes(&self) -> u64 {
        let Embeddings {
            words, positions, ..
        } = &self.embeddings;
        let of_layer = |layer: &Layer| {
            let matrices = [&layer.qkv, &layer.attended, &layer.up, &layer.down];
            matrices.into_iter().map(Linear::bytes).sum::<usize>()
        };
        let tables = words.bytes() + size_of_val(positions.as_slice());
        (tables + self.layers.iter().map(of_layer).sum::<usize>()) as u64
    }

    /// What a token of a short text costs from the first layer to the last, in units of work.
    pub fn units_of_token(&self) -> u64 {
        self.layers.len() as u64 * (FIRST_HALF_UNITS + self.second_half_units(0))
    }

    /// What one row's second half costs in a text of so many tokens, in units of work.
    fn second_half_units(&self, tokens: usize) -> u64 {
        let (hidden, inner) = (self.config.hidden, self.config.intermediate);
        let weights = hidden + 2 * inner;
        let products = (weights + 2 * ATTENTION_FACTOR * tokens) as u64;
        (FIRST_HALF_UNITS * products).div_ceil(3 * hidden as u64)
    }

    /// Adds a text's tokens to `tokens`, each with its position. In RoBERTa a token for padding (which
    /// a text can write out) has a position of its own that counts no further. Ids come from the
    /// tokenizer; one beyond the vocabulary reads as the first word.
    pub fn place(&self, ids: &[u32], tokens: &mut Vec<Token>) {
        let last = self.config.positions as u32 - 1;
        let mut next = self.config.first_position() as u32;
        for id in ids {
            let id = if (*id as usize) < self.config.vocabulary {
                *id
            } else {
                0
            };
            let position = match self.config.padding {
                Some(padding) if id == padding => padding,
                _ => {
                    next += 1;
                    next - 1
                }
            };
            let position = position.min(last);
            tokens.push(Token { id, position });
        }
    }

    /// Writes the rows that go into the first layer.
    pub fn embed(&self, tokens: &[Token], rows: &mut [f32]) {
        let hidden = self.hidden();
        let Embeddings {
            words,
            positions,
            norm,
        } = &self.embeddings;
        rows.par_chunks_exact_mut(hidden)
            .zip(tokens)
            .with_min_len(EMBED_ROWS)
            .for_each(|(row, token)| {
                words.copy_row(token.id as usize, row);
                norm.add(
                    row,
                    &positions[token.position as usize * hidden..][..hidden],
                );
            });
    }

    /// Runs a batch on by about `units`, and at least one piece, in place. `texts` are the texts' ranges
    /// of rows. Returns the units that were done.
    pub fn advance(
        &self,
        progress: &mut Progress,
        units: u64,
        rows: &mut [f32],
        texts: &[Range<usize>],
        scratch: &mut Scratch,
    ) -> u64 {
        let tokens = rows.len() / self.hidden();
        let longest = texts.iter().map(Range::len).max().unwrap_or(0);
        let second_half = self.second_half_units(longest);
        let mut done = 0;
        while let Some(layer) = self.layers.get(progress.layer) {
            let unit = match progress.second_half {
                true => second_half,
                false => FIRST_HALF_UNITS,
            };
            let left = tokens - progress.row;
            let fits = (units.saturating_sub(done) / unit) as usize;
            let least = left.min(PIECE_ROWS_MIN);
            if done > 0 && fits < least {
                break;
            }
            let piece = progress.row..progress.row + fits.clamp(least, left);
            done += piece.len() as u64 * unit;
            match progress.second_half {
                false => self.first_half(layer, rows, piece.clone(), scratch),
                true => self.second_half(layer, rows, piece.clone(), texts, scratch),
            }
            progress.row = piece.end;
            if progress.row == tokens {
                progress.row = 0;
                progress.layer += usize::from(progress.second_half);
                progress.second_half = !progress.second_half;
            }
        }
        done
    }

    /// True once a batch is through.
    pub fn is_through(&self, progress: &Progress) -> bool {
        progress.layer >= self.layers.len()
    }

    fn first_half(&self, layer: &Layer, rows: &[f32], piece: Range<usize>, scratch: &mut Scratch) {
        let hidden = self.hidden();
        let qkv = scratch.qkv.take(rows.len() * 3);
        let qkv = &mut qkv[piece.start * 3 * hidden..piece.end * 3 * hidden];
        let rows = &rows[piece.start * hidden..piece.end * hidden];
        layer.qkv.forward(rows, qkv, |_| ());
    }

    fn second_half(
        &self,
        layer: &Layer,
        rows: &mut [f32],
        piece: Range<usize>,
        texts: &[Range<usize>],
        scratch: &mut Scratch,
    ) {
        let (hidden, activation) = (self.hidden(), self.config.activation);
        let qkv = scratch.qkv.take(rows.len() * 3);
        let mixed = scratch.mixed.take(piece.len() * hidden);
        let change = scratch.change.take(piece.len() * hidden);
        let inner = scratch.inner.take(piece.len() * layer.up.outputs());
        attend_rows(qkv, texts, piece.clone(), hidden, self.config.heads, mixed);
        let rows = &mut rows[piece.start * hidden..piece.end * hidden];
        layer.attended.forward(mixed, change, |_| ());
        layer.attended_norm.add_all(rows, change);
        layer.up.forward(rows, inner, |rows| activation.apply(rows));
        layer.down.forward(inner, change, |_| ());
        layer.down_norm.add_all(rows, change);
    }
}
