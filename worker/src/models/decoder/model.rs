//! The decoder's weights and its forward pass over the tokens of many sequences.

use super::kv::Kv;
use super::{Layout, Row};
use crate::engine::Scrubbed;
use crate::models::LoadError;
use crate::models::scratch::{Buffer, sum};
use crate::models::source::{GGUF_FILE as FILE, Gguf, Tensors};
use bulkhead_kernels::compute::paged::{Attention, BLOCK_TOKENS, Query, attend};
use bulkhead_kernels::compute::simd::{rms_norm, swiglu};
use bulkhead_kernels::compute::{Linear, Rows};
use rayon::prelude::*;

/// Bounds on what a file may claim, so that no product overflows.
const DIMENSION_MAX: usize = 1 << 16;
const VOCABULARY_MAX: usize = 1 << 20;
const CONTEXT_TOKENS_MAX: usize = 1 << 17;

#[derive(Debug)]
struct Layer {
    attention_norm: Vec<f32>,
    qkv: Linear,
    attended: Linear,
    feed_norm: Vec<f32>,
    gate_up: Linear,
    down: Linear,
}

/// What a step computes in.
#[derive(Debug, Default)]
pub struct Scratch {
    rows: Buffer,
    normed: Buffer,
    qkv: Buffer,
    mixed: Buffer,
    gate_up: Buffer,
    inner: Buffer,
    change: Buffer,
    logits: Buffer,
}

impl Scratch {
    /// Zeroes and reads back all that was written.
    pub fn scrub(&mut self) -> Scrubbed {
        [
            &mut self.rows,
            &mut self.normed,
            &mut self.qkv,
            &mut self.mixed,
            &mut self.gate_up,
            &mut self.inner,
            &mut self.change,
            &mut self.logits,
        ]
        .into_iter()
        .fold(Scrubbed::default(), |all, buffer| sum(all, buffer.scrub()))
    }
}

/// A loaded decoder.
#[derive(Debug)]
pub struct Model {
    hidden: usize,
    inner: usize,
    heads: usize,
    vocabulary: usize,
    context_tokens: usize,
    epsilon: f32,
    layout: Layout,
    /// Cosine and sine, for every position and pair.
    rotations: Vec<(f32, f32)>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    /// The embedding table, where it is not the output matrix too.
    embedding: Option<Linear>,
    output: Linear,
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

/// Several matrices over the same input as one.
fn fused(
    mut gguf: &Gguf<'_>,
    parts: &[(String, usize)],
    inputs: usize,
) -> Result<Linear, LoadError> {
    let mut rows: Option<Rows> = None;
    let mut outputs = 0;
    for (name, count) in parts {
        let more = gguf.rows(name, *count, inputs)?;
        outputs += count;
        match &mut rows {
            None => rows = Some(more),
            Some(rows) => rows.append(more),
        }
    }
    rows.and_then(|rows| Linear::new(inputs, outputs, &rows, &[]))
        .ok_or_else(|| bad("its matrices have sizes that cannot be packed"))
}

impl Model {
    /// Builds the model; the file is not needed afterwards.
    pub fn parse(mut gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        let architecture = gguf.text("general.architecture")?.unwrap_or_default();
        if architecture != "llama" {
            return Err(bad(format!(
                "architecture {architecture:?} is not supported, llama is"
            )));
        }
        let size = |key: &str, max| gguf.size(&format!("llama.{key}"), max);
        let hidden = size("embedding_length", DIMENSION_MAX)?;
        let heads = size("attention.head_count", DIMENSION_MAX)?;
        let kv_heads = size("attention.head_count_kv", DIMENSION_MAX)?;
        let width = hidden / heads;
        let layout = Layout {
            layers: size("block_count", DIMENSION_MAX)?,
            heads: kv_heads,
            width,
        };
        let rotated = size("rope.dimension_count", DIMENSION_MAX).unwrap_or(width);
        if !(hidden.is_multiple_of(heads)
            && heads.is_multiple_of(kv_heads)
            && width.is_multiple_of(4))
            || rotated != width
        {
            return Err(bad("its heads make no model that is supported"));
        }
        let vocabulary = gguf.length("tokenizer.ggml.tokens").unwrap_or(0);
        if vocabulary == 0 || vocabulary > VOCABULARY_MAX {
            return Err(bad("its vocabulary is empty or too large"));
        }
        let context_tokens = size("context_length", CONTEXT_TOKENS_MAX)?;
        let inner = size("feed_forward_length", DIMENSION_MAX)?;
        let base = gguf.float("llama.rope.freq_base")?.unwrap_or(10_000.0);
        let epsilon = gguf
            .float("llama.attention.layer_norm_rms_epsilon")?
            .unwrap_or(1e-5);
        let layer = |nth| Layer::parse(gguf, nth, hidden, inner, layout.width * layout.heads);
        let layers = (0..layout.layers).map(layer).collect::<Result<_, _>>()?;
        let table = || fused(gguf, &[("token_embd.weight".into(), vocabulary)], hidden);
        let (embedding, output) = if gguf.has("output.weight") {
            (
                Some(table()?),
                fused(gguf, &[("output.weight".into(), vocabulary)], hidden)?,
            )
        } else {
            (None, table()?)
        };
        Ok(Model {
            rotations: rotations(context_tokens, width, base),
            norm: gguf.vector("output_norm.weight", hidden)?,
            hidden,
            inner,
            heads,
            vocabulary,
            context_tokens,
            epsilon,
            layout,
            layers,
            embedding,
            output,
        })
    }

