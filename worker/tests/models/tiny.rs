//! Tiny encoders as the bytes of their files, in memory.
//!
//! Weights come from a generator that exists a second time in `reference/encoder/make.py`, so that no
//! weights are kept and PyTorch computes with the same. Every weight has 8 significant bits: it is the
//! same number in float32, bfloat16 and float16.

use bulkhead_worker::load::FileBytes;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use std::path::PathBuf;

/// As in make.py.
pub const HIDDEN: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const LAYERS: usize = 3;
pub const CONTEXT: usize = 40;

/// What a tiny encoder is.
#[derive(Clone, Debug)]
pub struct Tiny {
    pub model_type: String,
    pub tokenizer: String,
    pub activation: String,
    pub pooling: String,
    pub normalise: bool,
    pub dtype: Dtype,
    /// What stands before the tensors' names.
    pub prefix: &'static str,
}

/// The generator: FNV-1a of the name seeds a splitmix64, each number of which gives 8 bits.
fn numbers(name: &str, count: usize) -> impl Iterator<Item = i16> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    (1..=count as u64).map(move |step| {
        let mut z = step.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(seed);
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        ((z >> 56) % 255) as i16 - 127
    })
}

fn weights(name: &str, count: usize) -> Vec<f32> {
    let norm = name.ends_with("LayerNorm.weight");
    let value = |number: i16| match norm {
        true => 1.0 + f32::from(number / 2) / 128.0,
        false => f32::from(number) / 512.0,
    };
    numbers(name, count).map(value).collect()
}

fn bytes(values: &[f32], dtype: Dtype) -> Vec<u8> {
    let bytes = |value: &f32| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::BF16 => ((value.to_bits() >> 16) as u16).to_le_bytes().to_vec(),
        Dtype::F16 => half(*value).to_le_bytes().to_vec(),
        other => panic!("{other:?} is none of the tests' types"),
    };
    values.iter().flat_map(bytes).collect()
}

/// Half precision of a number that has it exactly: below 2, with 8 significant bits, no smaller than
/// 1/512.
fn half(value: f32) -> u16 {
    let bits = value.to_bits();
    if value == 0.0 {
        return 0;
    }
    let exponent = (bits >> 23 & 0xFF) as u16 + 15 - 127;
    (bits >> 31 << 15) as u16 | exponent << 10 | (bits >> 13 & 0x3FF) as u16
}

impl Tiny {
    /// A BERT with the mean of its rows at unit length, in float32.
    pub fn bert() -> Self {
        Tiny {
            model_type: "bert".into(),
            tokenizer: "wordpiece".into(),
            activation: "gelu".into(),
            pooling: "mean".into(),
            normalise: true,
            dtype: Dtype::F32,
            prefix: "",
        }
    }

    /// An XLM-R, otherwise the same.
    pub fn xlm_roberta() -> Self {
        Tiny {
            model_type: "xlm-roberta".into(),
            tokenizer: "unigram".into(),
            ..Tiny::bert()
        }
    }

    fn is_bert(&self) -> bool {
        self.model_type == "bert"
    }

    pub fn tokenizer_json(&self) -> Vec<u8> {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
            .join("tests/reference/encoder")
            .join(format!("{}.json", self.tokenizer));
        std::fs::read(path).expect("the tokenizer is part of the repository")
    }

    /// As many words as the tokenizer knows.
    fn vocabulary(&self) -> usize {
        let file: Value = serde_json::from_slice(&self.tokenizer_json()).expect("JSON");
        match &file["model"]["vocab"] {
            Value::Array(pieces) => pieces.len(),
            Value::Object(pieces) => pieces.len(),
            other => panic!("{other} is no vocabulary"),
        }
    }

