//! The encoder's weights and its forward pass, one layer at a time.

use crate::engine::Scrubbed;
use crate::models::LoadError;
use crate::models::scratch::{Buffer, sum};
use bulkhead_kernels::compute::ragged::attend;
use bulkhead_kernels::compute::simd::{add_layer_norm, gelu};
use bulkhead_kernels::compute::{Linear, Rows};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use std::ops::Range;

const WEIGHTS: &str = "model.safetensors";
const CONFIG: &str = "config.json";
/// Bounds on what a configuration may claim, so that no product of them overflows.
const DIMENSION_MAX: usize = 1 << 16;

/// What config.json says.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_hidden_layers: usize,
    pub max_position_embeddings: usize,
    pub vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    model_type: String,
}

impl Config {
    /// Parses and checks config.json.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let config: Config =
            serde_json::from_slice(bytes).map_err(|error| LoadError::bad(CONFIG, error))?;
        let sizes = [
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.num_hidden_layers,
            config.max_position_embeddings,
        ];
        let sound = sizes.iter().all(|size| (1..=DIMENSION_MAX).contains(size))
            && config
                .hidden_size
                .is_multiple_of(config.num_attention_heads);
        if !sound {
            return Err(LoadError::bad(CONFIG, "its sizes make no model"));
        }
        if config.model_type != "bert" || config.hidden_act != "gelu" {
            let kind = format!("{} with {}", config.model_type, config.hidden_act);
            return Err(LoadError::bad(
                CONFIG,
                format!("{kind} is not supported, bert with gelu is"),
            ));
        }
        Ok(config)
    }
}

#[derive(Debug)]
struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
}

impl Norm {
    /// Every row: `norm(row + add)`.
    fn add(&self, rows: &mut [f32], add: &[f32], epsilon: f32) {
        let width = self.weight.len();
        rows.par_chunks_mut(width)
            .zip(add.par_chunks(width))
            .with_min_len(16)
            .for_each(|(row, add)| add_layer_norm(row, add, &self.weight, &self.bias, epsilon));
    }
}

#[derive(Debug)]
struct Layer {
    qkv: Linear,
    attended: Linear,
    attended_norm: Norm,
    up: Linear,
    down: Linear,
    down_norm: Norm,
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

/// A loaded encoder.
#[derive(Debug)]
pub struct Model {
    config: Config,
    words: Vec<f32>,
    /// Position and (only) token type together, which are added alike.
    positions: Vec<f32>,
    norm: Norm,
    layers: Vec<Layer>,
}

/// Reads tensors by name and shape.
struct Reader<'a>(SafeTensors<'a>);

impl Reader<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        // Some checkpoints put everything under "bert.".
        let tensor = self
            .0
            .tensor(name)
            .or_else(|_| self.0.tensor(&format!("bert.{name}")));
        let tensor = tensor.map_err(|error| LoadError::bad(WEIGHTS, format!("{name}: {error}")))?;
        if tensor.dtype() != Dtype::F32 || tensor.shape() != shape {
            let (dtype, got) = (tensor.dtype(), tensor.shape());
            let cause = format!("{name} is {dtype:?} {got:?}, and F32 {shape:?} is needed");
            return Err(LoadError::bad(WEIGHTS, cause));
        }
        let (words, _) = tensor.data().as_chunks::<4>();
        Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm, LoadError> {
        Ok(Norm {
            weight: self.tensor(&format!("{name}.weight"), &[width])?,
            bias: self.tensor(&format!("{name}.bias"), &[width])?,
        })
    }

    /// Several dense layers over the same input as one.
    fn dense(&self, names: &[&str], inputs: usize, outputs: usize) -> Result<Linear, LoadError> {
        let (mut weights, mut biases) = (Vec::new(), Vec::new());
        for name in names {
            weights.extend(self.tensor(&format!("{name}.weight"), &[outputs, inputs])?);
            biases.extend(self.tensor(&format!("{name}.bias"), &[outputs])?);
        }
        Linear::new(inputs, outputs * names.len(), &Rows::F32(weights), &biases)
            .ok_or_else(|| LoadError::bad(WEIGHTS, "its sizes disagree"))
    }

    fn layer(&self, nth: usize, config: &Config) -> Result<Layer, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("encoder.layer.{nth}.{part}");
        let [q, k, v] =
            ["query", "key", "value"].map(|part| name(&format!("attention.self.{part}")));
        Ok(Layer {
            qkv: self.dense(&[&q, &k, &v], hidden, hidden)?,
            attended: self.dense(&[&name("attention.output.dense")], hidden, hidden)?,
            attended_norm: self.norm(&name("attention.output.LayerNorm"), hidden)?,
            up: self.dense(&[&name("intermediate.dense")], hidden, inner)?,
            down: self.dense(&[&name("output.dense")], inner, hidden)?,
            down_norm: self.norm(&name("output.LayerNorm"), hidden)?,
        })
    }
}

