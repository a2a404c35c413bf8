//! The encoder's tensors by their names in a checkpoint, each of the shape that config.json implies.
//!
//! Checkpoints put them under no prefix, or under the name of the model inside a larger one; old ones
//! call a norm's weight and bias gamma and beta. Weights of 16 bits stay 16 bits wide.

use super::config::Config;
use crate::models::source::{Safetensors, Tensors};
use crate::models::{LoadError, ModelFiles};
use bulkhead_kernels::compute::simd::add_layer_norm;
use bulkhead_kernels::compute::{Linear, Rows};
use rayon::prelude::*;

/// The weights' name in the model's folder, for errors that are about no single file.
const FILE: &str = "model.safetensors";
/// What may stand before every name.
const PREFIXES: [&str; 4] = ["", "bert.", "roberta.", "model."];
/// The table that every encoder has, by which the prefix is found.
const WORDS: &str = "embeddings.word_embeddings.weight";
/// Rows of a norm that one task computes.
const NORM_ROWS: usize = 16;

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

/// A layer norm's weights.
#[derive(Debug)]
pub struct Norm {
    weight: Vec<f32>,
    bias: Vec<f32>,
    epsilon: f32,
}

impl Norm {
    /// One row: `norm(row + add)`.
    pub fn add(&self, row: &mut [f32], add: &[f32]) {
        add_layer_norm(row, add, &self.weight, &self.bias, self.epsilon);
    }

    /// Every row.
    pub fn add_all(&self, rows: &mut [f32], add: &[f32]) {
        let width = self.weight.len();
        rows.par_chunks_mut(width)
            .zip(add.par_chunks(width))
            .with_min_len(NORM_ROWS)
            .for_each(|(row, add)| self.add(row, add));
    }
}

/// One layer's weights.
#[derive(Debug)]
pub struct Layer {
    /// Queries, keys and values side by side.
    pub qkv: Linear,
    /// After attention.
    pub attended: Linear,
    /// After that and the residual.
    pub attended_norm: Norm,
    /// To the intermediate width.
    pub up: Linear,
    /// Back from it.
    pub down: Linear,
    /// After that and the residual.
    pub down_norm: Norm,
}

/// What goes into the first layer.
#[derive(Debug)]
pub struct Embeddings {
    /// A row for each word.
    pub words: Rows,
    /// A row for each position, with the first token type's added to it.
    pub positions: Vec<f32>,
    /// After the two were added.
    pub norm: Norm,
}

/// Reads tensors by name and shape.
pub struct Reader<'a> {
    tensors: Safetensors,
    prefix: &'static str,
    config: &'a Config,
}

impl<'a> Reader<'a> {
    /// Over the weights among a model's files.
    pub(crate) fn open(files: &mut ModelFiles, config: &'a Config) -> Result<Self, LoadError> {
        let tensors = Safetensors::open(files)?;
        let has = |prefix: &&&str| tensors.has(&format!("{prefix}{WORDS}"));
        let prefix = PREFIXES
            .iter()
            .find(has)
            .ok_or_else(|| bad(format!("it has no tensor {WORDS}")))?;
        Ok(Reader {
            tensors,
            prefix,
            config,
        })
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.has(&format!("{}{name}", self.prefix))
    }

    fn floats(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        self.tensors
            .floats(&format!("{}{name}", self.prefix), shape)
    }

    fn rows(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Rows, LoadError> {
        self.tensors
            .rows(&format!("{}{name}", self.prefix), outputs, inputs)
    }

    fn norm(&mut self, name: &str, width: usize) -> Result<Norm, LoadError> {
        let old = self.has(&format!("{name}.gamma"));
        let (weight, bias) = if old {
            ("gamma", "beta")
        } else {
            ("weight", "bias")
        };
        Ok(Norm {
            weight: self.floats(&format!("{name}.{weight}"), &[width])?,
            bias: self.floats(&format!("{name}.{bias}"), &[width])?,
            epsilon: self.config.epsilon,
        })
    }

    /// Several dense layers over the same input as one.
    fn dense(
        &mut self,
        names: &[&str],
        inputs: usize,
        outputs: usize,
    ) -> Result<Linear, LoadError> {
        let mut weights: Option<Rows> = None;
        let mut biases = Vec::new();
        for name in names {
            let rows = self.rows(&format!("{name}.weight"), outputs, inputs)?;
            match &mut weights {
                Some(all) => all.append(rows),
                None => weights = Some(rows),
            }
            biases.extend(self.floats(&format!("{name}.bias"), &[outputs])?);
        }
        weights
            .and_then(|weights| Linear::new(inputs, outputs * names.len(), &weights, &biases))
            .ok_or_else(|| bad("its sizes disagree"))
    }

    /// The tables in front of the layers.
    pub fn embeddings(&mut self) -> Result<Embeddings, LoadError> {
        let config = self.config;
        let hidden = config.hidden;
        let mut positions = self.floats(
            "embeddings.position_embeddings.weight",
            &[config.positions, hidden],
        )?;
        let types = self.floats(
            "embeddings.token_type_embeddings.weight",
            &[config.types, hidden],
        )?;
        for row in positions.chunks_exact_mut(hidden) {
            for (x, t) in row.iter_mut().zip(&types) {
                *x += t;
            }
        }
        Ok(Embeddings {
            words: self.rows(WORDS, config.vocabulary, hidden)?,
            positions,
            norm: self.norm("embeddings.LayerNorm", hidden)?,
        })
    }

    /// The layer of that number.
    pub fn layer(&mut self, nth: usize) -> Result<Layer, LoadError> {
        let (hidden, inner) = (self.config.hidden, self.config.intermediate);
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
