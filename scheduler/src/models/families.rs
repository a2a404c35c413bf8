//! Which models work: recognised by the name that their own files give them.
//!
//! The worker decides for good when it loads; this keeps a model that cannot work from being added,
//! with the list of those that can.

use super::Task;
use serde::Deserialize;

/// Bounds on what a configuration may claim, so that no product of them overflows.
const SIZE_MAX: u64 = 1 << 20;

/// A kind of model that the worker computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Bert,
    XlmRoberta,
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
}

/// All of them.
pub const FAMILIES: [Family; 6] = [
    Family::Bert,
    Family::XlmRoberta,
    Family::Llama,
    Family::Mistral,
    Family::Qwen2,
    Family::Qwen3,
];

/// Why files are no model that works.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Its kind is not one that the worker computes.
    #[error("models of the kind {kind:?} do not work here; those that do: {known}")]
    Family { kind: String, known: String },
    /// Its configuration is none.
    #[error("config.json: {0}")]
    Config(String),
}

impl Family {
    /// What it is called in config.json, lists and messages.
    pub fn name(self) -> &'static str {
        match self {
            Family::Bert => "bert",
            Family::XlmRoberta => "xlm-roberta",
            Family::Llama => "llama",
            Family::Mistral => "mistral",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
        }
    }

    /// What it does.
    pub fn task(self) -> Task {
        match self {
            Family::Bert | Family::XlmRoberta => Task::Embed,
            Family::Llama | Family::Mistral | Family::Qwen2 | Family::Qwen3 => Task::Generate,
        }
    }

    /// From config.json's `model_type`.
    fn of_config(kind: &str) -> Result<Family, Unsupported> {
        let kind = if kind == "roberta" {
            "xlm-roberta"
        } else {
            kind
        };
        find(kind, &FAMILIES)
    }

    /// From a GGUF file's `general.architecture`. Files of Mistral models call themselves llama.
    pub fn of_gguf(architecture: &str) -> Result<Family, Unsupported> {
        find(architecture, &[Family::Llama, Family::Qwen2, Family::Qwen3])
    }
}

fn find(kind: &str, among: &[Family]) -> Result<Family, Unsupported> {
    let found = among.iter().find(|family| family.name() == kind);
    found.copied().ok_or_else(|| Unsupported::Family {
        kind: kind.chars().take(64).collect(),
        known: among
            .iter()
            .map(|f| f.name())
            .collect::<Vec<_>>()
            .join(", "),
    })
}

/// What a model says of its sizes: as much as its memory depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    pub family: Family,
    pub layers: u64,
    /// Heads that keys and values have.
    pub kv_heads: u64,
    /// Values of one head's key.
    pub head_width: u64,
}

#[derive(Deserialize)]
struct Config {
    model_type: String,
    num_hidden_layers: u64,
    hidden_size: u64,
    num_attention_heads: u64,
    #[serde(default)]
    num_key_value_heads: Option<u64>,
    #[serde(default)]
    head_dim: Option<u64>,
}

/// What config.json says.
pub fn from_config(json: &[u8]) -> Result<Sizes, Unsupported> {
    /// Read first, so that a kind without these sizes is refused by its name.
    #[derive(Deserialize)]
    struct Kind {
        model_type: String,
    }
    let wrong = |e: serde_json::Error| Unsupported::Config(e.to_string());
    let kind: Kind = serde_json::from_slice(json).map_err(wrong)?;
    Family::of_config(&kind.model_type)?;
    let config: Config = serde_json::from_slice(json).map_err(wrong)?;
    let kv_heads = config
        .num_key_value_heads
        .unwrap_or(config.num_attention_heads);
    let sizes = Sizes {
        family: Family::of_config(&config.model_type)?,
        layers: config.num_hidden_layers,
        kv_heads,
        head_width: match config.head_dim {
            Some(width) => width,
            None => (config.hidden_size.checked_div(config.num_attention_heads)).unwrap_or(0),
        },
    };
    sizes
        .checked()
        .ok_or_else(|| Unsupported::Config("its sizes make no model".into()))
}

impl Sizes {
    /// Itself, where no size is zero or absurd.
    pub fn checked(self) -> Option<Sizes> {
        let sizes = [self.layers, self.kv_heads, self.head_width];
        sizes
            .iter()
            .all(|size| (1..=SIZE_MAX).contains(size))
            .then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(kind: &str, more: &str) -> String {
        format!(
            "{{\"model_type\": {kind:?}, \"num_hidden_layers\": 2, \"hidden_size\": 64, \
             \"num_attention_heads\": 4{more}}}"
        )
    }

    #[test]
    fn each_family_is_recognised_with_its_task() {
        for family in FAMILIES {
            let found = from_config(config(family.name(), "").as_bytes()).unwrap();
            assert_eq!(
                (found.family, found.kv_heads, found.head_width),
                (family, 4, 16)
            );
        }
        let roberta = from_config(config("roberta", "").as_bytes()).unwrap();
        assert_eq!(roberta.family.task(), Task::Embed);
        let grouped = ", \"num_key_value_heads\": 2, \"head_dim\": 32";
        let grouped = from_config(config("qwen3", grouped).as_bytes()).unwrap();
        assert_eq!((grouped.kv_heads, grouped.head_width), (2, 32));
    }

    #[test]
    fn an_unknown_kind_is_refused_by_name_with_those_that_work() {
        let error = from_config(b"{\"model_type\": \"gpt_neox\"}")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("gpt_neox") && error.contains("qwen3"),
            "{error}"
        );
        let error = Family::of_gguf("bert").unwrap_err().to_string();
        assert!(error.contains("llama, qwen2, qwen3"), "{error}");
    }

    #[test]
    fn sizes_that_make_no_model_are_refused() {
        for more in [
            ", \"num_key_value_heads\": 0",
            ", \"head_dim\": 18446744073709551615",
        ] {
            assert!(
                from_config(config("llama", more).as_bytes()).is_err(),
                "{more}"
            );
        }
        for bad in ["", "[]", "{}", "{\"model_type\": 3}"] {
            assert!(from_config(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
