//! A decoder's shape from a Hugging Face folder's config.json.

use super::{Config, Family, LAYERS_MAX, WIDTH_MAX, unknown};
use crate::models::LoadError;
use crate::models::decoder::rope::{Pairs, Rope, Scaling};
use serde::Deserialize;
use serde::de::IgnoredAny;

const FILE: &str = "config.json";

/// What the format's own library takes where a file says nothing.
const BASE_DEFAULT: f64 = 10_000.0;
const EPSILON_DEFAULT: f64 = 1e-6;
const WINDOW_DEFAULT: usize = 4096;
const WINDOW_LAYERS_DEFAULT: usize = 28;
const QWEN3_WIDTH_DEFAULT: usize = 128;

/// Which model it is, read first, so that an unknown one is refused by its name.
#[derive(Deserialize)]
struct Kind {
    model_type: Option<String>,
    #[serde(default)]
    architectures: Option<Vec<String>>,
    #[serde(default)]
    quantization_config: Option<Quantization>,
}

#[derive(Deserialize)]
struct Quantization {
    #[serde(default)]
    quant_method: String,
}

#[derive(Deserialize)]
struct Json {
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    vocab_size: usize,
    max_position_embeddings: usize,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeJson>,
    rope_parameters: Option<RopeJson>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
    // Absent is not null here: absent means the default.
    #[serde(default = "window_default")]
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    attention_bias: Option<bool>,
    mlp_bias: Option<bool>,
    tie_word_embeddings: Option<bool>,
    hidden_act: Option<String>,
}

fn window_default() -> Option<usize> {
    Some(WINDOW_DEFAULT)
}

/// `rope_scaling`, or `rope_parameters` as it is called since.
#[derive(Default, Deserialize)]
struct RopeJson {
    rope_type: Option<String>,
    r#type: Option<String>,
    rope_theta: Option<f64>,
    partial_rotary_factor: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    truncate: Option<bool>,
    // Present where each kind of layer has angles of its own.
    full_attention: Option<IgnoredAny>,
    sliding_attention: Option<IgnoredAny>,
}

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

impl Config {
    /// Parses and checks config.json.
    pub fn from_json(bytes: &[u8]) -> Result<Self, LoadError> {
        let kind: Kind = serde_json::from_slice(bytes).map_err(bad)?;
        let family = family(&kind).map_err(bad)?;
        let json: Json = serde_json::from_slice(bytes).map_err(bad)?;
        json.config(family).and_then(Config::checked).map_err(bad)
    }
}

fn family(kind: &Kind) -> Result<Family, String> {
    let name = kind.model_type.as_deref().unwrap_or_default();
    let family = Family::named(name).ok_or_else(|| unknown(name))?;
    let made_for = kind.architectures.iter().flatten().next();
    if let Some(other) = made_for.filter(|name| !name.ends_with("ForCausalLM")) {
        return Err(format!(
            "{other} is not supported; models for text generation are"
        ));
    }
    match &kind.quantization_config {
        Some(quantization) => Err(format!(
            "quantisation {:?} is not supported in safetensors; f32, bf16 and f16 are, and GGUF's",
            quantization.quant_method
        )),
        None => Ok(family),
    }
}

impl Json {
    fn config(&self, family: Family) -> Result<Config, String> {
        if self.hidden_act.as_deref().is_some_and(|act| act != "silu") {
            let act = self.hidden_act.as_deref().unwrap_or_default();
            return Err(format!("activation {act:?} is not supported, silu is"));
        }
        if self.mlp_bias == Some(true) {
            return Err("mlp_bias is not supported".into());
        }
        let attention_bias = self.attention_bias.unwrap_or(false);
        let width = self.width(family)?;
        Ok(Config {
            hidden: self.hidden_size,
            inner: self.intermediate_size,
            layers: self.num_hidden_layers,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            width,
            vocabulary: self.vocab_size,
            context_tokens: self.max_position_embeddings,
            epsilon: self.rms_norm_eps.unwrap_or(EPSILON_DEFAULT) as f32,
            rope: self.rope(width)?,
            windows: self.windows(family)?,
            qkv_bias: family == Family::Qwen2 || attention_bias,
            attended_bias: family != Family::Qwen2 && attention_bias,
            head_norms: family == Family::Qwen3,
            tied: self.tie_word_embeddings.unwrap_or(false),
        })
    }

