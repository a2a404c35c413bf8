//! What a decoder is, as numbers and switches: read from a file's metadata, checked once, then trusted.
//!
//! One decoder serves all families that differ in nothing but this. What a file asks for beyond it is
//! refused by name.

mod gguf;
mod json;

use super::rope::Rope;
use bulkhead_kernels::compute::paged::Layout;

/// The families that work, as errors name them.
pub const FAMILIES: &str = "llama, mistral, qwen2 and qwen3";

/// Bounds on what a file may claim, so that no product of sizes overflows.
const DIMENSION_MAX: usize = 1 << 18;
const LAYERS_MAX: usize = 1 << 10;
const HEADS_MAX: usize = 1 << 10;
const WIDTH_MAX: usize = 1 << 10;
const VOCABULARY_MAX: usize = 1 << 20;
const CONTEXT_TOKENS_MAX: usize = 1 << 24;

/// A family of models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama and all that share its shape.
    Llama,
    /// Mistral: Llama with a sliding window.
    Mistral,
    /// Qwen2 and Qwen2.5: with biases on queries, keys and values.
    Qwen2,
    /// Qwen3: with norms on each head's queries and keys.
    Qwen3,
}

impl Family {
    /// By the name that GGUF and config.json both have for it.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Family::Llama),
            "mistral" => Some(Family::Mistral),
            "qwen2" => Some(Family::Qwen2),
            "qwen3" => Some(Family::Qwen3),
            _ => None,
        }
    }
}

/// A decoder's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Width of a row between layers.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub inner: usize,
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; each is shared by `heads / kv_heads` query heads.
    pub kv_heads: usize,
    /// Width of a head, which need not be `hidden / heads`.
    pub width: usize,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Tokens that a sequence can have.
    pub context_tokens: usize,
    /// Added to the mean square by every norm.
    pub epsilon: f32,
    /// How queries and keys turn with their position.
    pub rope: Rope,
    /// Per layer: how many last positions a token attends to, its own among them; none means all.
    pub windows: Vec<Option<usize>>,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Whether the projection behind the attention has one.
    pub attended_bias: bool,
    /// Whether each head's queries and keys pass through a norm.
    pub head_norms: bool,
    /// Whether the embedding table is the output matrix too.
    pub tied: bool,
}

impl Config {
    /// An error says what makes no model.
    fn checked(self) -> Result<Self, String> {
        let sizes = [
            ("hidden size", self.hidden, DIMENSION_MAX),
            ("feed-forward size", self.inner, DIMENSION_MAX),
            ("number of layers", self.layers, LAYERS_MAX),
            ("number of heads", self.heads, HEADS_MAX),
            ("number of key-value heads", self.kv_heads, HEADS_MAX),
            ("head width", self.width, WIDTH_MAX),
            ("vocabulary", self.vocabulary, VOCABULARY_MAX),
            ("context", self.context_tokens, CONTEXT_TOKENS_MAX),
        ];
        for (what, size, max) in sizes {
            if !(1..=max).contains(&size) {
                return Err(format!("its {what} is {size}, and 1 to {max} are possible"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let (heads, shared) = (self.heads, self.kv_heads);
            return Err(format!(
                "its {heads} heads cannot share {shared} key-value heads"
            ));
        }
        if !self.width.is_multiple_of(4) {
            let width = self.width;
            return Err(format!(
                "its heads are {width} wide; multiples of 4 are supported"
            ));
        }
        if !(self.epsilon > 0.0 && self.epsilon < 1.0) {
            return Err(format!("its norms' epsilon is {}", self.epsilon));
        }
        if self.windows.contains(&Some(0)) {
            return Err("its sliding window is 0".into());
        }
        Ok(self)
    }

    /// Width of all query heads together.
    pub fn queries(&self) -> usize {
        self.heads * self.width
    }

    /// Width of all keys, or all values, together.
    pub fn keys(&self) -> usize {
        self.kv_heads * self.width
    }

    /// Width of queries, keys and values side by side.
    pub fn qkv(&self) -> usize {
        self.queries() + 2 * self.keys()
    }

    /// How keys and values lie in a block.
    pub fn layout(&self) -> Layout {
        Layout {
            layers: self.layers,
            heads: self.kv_heads,
            width: self.width,
        }
    }
}

fn unknown(architecture: &str) -> String {
    format!("architecture {architecture:?} is not supported; {FAMILIES} are")
}