    pub fn config(&self) -> Value {
        let bert = self.is_bert();
        json!({
            "model_type": self.model_type,
            "hidden_size": HIDDEN,
            "num_attention_heads": HEADS,
            "intermediate_size": INNER,
            "num_hidden_layers": LAYERS,
            "hidden_act": self.activation,
            "vocab_size": self.vocabulary(),
            "max_position_embeddings": if bert { CONTEXT } else { CONTEXT + 2 },
            "type_vocab_size": if bert { 2 } else { 1 },
            "pad_token_id": if bert { 0 } else { 1 },
            "layer_norm_eps": if bert { 1e-12 } else { 1e-5 },
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let config = self.config();
        let size = |key: &str| config[key].as_u64().expect("a size") as usize;
        let table =
            |part: &str, rows: usize| (format!("embeddings.{part}.weight"), vec![rows, HIDDEN]);
        let mut tensors = vec![
            table("word_embeddings", size("vocab_size")),
            table("position_embeddings", size("max_position_embeddings")),
            table("token_type_embeddings", size("type_vocab_size")),
        ];
        let norm = |name: String, tensors: &mut Vec<_>| {
            tensors.push((format!("{name}.weight"), vec![HIDDEN]));
            tensors.push((format!("{name}.bias"), vec![HIDDEN]));
        };
        norm("embeddings.LayerNorm".into(), &mut tensors);
        for layer in 0..LAYERS {
            let dense = [
                ("attention.self.query", HIDDEN, HIDDEN),
                ("attention.self.key", HIDDEN, HIDDEN),
                ("attention.self.value", HIDDEN, HIDDEN),
                ("attention.output.dense", HIDDEN, HIDDEN),
                ("intermediate.dense", INNER, HIDDEN),
                ("output.dense", HIDDEN, INNER),
            ];
            let name = |part: &str| format!("encoder.layer.{layer}.{part}");
            for (part, outputs, inputs) in dense {
                tensors.push((name(&format!("{part}.weight")), vec![outputs, inputs]));
                tensors.push((name(&format!("{part}.bias")), vec![outputs]));
            }
            norm(name("attention.output.LayerNorm"), &mut tensors);
            norm(name("output.LayerNorm"), &mut tensors);
        }
        tensors
    }

    pub fn weights(&self) -> Vec<u8> {
        self.file_of(self.tensors())
    }

    /// The same in two files and the index that says which tensor is in which.
    fn shards(&self) -> Vec<(&'static str, Vec<u8>)> {
        let names = ["model-1-of-2.safetensors", "model-2-of-2.safetensors"];
        let mut first = self.tensors();
        let second = first.split_off(first.len() / 2);
        let entries = |tensors: &[(String, Vec<usize>)], file: &'static str| -> Vec<_> {
            let entry = |(name, _): &(String, _)| (format!("{}{name}", self.prefix), json!(file));
            tensors.iter().map(entry).collect()
        };
        let map: serde_json::Map<String, Value> = (entries(&first, names[0]).into_iter())
            .chain(entries(&second, names[1]))
            .collect();
        let index = json!({"weight_map": map}).to_string().into_bytes();
        vec![
            (names[0], self.file_of(first)),
            (names[1], self.file_of(second)),
            ("model.safetensors.index.json", index),
        ]
    }

    fn file_of(&self, tensors: Vec<(String, Vec<usize>)>) -> Vec<u8> {
        let data: Vec<_> = (tensors.into_iter())
            .map(|(name, shape)| {
                let values = weights(&name, shape.iter().product());
                (
                    format!("{}{name}", self.prefix),
                    shape,
                    bytes(&values, self.dtype),
                )
            })
            .collect();
        let views: Vec<(String, TensorView<'_>)> = (data.iter())
            .map(|(name, shape, data)| {
                let view = TensorView::new(self.dtype, shape.clone(), data);
                (name.clone(), view.expect("sizes agree"))
            })
            .collect();
        safetensors::serialize(views, None).expect("it is small")
    }

    pub fn modules(&self) -> Value {
        let module = |kind: &str, path: &str| json!({"type": format!("sentence_transformers.models.{kind}"), "path": path});
        let mut modules = vec![module("Transformer", ""), module("Pooling", "1_Pooling")];
        if self.normalise {
            modules.push(module("Normalize", "2_Normalize"));
        }
        modules.into()
    }

    pub fn pooling(&self) -> Value {
        json!({"word_embedding_dimension": HIDDEN, "pooling_mode": self.pooling})
    }

    /// All files of its folder.
    pub fn files(&self) -> Vec<FileBytes> {
        let json = |value: Value| value.to_string().into_bytes();
        let sentences = json!({"max_seq_length": CONTEXT, "do_lower_case": false});
        let files = [
            ("config.json", json(self.config())),
            ("tokenizer.json", self.tokenizer_json()),
            ("sentence_bert_config.json", json(sentences)),
            ("modules.json", json(self.modules())),
            ("1_Pooling/config.json", json(self.pooling())),
            ("model.safetensors", self.weights()),
        ];
        files.into_iter().map(named).collect()
    }

    /// The same with the weights in two files.
    pub fn files_sharded(&self) -> Vec<FileBytes> {
        let mut files = self.files();
        files.retain(|file| file.name != "model.safetensors");
        files.extend(self.shards().into_iter().map(named));
        files
    }
}

fn named((name, bytes): (&str, Vec<u8>)) -> FileBytes {
    FileBytes {
        name: name.into(),
        bytes,
    }
}
