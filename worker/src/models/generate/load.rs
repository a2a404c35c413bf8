//! From a model's files to what generation is made of: text in and out, and the weights.

#[cfg(feature = "cuda")]
use crate::models::decoder::{Borrowed, CudaDecoder, OpenGpu};
use crate::models::decoder::{Checkpoint, CpuDecoder, CpuModel, Decoder};
use crate::models::source::{GGUF_FILE, Gguf, Safetensors};
use crate::models::text::{Chat, TextCodec};
use crate::models::{Compute, LoadError, ModelFiles, On};

/// Weights on the device that they are computed with on.
pub(super) enum Weights {
    /// On the processor, without a thread yet.
    Processor(Box<CpuModel>),
    /// On a GPU, whose driver has threads of its own: a process with such does not fork.
    #[cfg(feature = "cuda")]
    Gpu(Box<CudaDecoder>),
}

impl Weights {
    fn load(checkpoint: Checkpoint<'_>, on: On) -> Result<Self, LoadError> {
        match on {
            On::Processor => {
                CpuModel::load(checkpoint).map(|model| Weights::Processor(Box::new(model)))
            }
            #[cfg(feature = "cuda")]
            On::Gpu(gpu) => {
                CudaDecoder::load(checkpoint, *gpu).map(|gpu| Weights::Gpu(Box::new(gpu)))
            }
        }
    }

    /// What computes with them.
    pub(super) fn decoder(self, compute: Compute) -> Box<dyn Decoder> {
        match self {
            Weights::Processor(model) => Box::new(CpuDecoder::new(*model, compute)),
            #[cfg(feature = "cuda")]
            Weights::Gpu(decoder) => decoder,
        }
    }
}

/// A model that was read and has no thread yet.
pub(super) struct Loaded {
    pub(super) codec: TextCodec,
    pub(super) chat: Chat,
    pub(super) model: Weights,
}

impl Loaded {
    /// From model.gguf, or else from a Hugging Face folder.
    pub(super) fn read(mut files: ModelFiles, on: On) -> Result<Self, LoadError> {
        match files.has(GGUF_FILE) {
            true => Self::gguf(&files.take(GGUF_FILE)?, on),
            false => Self::folder(&mut files, on),
        }
    }

    fn gguf(bytes: &[u8], on: On) -> Result<Self, LoadError> {
        let gguf = Gguf::parse(bytes)?;
        // Cheap and most telling first: an unknown architecture is named, whatever its tokenizer is.
        let checkpoint = Checkpoint::gguf(&gguf)?;
        let codec = TextCodec::from_gguf(&gguf)?;
        Ok(Loaded {
            chat: Chat::from_gguf(&gguf, &codec)?,
            codec,
            model: Weights::load(checkpoint, on)?,
        })
    }

    /// From config.json, tokenizer.json and safetensors, and what there is of tokenizer_config.json,
    /// chat_template.jinja and generation_config.json.
    fn folder(files: &mut ModelFiles, on: On) -> Result<Self, LoadError> {
        Self::folder_with(files, |config, files| {
            Weights::load(Checkpoint::folder(config, Safetensors::open(files)?)?, on)
        })
    }

    /// The same without safetensors, on a GPU that has the weights already.
    #[cfg(feature = "cuda")]
    pub(super) fn borrowing(
        mut files: ModelFiles,
        gpu: OpenGpu,
        weights: Borrowed,
    ) -> Result<Self, LoadError> {
        Self::folder_with(&mut files, |config, _| {
            let decoder = CudaDecoder::borrowing(config, gpu, weights)?;
            Ok(Weights::Gpu(Box::new(decoder)))
        })
    }

    fn folder_with(
        files: &mut ModelFiles,
        weights: impl FnOnce(&[u8], &mut ModelFiles) -> Result<Weights, LoadError>,
    ) -> Result<Self, LoadError> {
        let config = files.take("config.json")?;
        let mut maybe = |name: &str| files.has(name).then(|| files.take(name)).transpose();
        let tokenizer_config = maybe("tokenizer_config.json")?;
        let template = maybe("chat_template.jinja")?;
        // Whichever names the tokens that end an answer.
        let ends = maybe("generation_config.json")?;
        let ends = ends.as_deref().unwrap_or(&config);
        let tokenizer = files.take("tokenizer.json")?;
        let codec = TextCodec::from_json(&tokenizer, tokenizer_config.as_deref(), Some(ends))?;
        let chat = Chat::from_json(tokenizer_config.as_deref(), template.as_deref(), &codec)?;
        Ok(Loaded {
            codec,
            chat,
            model: weights(&config, files)?,
        })
    }
}
