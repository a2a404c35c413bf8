//! A model's files, read far enough to know what model it is; the weights come next.

use super::Config;
use super::names::Names;
use crate::models::LoadError;
use crate::models::source::{Gguf, Safetensors, Tensors};

/// A decoder's shape and where its weights are.
pub struct Checkpoint<'a> {
    pub(super) config: Config,
    pub(super) names: Names,
    pub(super) tensors: Box<dyn Tensors + 'a>,
}

impl<'a> Checkpoint<'a> {
    /// From a parsed GGUF file.
    pub fn gguf(gguf: &'a Gguf<'a>) -> Result<Self, LoadError> {
        Ok(Checkpoint {
            config: Config::from_gguf(gguf)?,
            names: Names::Gguf,
            tensors: Box::new(gguf),
        })
    }

    /// From a Hugging Face folder's config.json and safetensors.
    pub fn folder(config: &[u8], tensors: Safetensors) -> Result<Self, LoadError> {
        Ok(Checkpoint {
            config: Config::from_json(config)?,
            names: Names::HuggingFace,
            tensors: Box::new(tensors),
        })
    }

    /// Its shape.
    pub fn config(&self) -> &Config {
        &self.config
    }
}
