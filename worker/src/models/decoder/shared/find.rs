//! A model's weights on memory that another process laid out.

use super::super::candle::weights::{Matrix, OnDevice, Part};
use super::super::model::Source;
use super::super::names::Name;
use super::table::{Table, Values, Weight};
use crate::models::LoadError;
use candle_core::Tensor;
use std::collections::BTreeMap;

/// Memory in which weights lie.
pub trait Mapped {
    /// The weight that lies there, as a tensor. A table that was checked against this memory says so.
    fn tensor(&self, weight: &Weight) -> candle_core::Result<Tensor>;
}

/// Finds weights by a table.
pub struct FromTable<M> {
    weights: BTreeMap<String, Weight>,
    memory: M,
}

impl<M: Mapped> FromTable<M> {
    /// Those of this table, in this memory.
    pub fn new(table: &Table, memory: M) -> Self {
        let weights = table
            .weights()
            .map(|(name, weight)| (name.to_owned(), weight.clone()));
        FromTable {
            weights: weights.collect(),
            memory,
        }
    }

    /// One of this shape, of whichever kind.
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<(Values, Tensor), LoadError> {
        let bad = |cause: String| LoadError::bad("the table of shared weights", cause);
        let weight = self.weights.get(name);
        let weight = weight.ok_or_else(|| bad(format!("it has no {name}")))?;
        if weight.shape != shape {
            let is = &weight.shape;
            return Err(bad(format!("{name} is {is:?}, and {shape:?} is needed")));
        }
        let tensor = self.memory.tensor(weight);
        let tensor = tensor.map_err(|error| bad(format!("{name}: {error}")))?;
        Ok((weight.kind, tensor))
    }

    fn floats(&self, name: &str, length: usize) -> Result<Tensor, LoadError> {
        match self.tensor(name, &[length])? {
            (Values::F32, tensor) => Ok(tensor),
            (Values::Bf16, _) => Err(LoadError::bad(
                "the table of shared weights",
                format!("{name} is not f32"),
            )),
        }
    }
}

impl<M: Mapped> Source<OnDevice> for FromTable<M> {
    fn vector(&mut self, name: Name, length: usize) -> Result<Tensor, LoadError> {
        self.floats(&format!("{name}.weight"), length)
    }

    fn matrix(
        &mut self,
        parts: &[(Name, usize)],
        inputs: usize,
        has_bias: bool,
    ) -> Result<Matrix, LoadError> {
        let (mut found, mut bias) = (Vec::with_capacity(parts.len()), Vec::new());
        for (name, outputs) in parts {
            let (_, weight) = self.tensor(&format!("{name}.weight"), &[*outputs, inputs])?;
            found.push(Part::Plain(weight));
            if has_bias {
                bias.push(self.floats(&format!("{name}.bias"), *outputs)?);
            }
        }
        // Small, and this worker's own.
        let bias = match bias.is_empty() {
            true => None,
            false => {
                Some(Tensor::cat(&bias, 0).map_err(|error| LoadError::bad("the model", error))?)
            }
        };
        Ok(Matrix::of(found, bias))
    }
}