    /// Tokens that a sequence can have.
    pub fn context_tokens(&self) -> usize {
        self.context_tokens
    }

    /// Tokens that there are.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// How keys and values lie in a block.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Computes `rows` (of one sequence in order, without gaps) and returns the logits after those of
    /// them that `wanted` names, one behind the other. Every row's place lies in its table.
    pub fn forward<'s>(
        &self,
        rows: &[Row],
        wanted: &[usize],
        tables: &[&[u32]],
        kv: &mut Kv,
        scratch: &'s mut Scratch,
    ) -> &'s mut [f32] {
        let (count, hidden) = (rows.len(), self.hidden);
        let x = scratch.rows.take(count * hidden);
        let table = self.embedding.as_ref().unwrap_or(&self.output);
        for (row, x) in rows.iter().zip(x.chunks_exact_mut(hidden)) {
            table.weights_of((row.token as usize).min(self.vocabulary - 1), x);
        }
        let queries: Vec<Query<'_>> = rows
            .iter()
            .map(|row| Query {
                blocks: tables[row.table],
                position: row.position,
            })
            .collect();
        let normed = scratch.normed.take(count * hidden);
        let mixed = scratch.mixed.take(count * hidden);
        let change = scratch.change.take(count * hidden);
        let gate_up = scratch.gate_up.take(count * 2 * self.inner);
        let inner = scratch.inner.take(count * self.inner);
        for (nth, layer) in self.layers.iter().enumerate() {
            let qkv = scratch.qkv.take(count * layer.qkv.outputs());
            self.normalise(x, &layer.attention_norm, normed);
            layer.qkv.forward(normed, qkv, |_| ());
            self.rotate(qkv, rows);
            self.store(qkv, &queries, nth, kv.floats_mut());
            attend(
                qkv,
                layer.qkv.outputs(),
                &queries,
                kv.floats(),
                &Attention::new(self.layout, nth),
                mixed,
            );
            layer.attended.forward(mixed, change, |_| ());
            add(x, change);
            self.normalise(x, &layer.feed_norm, normed);
            layer.gate_up.forward(normed, gate_up, |_| ());
            let width = self.inner;
            gate_up
                .par_chunks(2 * width)
                .zip(inner.par_chunks_mut(width))
                .with_min_len(4)
                .for_each(|(gate_up, inner)| swiglu(gate_up, inner));
            layer.down.forward(inner, change, |_| ());
            add(x, change);
        }
        for (to, from) in wanted.iter().enumerate() {
            let (row, out) = (
                &x[from * hidden..][..hidden],
                &mut normed[to * hidden..][..hidden],
            );
            rms_norm(row, &self.norm, self.epsilon, out);
        }
        let logits = scratch.logits.take(wanted.len() * self.vocabulary);
        if !wanted.is_empty() {
            self.output
                .forward(&normed[..wanted.len() * hidden], logits, |_| ());
        }
        logits
    }

    fn normalise(&self, x: &[f32], weight: &[f32], out: &mut [f32]) {
        for (x, out) in x
            .chunks_exact(self.hidden)
            .zip(out.chunks_exact_mut(self.hidden))
        {
            rms_norm(x, weight, self.epsilon, out);
        }
    }

    /// Turns queries and keys by their position; pairs are neighbours, as GGUF has them.
    fn rotate(&self, qkv: &mut [f32], rows: &[Row]) {
        let width = self.layout.width;
        let turned = (self.heads + self.layout.heads) * width;
        let stride = qkv.len() / rows.len().max(1);
        for (row, qkv) in rows.iter().zip(qkv.chunks_exact_mut(stride)) {
            let turns = &self.rotations[row.position * width / 2..][..width / 2];
            for head in qkv[..turned].chunks_exact_mut(width) {
                for ([a, b], (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(turns) {
                    (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                }
            }
        }
    }

    /// Puts the rows' keys and values into their blocks.
    fn store(&self, qkv: &[f32], queries: &[Query<'_>], layer: usize, kv: &mut [f32]) {
        let Layout { heads, width, .. } = self.layout;
        let part = self.layout.part();
        let stride = qkv.len() / queries.len().max(1);
        for (query, qkv) in queries.iter().zip(qkv.chunks_exact(stride)) {
            let block = query.blocks[query.position / BLOCK_TOKENS] as usize;
            let slot = query.position % BLOCK_TOKENS;
            let (keys, values) = qkv[self.heads * width..].split_at(heads * width);
            for head in 0..heads {
                let start = self.layout.keys(block, layer, head);
                let (to_keys, to_values) = kv[start..start + 2 * part].split_at_mut(part);
                let of = head * width..(head + 1) * width;
                for (k, to) in keys[of.clone()]
                    .iter()
                    .zip(to_keys.chunks_exact_mut(BLOCK_TOKENS))
                {
                    to[slot] = *k;
                }
                to_values[slot * width..][..width].copy_from_slice(&values[of]);
            }
        }
    }
}

impl Layer {
    fn parse(
        mut gguf: &Gguf<'_>,
        nth: usize,
        hidden: usize,
        inner: usize,
        kv: usize,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("blk.{nth}.{part}.weight");
        let qkv = [
            (name("attn_q"), hidden),
            (name("attn_k"), kv),
            (name("attn_v"), kv),
        ];
        let gate_up = [(name("ffn_gate"), inner), (name("ffn_up"), inner)];
        Ok(Layer {
            attention_norm: gguf.vector(&name("attn_norm"), hidden)?,
            qkv: fused(gguf, &qkv, hidden)?,
            attended: fused(gguf, &[(name("attn_output"), hidden)], hidden)?,
            feed_norm: gguf.vector(&name("ffn_norm"), hidden)?,
            gate_up: fused(gguf, &gate_up, hidden)?,
            down: fused(gguf, &[(name("ffn_down"), hidden)], inner)?,
        })
    }
}

fn add(x: &mut [f32], change: &[f32]) {
    for (x, change) in x.iter_mut().zip(change) {
        *x += change;
    }
}

fn rotations(context_tokens: usize, width: usize, base: f32) -> Vec<(f32, f32)> {
    let pairs = width / 2;
    let frequency = |pair: usize| f64::from(base).powf(-2.0 * pair as f64 / width as f64);
    let frequencies: Vec<f64> = (0..pairs).map(frequency).collect();
    let angle = |at: usize| (at / pairs) as f64 * frequencies[at % pairs];
    (0..context_tokens * pairs)
        .map(|at| (angle(at).cos() as f32, angle(at).sin() as f32))
        .collect()
}
