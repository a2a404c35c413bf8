//! A decoder's shape from a GGUF file's metadata.

use super::{
    CONTEXT_TOKENS_MAX, Config, DIMENSION_MAX, Family, HEADS_MAX, LAYERS_MAX, WIDTH_MAX, unknown,
};
use crate::models::LoadError;
use crate::models::decoder::rope::{Pairs, Rope, Scaling};
use crate::models::source::{GGUF_FILE as FILE, Gguf, Tensors};

/// What llama.cpp takes where a file says nothing.
const BASE_DEFAULT: f32 = 10_000.0;

fn bad(cause: impl ToString) -> LoadError {
    LoadError::bad(FILE, cause)
}

/// The metadata under an architecture's name.
struct Keys<'a> {
    gguf: &'a Gguf<'a>,
    architecture: String,
}

impl Keys<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn size(&self, name: &str, max: usize) -> Result<usize, LoadError> {
        self.gguf.size(&self.key(name), max)
    }

    /// A size that may be absent.
    fn maybe(&self, name: &str, max: usize) -> Result<Option<usize>, LoadError> {
        match self.gguf.has_key(&self.key(name)) {
            true => self.size(name, max).map(Some),
            false => Ok(None),
        }
    }

    fn float(&self, name: &str) -> Result<Option<f64>, LoadError> {
        Ok(self.gguf.float(&self.key(name))?.map(f64::from))
    }
}

impl Config {
    /// Reads and checks the metadata, and the list of factors on the angles where there is one.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Self, LoadError> {
        let architecture = gguf.text("general.architecture")?.unwrap_or_default();
        let family = Family::named(&architecture).ok_or_else(|| bad(unknown(&architecture)))?;
        let keys = Keys { gguf, architecture };
        if keys.gguf.number(&keys.key("expert_count"))?.unwrap_or(0) > 0 {
            return Err(bad("mixtures of experts are not supported"));
        }
        if keys.gguf.number("split.count")?.unwrap_or(1) > 1 {
            return Err(bad(
                "it is one of several files; merge them with `llama-gguf-split --merge`",
            ));
        }
        let layers = keys.size("block_count", LAYERS_MAX)?;
        let hidden = keys.size("embedding_length", DIMENSION_MAX)?;
        let heads = keys.size("attention.head_count", HEADS_MAX)?;
        let width = keys.maybe("attention.key_length", WIDTH_MAX)?;
        let width = width.unwrap_or(hidden / heads);
        for name in ["attention.value_length", "rope.dimension_count"] {
            if keys
                .maybe(name, WIDTH_MAX)?
                .is_some_and(|size| size != width)
            {
                return Err(bad(format!(
                    "{} other than {width} is not supported",
                    keys.key(name)
                )));
            }
        }
        let context_tokens = keys.size("context_length", CONTEXT_TOKENS_MAX)?;
        let window = keys.maybe("attention.sliding_window", CONTEXT_TOKENS_MAX)?;
        let tensors: &dyn Tensors = &gguf;
        let config = Config {
            hidden,
            inner: keys.size("feed_forward_length", DIMENSION_MAX)?,
            layers,
            heads,
            kv_heads: keys
                .maybe("attention.head_count_kv", HEADS_MAX)?
                .unwrap_or(heads),
            width,
            vocabulary: gguf.length("tokenizer.ggml.tokens").unwrap_or(0),
            context_tokens,
            epsilon: keys
                .float("attention.layer_norm_rms_epsilon")?
                .unwrap_or(1e-5) as f32,
            rope: rope(&keys, family, width, context_tokens)?,
            windows: vec![window; layers],
            qkv_bias: tensors.has("blk.0.attn_q.bias"),
            attended_bias: tensors.has("blk.0.attn_output.bias"),
            head_norms: family == Family::Qwen3,
            tied: !tensors.has("output.weight"),
        };
        config.checked().map_err(bad)
    }
}

fn rope(
    keys: &Keys<'_>,
    family: Family,
    width: usize,
    context_tokens: usize,
) -> Result<Rope, LoadError> {
    let pairs = match family {
        Family::Llama | Family::Mistral => Pairs::Neighbours,
        Family::Qwen2 | Family::Qwen3 => Pairs::Halves,
    };
    let base = keys
        .float("rope.freq_base")?
        .unwrap_or(f64::from(BASE_DEFAULT));
    let rope = Rope::new(pairs, width, base, scaling(keys, context_tokens)?).map_err(bad)?;
    let mut tensors = keys.gguf;
    match tensors.has("rope_freqs.weight") {
        true => {
            let factors = tensors.vector("rope_freqs.weight", width / 2)?;
            rope.divided(&factors).map_err(bad)
        }
        false => Ok(rope),
    }
}

fn scaling(keys: &Keys<'_>, context_tokens: usize) -> Result<Scaling, LoadError> {
    let factor = match keys.float("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => keys.float("rope.scale_linear")?,
    };
    let kind = keys.gguf.text(&keys.key("rope.scaling.type"))?;
    // Older files give a factor alone, and mean this by it.
    let kind = kind.unwrap_or_else(|| factor.map_or("none", |_| "linear").into());
    let need = || factor.ok_or_else(|| bad("its rope scaling has no factor"));
    match kind.as_str() {
        "none" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear { factor: need()? }),
        "yarn" => {
            let factor = need()?;
            let times = keys.float("rope.scaling.attn_factor")?.unwrap_or(1.0);
            let original =
                keys.maybe("rope.scaling.original_context_length", CONTEXT_TOKENS_MAX)?;
            Ok(Scaling::Yarn {
                factor,
                attention: Some(times * (0.1 * factor.max(1.0).ln() + 1.0)),
                fast: keys.float("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                slow: keys.float("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                original: original.unwrap_or(context_tokens) as f64,
                truncate: true,
            })
        }
        other => Err(bad(format!(
            "rope scaling {other:?} is not supported; none, linear and yarn are"
        ))),
    }
}