    fn width(&self, family: Family) -> Result<usize, String> {
        let shared = self.hidden_size.checked_div(self.num_attention_heads);
        let otherwise = match family {
            Family::Qwen3 => Some(QWEN3_WIDTH_DEFAULT),
            _ => shared,
        };
        let width = self.head_dim.or(otherwise).unwrap_or(0);
        match (1..=WIDTH_MAX).contains(&width) {
            true => Ok(width),
            false => Err(format!(
                "its head width is {width}, and 1 to {WIDTH_MAX} are possible"
            )),
        }
    }

    /// Each layer's window.
    fn windows(&self, family: Family) -> Result<Vec<Option<usize>>, String> {
        let layers = self.num_hidden_layers;
        if layers > LAYERS_MAX {
            return Err(format!("its {layers} layers are above {LAYERS_MAX}"));
        }
        let window = match family {
            Family::Llama => None,
            Family::Mistral => self.sliding_window,
            Family::Qwen2 | Family::Qwen3 => {
                let used = self.use_sliding_window.unwrap_or(false);
                self.sliding_window.filter(|_| used)
            }
        };
        if let (Some(kinds), Some(_)) = (&self.layer_types, window) {
            if kinds.len() != layers {
                return Err(format!(
                    "it has {} layer_types for {layers} layers",
                    kinds.len()
                ));
            }
            return kinds.iter().map(|kind| match kind.as_str() {
                "full_attention" => Ok(None),
                "sliding_attention" => Ok(window),
                other => Err(format!(
                    "layer type {other:?} is not supported; full_attention and sliding_attention are"
                )),
            }).collect();
        }
        let full = match family {
            Family::Qwen2 | Family::Qwen3 => {
                self.max_window_layers.unwrap_or(WINDOW_LAYERS_DEFAULT)
            }
            _ => 0,
        };
        Ok((0..layers)
            .map(|layer| window.filter(|_| layer >= full))
            .collect())
    }

    fn rope(&self, width: usize) -> Result<Rope, String> {
        let none = RopeJson::default();
        let rope = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let rope = rope.unwrap_or(&none);
        let partial = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        if partial.is_some_and(|part| part != 1.0) {
            return Err("heads that turn in part (partial_rotary_factor) are not supported".into());
        }
        if rope.full_attention.is_some() || rope.sliding_attention.is_some() {
            return Err("rope_parameters by kind of layer are not supported".into());
        }
        let base = rope.rope_theta.or(self.rope_theta).unwrap_or(BASE_DEFAULT);
        let original = rope
            .original_max_position_embeddings
            .or(self.original_max_position_embeddings)
            .unwrap_or(self.max_position_embeddings as f64);
        let scaling = rope.scaling(original, self.max_position_embeddings as f64)?;
        Rope::new(Pairs::Halves, width, base, scaling)
    }
}

impl RopeJson {
    fn scaling(&self, original: f64, context: f64) -> Result<Scaling, String> {
        let kind = self.rope_type.as_deref().or(self.r#type.as_deref());
        let need = |what: &str, number: Option<f64>| {
            number.ok_or_else(|| format!("its rope scaling has no {what}"))
        };
        match kind.unwrap_or("default") {
            "default" => Ok(Scaling::None),
            "linear" => Ok(Scaling::Linear {
                factor: need("factor", self.factor)?,
            }),
            "llama3" => Ok(Scaling::Llama3 {
                factor: need("factor", self.factor)?,
                low: need("low_freq_factor", self.low_freq_factor)?,
                high: need("high_freq_factor", self.high_freq_factor)?,
                original,
            }),
            "yarn" => {
                let factor = self.factor.unwrap_or(context / original);
                Ok(Scaling::Yarn {
                    factor,
                    attention: self.attention_factor.or_else(|| self.ratio(factor)),
                    fast: self.beta_fast.unwrap_or(32.0),
                    slow: self.beta_slow.unwrap_or(1.0),
                    original,
                    truncate: self.truncate.unwrap_or(true),
                })
            }
            other => Err(format!(
                "rope scaling {other:?} is not supported; default, linear, llama3 and yarn are"
            )),
        }
    }

    /// YaRN's attention factor where two scales are given.
    fn ratio(&self, factor: f64) -> Option<f64> {
        let scale = |by: f64| 0.1 * by * factor.max(1.0).ln() + 1.0;
        let (upper, lower) = (self.mscale?, self.mscale_all_dim?);
        (upper != 0.0 && lower != 0.0).then(|| scale(upper) / scale(lower))
    }
}
