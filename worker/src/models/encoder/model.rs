//! The encoder's forward pass, one layer at a time.

use super::config::Config;
use super::weights::{Embeddings, Layer, Reader};
use crate::engine::Scrubbed;
use crate::models::scratch::{Buffer, sum};
use crate::models::{LoadError, ModelFiles};
use bulkhead_kernels::compute::Linear;
use bulkhead_kernels::compute::ragged::attend;
use rayon::prelude::*;
use std::ops::Range;

/// Rows of embeddings that one task makes.
const EMBED_ROWS: usize = 32;

/// What a layer computes in.
#[derive(Debug, Default)]
pub struct Scratch {
    qkv: Buffer,
    mixed: Buffer,
    change: Buffer,
    inner: Buffer,
}

impl Scratch {
    /// Zeroes and reads back all that was written.
    pub fn scrub(&mut self) -> Scrubbed {
        [
            &mut self.qkv,
            &mut self.mixed,
            &mut self.change,
            &mut self.inner,
        ]
        .into_iter()
        .fold(Scrubbed::default(), |all, buffer| sum(all, buffer.scrub()))
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

    /// Layers of the encoder.
    pub fn layers(&self) -> usize {
        self.layers.len()
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

    /// Runs one layer over `rows`, in place. `texts` are the texts' ranges of rows.
    pub fn layer(
        &self,
        nth: usize,
        rows: &mut [f32],
        texts: &[Range<usize>],
        scratch: &mut Scratch,
    ) {
        let Some(layer) = self.layers.get(nth) else {
            return;
        };
        let (hidden, activation) = (self.hidden(), self.config.activation);
        let tokens = rows.len() / hidden;
        let qkv = scratch.qkv.take(tokens * 3 * hidden);
        let mixed = scratch.mixed.take(tokens * hidden);
        let change = scratch.change.take(tokens * hidden);
        let inner = scratch.inner.take(tokens * layer.up.outputs());
        layer.qkv.forward(rows, qkv, |_| ());
        attend(qkv, texts, hidden, self.config.heads, mixed);
        layer.attended.forward(mixed, change, |_| ());
        layer.attended_norm.add_all(rows, change);
        layer.up.forward(rows, inner, |rows| activation.apply(rows));
        layer.down.forward(inner, change, |_| ());
        layer.down_norm.add_all(rows, change);
    }
}
