//! The tiny models as GGUF files: names, metadata, and the Llama family's order of rows.
#![allow(dead_code)] // Each test binary uses its own part.

use super::model::{Case, Tensor};
use candle_core::quantized::gguf_file::{Value, write};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor as CandleTensor};
use std::f64::consts::TAU;
use std::io::Cursor;

/// Keys and values.
pub type Metadata = Vec<(String, Value)>;

const NAMES: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.o_proj", "attn_output"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

impl Case {
    /// One GGUF file, its matrices in `dtype`.
    pub fn gguf(&self, dtype: GgmlDType) -> Vec<u8> {
        self.gguf_with(dtype, self.metadata())
    }

    /// The same with metadata of the caller's.
    pub fn gguf_with(&self, dtype: GgmlDType, metadata: Metadata) -> Vec<u8> {
        self.written(metadata, |matrix| quantised(matrix, dtype))
    }

    /// One GGUF file, its matrices in f32, rounded to what they would be in `dtype`.
    pub fn gguf_rounded(&self, dtype: GgmlDType) -> Vec<u8> {
        self.written(self.metadata(), |matrix| {
            let rounded = quantised(matrix, dtype).dequantize(&Device::Cpu);
            QTensor::quantize(&rounded.expect("it unpacks"), GgmlDType::F32).expect("it is plain")
        })
    }

    fn written(&self, metadata: Metadata, matrix: impl Fn(&Tensor) -> QTensor) -> Vec<u8> {
        let tensors = self.tensors().into_iter().map(|one| self.converted(one));
        let tensors: Vec<_> = tensors.chain(self.rope_factors()).collect();
        let quantise = |tensor: &Tensor| match tensor.shape.len() {
            1 => quantised(tensor, GgmlDType::F32),
            _ => matrix(tensor),
        };
        let packed: Vec<QTensor> = tensors.iter().map(quantise).collect();
        let names = tensors.iter().map(|one| one.name.as_str());
        let named: Vec<_> = names.zip(&packed).collect();
        let metadata: Vec<_> = metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value))
            .collect();
        let mut bytes = Cursor::new(Vec::new());
        write(&mut bytes, &metadata, &named).expect("it writes");
        bytes.into_inner()
    }

    fn converted(&self, mut tensor: Tensor) -> Tensor {
        let turned = ["q_proj", "k_proj"]
            .iter()
            .any(|part| tensor.name.contains(part));
        if turned && matches!(self.family(), "llama" | "mistral") {
            let row = tensor.values.len() / tensor.shape[0];
            tensor.values = neighbours(&tensor.values, row, self.width());
        }
        for (from, to) in NAMES {
            tensor.name = tensor.name.replace(from, to);
        }
        tensor
    }

    /// Llama 3's scaling is a list of factors there.
    fn rope_factors(&self) -> Option<Tensor> {
        let rope = &self.config["rope_parameters"];
        if rope["rope_type"] != "llama3" {
            return None;
        }
        let number = |key: &str| rope[key].as_f64().expect("a number");
        let original = number("original_max_position_embeddings");
        let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
        let pairs = self.width() / 2;
        let factor = |pair: usize| {
            let frequency = number("rope_theta").powf(-(pair as f64) / pairs as f64);
            let kept = ((original * frequency / TAU - low) / (high - low)).clamp(0.0, 1.0);
            (1.0 / (kept + (1.0 - kept) / number("factor"))) as f32
        };
        Some(Tensor {
            name: "rope_freqs.weight".into(),
            shape: vec![pairs],
            values: (0..pairs).map(factor).collect(),
        })
    }

    /// All that the file says beside its tensors.
    pub fn metadata(&self) -> Metadata {
        // Mistral's files say "llama", as their converter has it.
        let architecture = if self.family() == "mistral" {
            "llama"
        } else {
            self.family()
        };
        let mut all = vec![(
            "general.architecture".to_owned(),
            Value::String(architecture.into()),
        )];
        let mut add = |key: &str, value| all.push((format!("{architecture}.{key}"), value));
        for (key, from) in [
            ("block_count", "num_hidden_layers"),
            ("embedding_length", "hidden_size"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("context_length", "max_position_embeddings"),
        ] {
            add(key, Value::U32(self.number(from) as u32));
        }
        add("attention.key_length", Value::U32(self.width() as u32));
        add("attention.value_length", Value::U32(self.width() as u32));
        add("attention.layer_norm_rms_epsilon", Value::F32(1e-5));
        if self.family() == "mistral" {
            add(
                "attention.sliding_window",
                Value::U32(self.number("sliding_window") as u32),
            );
        }
        let base = self.config["rope_theta"].as_f64();
        let base = base.or(self.config["rope_parameters"]["rope_theta"].as_f64());
        add("rope.freq_base", Value::F32(base.expect("a base") as f32));
        let scaling = &self.config["rope_scaling"];
        if let Some(factor) = scaling["factor"].as_f64() {
            let kind = scaling["type"].as_str().or(scaling["rope_type"].as_str());
            add(
                "rope.scaling.type",
                Value::String(kind.expect("a type").into()),
            );
            add("rope.scaling.factor", Value::F32(factor as f32));
            if let Some(original) = scaling["original_max_position_embeddings"].as_u64() {
                add(
                    "rope.scaling.original_context_length",
                    Value::U32(original as u32),
                );
            }
        }
        let tokens = (0..self.number("vocab_size")).map(|nth| Value::String(format!("t{nth}")));
        all.push((
            "tokenizer.ggml.tokens".into(),
            Value::Array(tokens.collect()),
        ));
        all
    }
}

fn quantised(tensor: &Tensor, dtype: GgmlDType) -> QTensor {
    let plain = CandleTensor::from_slice(&tensor.values, tensor.shape.clone(), &Device::Cpu);
    QTensor::quantize(&plain.expect("it fits"), dtype).expect("it quantises")
}

/// Each head's rows so that those of a pair are neighbours, one of either half in turn.
fn neighbours(values: &[f32], row: usize, width: usize) -> Vec<f32> {
    let mut turned = Vec::with_capacity(values.len());
    for head in values.chunks(width * row) {
        let (lower, upper) = head.split_at(head.len() / 2);
        for (a, b) in lower.chunks(row).zip(upper.chunks(row)) {
            turned.extend(a);
            turned.extend(b);
        }
    }
    turned
}