impl Model {
    /// Builds the model from the bytes of model.safetensors, which are not needed afterwards.
    pub fn parse(config: Config, weights: &[u8]) -> Result<Self, LoadError> {
        let tensors =
            SafeTensors::deserialize(weights).map_err(|error| LoadError::bad(WEIGHTS, error))?;
        let reader = Reader(tensors);
        let hidden = config.hidden_size;
        let position_shape = [config.max_position_embeddings, hidden];
        let mut positions =
            reader.tensor("embeddings.position_embeddings.weight", &position_shape)?;
        let types = reader.tensor("embeddings.token_type_embeddings.weight", &[2, hidden])?;
        for row in positions.chunks_exact_mut(hidden) {
            for (x, t) in row.iter_mut().zip(&types) {
                *x += t;
            }
        }
        let layers = (0..config.num_hidden_layers).map(|nth| reader.layer(nth, &config));
        Ok(Model {
            words: reader.tensor(
                "embeddings.word_embeddings.weight",
                &[config.vocab_size, hidden],
            )?,
            positions,
            norm: reader.norm("embeddings.LayerNorm", hidden)?,
            layers: layers.collect::<Result<_, _>>()?,
            config,
        })
    }

    /// Width of a vector.
    pub fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    /// Layers of the encoder.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The rows that go into the first layer, for one text behind the other. The ids come from the
    /// tokenizer; one beyond the vocabulary reads as the first word.
    pub fn embed(&self, texts: &[Vec<u32>]) -> Vec<f32> {
        let hidden = self.hidden();
        let tokens: usize = texts.iter().map(Vec::len).sum();
        let mut rows = Vec::with_capacity(tokens * hidden);
        let mut positions = Vec::with_capacity(tokens * hidden);
        for text in texts {
            for (id, position) in text.iter().zip(self.positions.chunks_exact(hidden)) {
                let id = if (*id as usize) < self.config.vocab_size {
                    *id as usize
                } else {
                    0
                };
                rows.extend_from_slice(&self.words[id * hidden..][..hidden]);
                positions.extend_from_slice(position);
            }
        }
        self.norm
            .add(&mut rows, &positions, self.config.layer_norm_eps);
        rows
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
        let (hidden, epsilon) = (self.hidden(), self.config.layer_norm_eps);
        let tokens = rows.len() / hidden;
        let qkv = scratch.qkv.take(tokens * 3 * hidden);
        let mixed = scratch.mixed.take(tokens * hidden);
        let change = scratch.change.take(tokens * hidden);
        let inner = scratch.inner.take(tokens * layer.up.outputs());
        layer.qkv.forward(rows, qkv, |_| ());
        attend(qkv, texts, hidden, self.config.num_attention_heads, mixed);
        layer.attended.forward(mixed, change, |_| ());
        layer.attended_norm.add(rows, change, epsilon);
        layer.up.forward(rows, inner, gelu);
        layer.down.forward(inner, change, |_| ());
        layer.down_norm.add(rows, change, epsilon);
    }

    /// The mean of a text's rows, brought to unit length.
    pub fn pool(&self, rows: &[f32]) -> Vec<f32> {
        let mut mean = vec![0f32; self.hidden()];
        for row in rows.chunks_exact(mean.len()) {
            for (mean, x) in mean.iter_mut().zip(row) {
                *mean += x;
            }
        }
        // The length of the sum has the mean's direction; dividing by its norm is all that is left.
        let norm = mean.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-12);
        mean.iter_mut().for_each(|x| *x /= norm);
        mean
    }
}
