//! What the weights are called in either kind of file.

use std::fmt;

/// Who named them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// GGUF.
    Gguf,
    /// Hugging Face checkpoints.
    HuggingFace,
}

/// A weight of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    AttentionNorm,
    Query,
    Key,
    Value,
    QueryNorm,
    KeyNorm,
    Attended,
    FeedNorm,
    Gate,
    Up,
    Down,
}

/// A weight's name without its ending, `.weight` or `.bias`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Name {
    Embedding(Names),
    Norm(Names),
    Output(Names),
    Layer(Names, usize, Part),
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Name::Embedding(Names::Gguf) => "token_embd",
            Name::Embedding(Names::HuggingFace) => "model.embed_tokens",
            Name::Norm(Names::Gguf) => "output_norm",
            Name::Norm(Names::HuggingFace) => "model.norm",
            Name::Output(Names::Gguf) => "output",
            Name::Output(Names::HuggingFace) => "lm_head",
            Name::Layer(names, nth, part) => {
                return match names {
                    Names::Gguf => write!(out, "blk.{nth}.{}", part.gguf()),
                    Names::HuggingFace => write!(out, "model.layers.{nth}.{}", part.hugging_face()),
                };
            }
        })
    }
}

impl Part {
    fn gguf(self) -> &'static str {
        match self {
            Part::AttentionNorm => "attn_norm",
            Part::Query => "attn_q",
            Part::Key => "attn_k",
            Part::Value => "attn_v",
            Part::QueryNorm => "attn_q_norm",
            Part::KeyNorm => "attn_k_norm",
            Part::Attended => "attn_output",
            Part::FeedNorm => "ffn_norm",
            Part::Gate => "ffn_gate",
            Part::Up => "ffn_up",
            Part::Down => "ffn_down",
        }
    }

    fn hugging_face(self) -> &'static str {
        match self {
            Part::AttentionNorm => "input_layernorm",
            Part::Query => "self_attn.q_proj",
            Part::Key => "self_attn.k_proj",
            Part::Value => "self_attn.v_proj",
            Part::QueryNorm => "self_attn.q_norm",
            Part::KeyNorm => "self_attn.k_norm",
            Part::Attended => "self_attn.o_proj",
            Part::FeedNorm => "post_attention_layernorm",
            Part::Gate => "mlp.gate_proj",
            Part::Up => "mlp.up_proj",
            Part::Down => "mlp.down_proj",
        }
    }
}
