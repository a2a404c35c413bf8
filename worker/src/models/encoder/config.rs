//! config.json: which encoder it is, and its sizes.
//!
//! BERT and RoBERTa (XLM-R is RoBERTa with another vocabulary) compute the same; they differ in where
//! positions begin. RoBERTa counts from `padding_idx + 1`, so a table of 514 positions reads 512 tokens.
//! Whatever else calls itself an encoder is refused by name: guessing would give wrong vectors silently.

use crate::models::LoadError;
use bulkhead_kernels::compute::simd::Activation;
use serde::Deserialize;

/// Its name in the model's folder.
pub const FILE: &str = "config.json";

/// Bounds on what a configuration may claim, so that no product of two of them overflows.
const DIMENSION_MAX: usize = 1 << 16;
/// Words of a vocabulary at most.
const VOCABULARY_MAX: usize = 1 << 24;
/// RoBERTa's token for padding where the file names none.
const ROBERTA_PADDING: u32 = 1;

/// The families that work, as `model_type` calls them.
pub const FAMILIES: [&str; 3] = ["bert", "roberta", "xlm-roberta"];
/// The activations that work, as `hidden_act` calls them.
const ACTIVATIONS: [(&str, Activation); 7] = [
    ("gelu", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
];

#[derive(Deserialize)]
struct File {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    max_position_embeddings: usize,
    vocab_size: usize,
    type_vocab_size: Option<usize>,
    hidden_act: Option<String>,
    layer_norm_eps: Option<f32>,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
}

/// What an encoder is, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Width of a token's vector.
    pub hidden: usize,
    /// Width between the two inner products of a layer.
    pub intermediate: usize,
    /// Attention heads; they divide `hidden`.
    pub heads: usize,
    /// Layers.
    pub layers: usize,
    /// Rows of the table of positions.
    pub positions: usize,
    /// Rows of the table of token types, of which the first alone is used.
    pub types: usize,
    /// Rows of the table of words.
    pub vocabulary: usize,
    /// What keeps a norm from dividing by zero.
    pub epsilon: f32,
    /// Between the two inner products.
    pub activation: Activation,
    /// In RoBERTa: the token that has no position of its own. Others are counted from one beyond it.
    pub padding: Option<u32>,
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

impl Config {
    /// Parses and checks config.json.
    pub fn parse(bytes: &[u8]) -> Result<Self, LoadError> {
        let file: File = serde_json::from_slice(bytes).map_err(bad)?;
        file.check()?;
        let config = Config {
            hidden: file.hidden_size,
            intermediate: file.intermediate_size,
            heads: file.num_attention_heads,
            layers: file.num_hidden_layers,
            positions: file.max_position_embeddings,
            types: file.type_vocab_size.unwrap_or(2),
            vocabulary: file.vocab_size,
            epsilon: file.layer_norm_eps.unwrap_or(1e-12),
            activation: file.activation()?,
            padding: (file.model_type != "bert")
                .then(|| file.pad_token_id.unwrap_or(ROBERTA_PADDING)),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), LoadError> {
        let sizes = [
            ("hidden_size", self.hidden, DIMENSION_MAX),
            ("intermediate_size", self.intermediate, DIMENSION_MAX),
            ("num_attention_heads", self.heads, DIMENSION_MAX),
            ("num_hidden_layers", self.layers, DIMENSION_MAX),
            ("max_position_embeddings", self.positions, DIMENSION_MAX),
            ("type_vocab_size", self.types, DIMENSION_MAX),
            ("vocab_size", self.vocabulary, VOCABULARY_MAX),
        ];
        for (name, size, max) in sizes {
            if !(1..=max).contains(&size) {
                return Err(bad(format!(
                    "{name} is {size}, and 1 to {max} are possible"
                )));
            }
        }
        if !self.hidden.is_multiple_of(self.heads) {
            let (hidden, heads) = (self.hidden, self.heads);
            return Err(bad(format!(
                "{heads} attention heads do not divide a hidden_size of {hidden}"
            )));
        }
        if !(self.epsilon.is_finite() && self.epsilon >= 0.0) {
            return Err(bad("layer_norm_eps is no small positive number"));
        }
        if self.context_tokens() == 0 {
            return Err(bad(
                "max_position_embeddings leaves no position for a token",
            ));
        }
        Ok(())
    }

    /// The first token's row in the table of positions.
    pub fn first_position(&self) -> usize {
        self.padding.map_or(0, |padding| padding as usize + 1)
    }

    /// The most tokens that the table of positions has room for.
    pub fn context_tokens(&self) -> usize {
        self.positions.saturating_sub(self.first_position())
    }
}

impl File {
    /// Refuses what this code would compute wrongly.
    fn check(&self) -> Result<(), LoadError> {
        if !FAMILIES.contains(&self.model_type.as_str()) {
            return Err(bad(format!(
                "encoders of type {:?} are not supported; these are: {}",
                self.model_type,
                FAMILIES.join(", ")
            )));
        }
        let positions = self.position_embedding_type.as_deref();
        if !matches!(positions, None | Some("absolute")) {
            return Err(bad(format!(
                "position_embedding_type {positions:?} is not supported, \"absolute\" is"
            )));
        }
        if self.is_decoder == Some(true) {
            return Err(bad("is_decoder is true, and this encoder reads both ways"));
        }
        Ok(())
    }

    fn activation(&self) -> Result<Activation, LoadError> {
        let name = self.hidden_act.as_deref().unwrap_or("gelu");
        let known = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        known.map(|(_, activation)| *activation).ok_or_else(|| {
            let names = ACTIVATIONS.map(|(name, _)| name).join(", ");
            bad(format!(
                "hidden_act {name:?} is not supported; these are: {names}"
            ))
        })
    }
}
