//! Tiny models of every family, with weights from a seeded generator that reference/decoders.py has too, in
//! every kind of file that can be loaded.
#![allow(dead_code)] // Each test binary uses its own part.

use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::Compute;
use bulkhead_worker::models::LoadError;
use bulkhead_worker::models::decoder::{CandleDecoder, Checkpoint, CpuDecoder, CpuModel, Decoder};
use bulkhead_worker::models::source::Safetensors;
use candle_core::Device;
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde::Deserialize;
use serde_json::Value;

/// A model, and what transformers computed with it.
#[derive(Clone, Deserialize)]
pub struct Case {
    pub name: String,
    /// Bits of a weight: with 7, it is the same number in every format of 16 bits.
    pub bits: u32,
    pub config: Value,
    pub prompts: Vec<Vec<u32>>,
    /// After the last token of each prompt.
    pub logits: Vec<Vec<f32>>,
    /// Greedy continuation of each prompt.
    pub answers: Vec<Vec<u32>>,
}

/// All of them.
pub fn cases() -> Vec<Case> {
    #[derive(Deserialize)]
    struct Reference {
        cases: Vec<Case>,
    }
    let text = include_str!("../../reference/decoders.json");
    let reference: Reference = serde_json::from_str(text).expect("it is the script's");
    reference.cases
}

/// The one of that name.
pub fn case(name: &str) -> Case {
    let mut all = cases().into_iter();
    all.find(|case| case.name == name)
        .expect("it is in the reference")
}

/// SplitMix64 from the FNV-1a hash of the name.
fn words(name: &str) -> impl Iterator<Item = u64> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |state, byte| {
        (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    (1u64..).map(move |nth| {
        let z = seed.wrapping_add(nth.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    })
}

/// A tensor of a model.
#[derive(Clone)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Tensor {
    /// Between -1/2 and 1/2 in steps of 2^-bits; norms around 1; all but the table half as large.
    fn new(name: String, shape: &[usize], bits: u32) -> Self {
        let value = |word: u64| {
            let value = (word >> (64 - bits)) as f32 / (1u64 << bits) as f32 - 0.5;
            match () {
                () if name.contains("norm") => value + 1.0,
                () if name.contains("embed_tokens") => value,
                () => value * 0.5,
            }
        };
        Tensor {
            shape: shape.to_vec(),
            values: words(&name)
                .take(shape.iter().product())
                .map(value)
                .collect(),
            name,
        }
    }
}

impl Case {
    pub fn number(&self, key: &str) -> usize {
        self.config[key].as_u64().expect("a number") as usize
    }

    fn switch(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap_or(false)
    }

    pub fn family(&self) -> &str {
        self.config["model_type"].as_str().expect("a family")
    }

    /// Width of a head.
    pub fn width(&self) -> usize {
        let otherwise = || self.number("hidden_size") / self.number("num_attention_heads");
        self.config["head_dim"]
            .as_u64()
            .map_or_else(otherwise, |width| width as usize)
    }

    /// All tensors, as a checkpoint calls them.
    pub fn tensors(&self) -> Vec<Tensor> {
        let (hidden, inner) = (self.number("hidden_size"), self.number("intermediate_size"));
        let queries = self.number("num_attention_heads") * self.width();
        let keys = self.number("num_key_value_heads") * self.width();
        let vocabulary = self.number("vocab_size");
        let mut all = vec![(
            "model.embed_tokens.weight".to_owned(),
            vec![vocabulary, hidden],
        )];
        for nth in 0..self.number("num_hidden_layers") {
            let mut add = |part: &str, shape: &[usize]| {
                all.push((format!("model.layers.{nth}.{part}"), shape.to_vec()));
            };
            for (part, outputs, inputs) in [
                ("self_attn.q_proj", queries, hidden),
                ("self_attn.k_proj", keys, hidden),
                ("self_attn.v_proj", keys, hidden),
                ("self_attn.o_proj", hidden, queries),
                ("mlp.gate_proj", inner, hidden),
                ("mlp.up_proj", inner, hidden),
                ("mlp.down_proj", hidden, inner),
            ] {
                add(&format!("{part}.weight"), &[outputs, inputs]);
                let biased = match part {
                    "self_attn.o_proj" => self.switch("attention_bias"),
                    _ => self.family() == "qwen2" || self.switch("attention_bias"),
                };
                if biased && part.starts_with("self_attn") {
                    add(&format!("{part}.bias"), &[outputs]);
                }
            }
            add("input_layernorm.weight", &[hidden]);
            add("post_attention_layernorm.weight", &[hidden]);
            if self.family() == "qwen3" {
                add("self_attn.q_norm.weight", &[self.width()]);
                add("self_attn.k_norm.weight", &[self.width()]);
            }
        }
        all.push(("model.norm.weight".into(), vec![hidden]));
        if !self.switch("tie_word_embeddings") {
            all.push(("lm_head.weight".into(), vec![vocabulary, hidden]));
        }
        all.into_iter()
            .map(|(name, shape)| Tensor::new(name, &shape, self.bits))
            .collect()
    }

    /// The config's bytes.
    pub fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    /// One file.
    pub fn single(&self, dtype: Dtype) -> Vec<FileBytes> {
        vec![named("model.safetensors", file(&self.tensors(), dtype))]
    }

    /// Several files and their index.
    pub fn sharded(&self, dtype: Dtype, shards: usize) -> Vec<FileBytes> {
        let tensors = self.tensors();
        let size = tensors.len().div_ceil(shards);
        let mut map = serde_json::Map::new();
        let mut files = Vec::new();
        for (nth, tensors) in tensors.chunks(size).enumerate() {
            let name = format!("model-{:05}-of-{shards:05}.safetensors", nth + 1);
            for tensor in tensors {
                map.insert(tensor.name.clone(), name.clone().into());
            }
            files.push(named(&name, file(tensors, dtype)));
        }
        let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
        files.push(named("model.safetensors.index.json", index.into_bytes()));
        files
    }

    /// Opens a folder of these files.
    pub fn open(&self, files: Vec<FileBytes>) -> Result<Checkpoint<'static>, LoadError> {
        Checkpoint::folder(&self.config_bytes(), Safetensors::read(files)?)
    }
}

