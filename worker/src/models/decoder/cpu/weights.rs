//! Weights packed for the processor.

use crate::models::LoadError;
use crate::models::decoder::ops::Weights;
use crate::models::source::Raw;
use bulkhead_kernels::compute::{Linear, Rows};

/// Weights packed for the processor.
#[derive(Debug)]
pub(super) struct Packed;

impl Weights for Packed {
    type Vector = Vec<f32>;
    type Part = (Rows, usize);
    type Matrix = Linear;

    fn vector(&self, values: Vec<f32>) -> Result<Vec<f32>, LoadError> {
        Ok(values)
    }

    fn part(&self, raw: &Raw<'_>, outputs: usize, inputs: usize) -> Result<Self::Part, LoadError> {
        Ok((raw.rows(inputs)?, outputs))
    }

    fn matrix(
        &self,
        parts: Vec<Self::Part>,
        inputs: usize,
        bias: Vec<f32>,
    ) -> Result<Linear, LoadError> {
        let outputs = parts.iter().map(|(_, outputs)| outputs).sum();
        let all = parts.into_iter().map(|(rows, _)| rows);
        let all = all.reduce(|mut all, more| {
            all.append(more);
            all
        });
        all.and_then(|rows| Linear::new(inputs, outputs, &rows, &bias))
            .ok_or_else(|| LoadError::bad("the model", "its matrices cannot be packed"))
    }

    fn bytes(matrix: &Linear) -> u64 {
        matrix.bytes() as u64
    }
}
