//! Weights as candle's tensors.

use crate::models::LoadError;
use crate::models::decoder::ops::Weights;
use crate::models::source::{Kind, Raw};
use candle_core::quantized::{QMatMul, QStorage, QTensor};
use candle_core::{D, DType, Device, Module, Result, Tensor};
use std::borrow::Cow;

/// Puts weights on a device.
pub(in crate::models::decoder) struct OnDevice(pub(in crate::models::decoder) Device);

/// One matrix of a file.
pub(in crate::models::decoder) enum Part {
    /// One row for each output.
    Plain(Tensor),
    /// In the file's own blocks.
    Blocks(QMatMul),
}

/// Matrices over the same input, and biases.
pub(in crate::models::decoder) struct Matrix {
    parts: Vec<Part>,
    bias: Option<Tensor>,
    bytes: u64,
}

impl Part {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        match self {
            Part::Plain(weight) => {
                let x = x.to_dtype(weight.dtype())?;
                x.matmul(&weight.t()?)?.to_dtype(DType::F32)
            }
            Part::Blocks(weight) => weight.forward(x),
        }
    }

    fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        match self {
            Part::Plain(weight) => weight.index_select(ids, 0)?.to_dtype(DType::F32),
            Part::Blocks(weight) => weight.embedding(ids),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Part::Plain(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Part::Blocks(QMatMul::QTensor(weight)) => weight.storage_size_in_bytes(),
            Part::Blocks(QMatMul::Tensor(weight) | QMatMul::TensorF16(weight)) => {
                weight.elem_count() * weight.dtype().size_in_bytes()
            }
        }
    }
}

impl Matrix {
    /// Of parts that are on their device.
    pub(in crate::models::decoder) fn of(parts: Vec<Part>, bias: Option<Tensor>) -> Self {
        let of_bias = |bias: &Tensor| bias.elem_count() * bias.dtype().size_in_bytes();
        let bytes = parts.iter().map(Part::bytes).sum::<usize>() + bias.as_ref().map_or(0, of_bias);
        Matrix {
            parts,
            bias,
            bytes: bytes as u64,
        }
    }

    /// `x · weightsᵀ + bias`.
    pub(in crate::models::decoder) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let parts = self.parts.iter().map(|part| part.forward(x));
        let parts = parts.collect::<Result<Vec<_>>>()?;
        let all = Tensor::cat(&parts, D::Minus1)?;
        match &self.bias {
            Some(bias) => all.broadcast_add(bias),
            None => Ok(all),
        }
    }

    /// The rows of an embedding table.
    pub(in crate::models::decoder) fn rows(&self, ids: &Tensor) -> Result<Tensor> {
        let parts = self.parts.iter().map(|part| part.rows(ids));
        Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 0)
    }
}

fn bad(error: candle_core::Error) -> LoadError {
    LoadError::bad("the model", error)
}

impl Weights for OnDevice {
    type Vector = Tensor;
    type Part = Part;
    type Matrix = Matrix;

    fn vector(&self, values: Vec<f32>) -> std::result::Result<Tensor, LoadError> {
        let length = values.len();
        Tensor::from_vec(values, length, &self.0).map_err(bad)
    }

    /// Blocks stay as they are, and so do bfloat16 weights where the device multiplies such; all others
    /// become f32.
    fn part(
        &self,
        raw: &Raw<'_>,
        outputs: usize,
        inputs: usize,
    ) -> std::result::Result<Part, LoadError> {
        let shape = (outputs, inputs);
        let fail = |error| raw.bad(error);
        match raw.kind {
            Kind::Blocks(dtype) if inputs.is_multiple_of(dtype.block_size()) => {
                // A copy, since the file may have the blocks at any address and candle wants them aligned.
                let bytes = Cow::Owned(raw.bytes.to_vec());
                let storage = QStorage::from_data(bytes, &self.0, dtype).map_err(fail)?;
                let tensor = QTensor::new(storage, shape).map_err(fail)?;
                QMatMul::from_qtensor(tensor)
                    .map(Part::Blocks)
                    .map_err(fail)
            }
            kind => {
                let plain = Tensor::from_vec(raw.floats()?, shape, &Device::Cpu).map_err(fail)?;
                let dtype = match kind == Kind::Bf16 && !self.0.is_cpu() {
                    true => DType::BF16,
                    false => DType::F32,
                };
                // On the host, so that the device never holds it in f32.
                let plain = plain.to_dtype(dtype).map_err(fail)?;
                plain.to_device(&self.0).map(Part::Plain).map_err(fail)
            }
        }
    }

    fn matrix(
        &self,
        parts: Vec<Part>,
        _inputs: usize,
        bias: Vec<f32>,
    ) -> std::result::Result<Matrix, LoadError> {
        let bias = match bias.is_empty() {
            true => None,
            false => Some(self.vector(bias)?),
        };
        Ok(Matrix::of(parts, bias))
    }

    fn bytes(matrix: &Matrix) -> u64 {
        matrix.bytes
    }
}