/// A file of a model.
pub fn named(name: &str, bytes: Vec<u8>) -> FileBytes {
    FileBytes {
        name: name.into(),
        bytes,
    }
}

/// Values in a format.
fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let each = |value: &f32| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::BF16 => value.to_le_bytes()[2..].to_vec(),
        Dtype::F16 => f16_bits(*value).to_le_bytes().to_vec(),
        other => panic!("no test writes {other:?}"),
    };
    values.iter().flat_map(each).collect()
}

/// Half precision of a number that it can hold, below 2 and no smaller than its least normal one.
pub fn f16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let sign = (bits >> 16 & 0x8000) as u16;
    match value == 0.0 {
        true => sign,
        false => sign | ((bits & 0x7FFF_FFFF) >> 13).wrapping_sub(112 << 10) as u16,
    }
}

/// A file as the format's own crate writes it.
pub fn file(tensors: &[Tensor], dtype: Dtype) -> Vec<u8> {
    let written: Vec<_> = tensors
        .iter()
        .map(|tensor| bytes(&tensor.values, dtype))
        .collect();
    let views = tensors.iter().zip(&written).map(|(tensor, bytes)| {
        let view = TensorView::new(dtype, tensor.shape.clone(), bytes).expect("it fits");
        (tensor.name.as_str(), view)
    });
    serialize(views, None).expect("it writes")
}

/// On this machine's processor, with room for a few sequences.
pub fn on_cpu(checkpoint: Checkpoint<'_>) -> Result<Box<dyn Decoder>, LoadError> {
    let mut decoder = CpuDecoder::new(CpuModel::load(checkpoint)?, Compute::new(2)?);
    assert!(decoder.assign(1 << 20) >= 16);
    Ok(Box::new(decoder))
}

/// By candle's operations, with as much room.
pub fn on_candle(checkpoint: Checkpoint<'_>) -> Result<Box<dyn Decoder>, LoadError> {
    let mut decoder = CandleDecoder::load(checkpoint, Device::Cpu)?;
    assert!(decoder.assign(1 << 20) >= 16);
    Ok(Box::new(decoder))
}
