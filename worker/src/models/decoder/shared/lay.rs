//! Laying a checkpoint's weights out in memory of a device, as a worker computes with them there.

use super::super::Config;
use super::super::model::{Model, Source};
use super::super::names::{Name, Names};
use super::super::ops::Weights;
use super::table::{Table, Values};
use crate::models::LoadError;
use crate::models::source::{Kind, Raw, Safetensors, Tensors};
use bulkhead_kernels::digest::Key;
use bulkhead_kernels::gpu::as_bytes;
use std::os::fd::OwnedFd;

/// A device that lends its memory to other processes.
pub trait Lender: Send {
    /// Takes at least so many bytes, once, before anything else is done.
    fn take(&mut self, bytes: usize) -> Result<(), LoadError>;
    /// Writes at an offset.
    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), LoadError>;
    /// How much was taken, bytes, and a descriptor that stands for it. From now on this process only reads it.
    fn lend(&mut self) -> Result<(u64, OwnedFd), LoadError>;
    /// The digest of each piece of it as it is now.
    fn digests(&mut self, key: &Key) -> Result<Vec<u64>, LoadError>;
}

/// Lays out what a Hugging Face folder's config.json and safetensors hold. Bfloat16 matrices stay what they are, and
/// all else becomes f32, as in a worker that loads for itself.
pub fn lay_out(
    config: &[u8],
    mut tensors: Safetensors,
    lender: &mut dyn Lender,
) -> Result<Table, LoadError> {
    let mut planned = Planned {
        tensors: &tensors,
        table: Table::default(),
    };
    Model::of(Config::from_json(config)?, Names::HuggingFace, &mut planned)?;
    let table = planned.table;
    lender.take(table.bytes())?;
    for (name, weight) in table.weights() {
        let raw = tensors.raw(name, &weight.shape)?;
        match weight.kind {
            Values::F32 => lender.write(weight.offset, as_bytes(&raw.floats()?))?,
            Values::Bf16 => lender.write(weight.offset, finite(&raw)?.bytes)?,
        }
    }
    Ok(table)
}

/// A weight of 16 bits whose values are all finite.
fn finite<'a, 'r>(raw: &'r Raw<'a>) -> Result<&'r Raw<'a>, LoadError> {
    raw.rows(1).map(|_| raw)
}

/// Weights that only have places yet.
struct Places;

impl Weights for Places {
    type Vector = ();
    type Part = ();
    type Matrix = ();

    fn vector(&self, _values: Vec<f32>) -> Result<(), LoadError> {
        Ok(())
    }

    fn part(&self, _raw: &Raw<'_>, _outputs: usize, _inputs: usize) -> Result<(), LoadError> {
        Ok(())
    }

    fn matrix(&self, _parts: Vec<()>, _inputs: usize, _bias: Vec<f32>) -> Result<(), LoadError> {
        Ok(())
    }

    fn bytes(_matrix: &()) -> u64 {
        0
    }
}

/// Gives each weight that a model asks for its place.
struct Planned<'a> {
    tensors: &'a Safetensors,
    table: Table,
}

impl Source<Places> for Planned<'_> {
    fn vector(&mut self, name: Name, length: usize) -> Result<(), LoadError> {
        let name = format!("{name}.weight");
        self.table.push(name, Values::F32, &[length])
    }

    fn matrix(
        &mut self,
        parts: &[(Name, usize)],
        inputs: usize,
        has_bias: bool,
    ) -> Result<(), LoadError> {
        for (name, outputs) in parts {
            let weight = format!("{name}.weight");
            let kind = match self.tensors.kind(&weight) {
                Some(Kind::Bf16) => Values::Bf16,
                _ => Values::F32,
            };
            self.table.push(weight, kind, &[*outputs, inputs])?;
            if has_bias {
                let bias = format!("{name}.bias");
                self.table.push(bias, Values::F32, &[*outputs])?;
            }
        }
        Ok(())
    }
}
