//! A Llama of two layers with random weights from a seed, as the files of a repository. It says nothing
//! worth reading; it loads, and answers.

use serde_json::{Map, Value, json};

const HIDDEN: usize = 64;
const INNER: usize = 96;
const LAYERS: usize = 2;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;
/// One token for each visible ASCII character, one for a space, two that begin and end messages.
const VOCABULARY: usize = 97;

type Files = Vec<(String, Vec<u8>)>;

/// Everything but the weights.
fn around() -> Files {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "vocab_size": VOCABULARY, "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "eos_token_id": 96,
    });
    let letters: Map<String, Value> = (b'!'..=b'~')
        .zip(0u32..)
        .map(|(letter, id)| (char::from(letter).to_string(), id.into()))
        .chain([("Ġ".to_owned(), 94.into())])
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 95, "content": "<|im_start|>", "special": true},
            {"id": 96, "content": "<|im_end|>", "special": true},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": letters, "merges": []},
    });
    let template = "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}";
    [
        ("config.json", config.to_string()),
        ("tokenizer.json", tokenizer.to_string()),
        ("chat_template.jinja", template.into()),
        // What a repository holds besides, and nobody takes.
        ("README.md", "# A model".into()),
        ("modeling_llama.py", "raise SystemExit".into()),
        ("pytorch_model.bin", "a pickle".into()),
    ]
    .map(|(name, text)| (name.to_owned(), text.into_bytes()))
    .into()
}

/// A repository with its weights in one file.
pub fn files() -> Files {
    let mut files = around();
    files.push(("model.safetensors".into(), safetensors(&tensors())));
    files
}

/// The same in two files and an index.
pub fn files_sharded() -> Files {
    let names = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let mut first = tensors();
    let second = first.split_off(first.len() / 2);
    let mut map = Map::new();
    let mut files = around();
    for (name, tensors) in names.into_iter().zip([first, second]) {
        map.extend(
            tensors
                .iter()
                .map(|(tensor, _)| (tensor.clone(), name.into())),
        );
        files.push((name.into(), safetensors(&tensors)));
    }
    let index = json!({"metadata": {}, "weight_map": map}).to_string();
    files.push(("model.safetensors.index.json".into(), index.into_bytes()));
    files
}

/// GGUF files of several quantisations, with a header alone: enough to be recognised.
pub fn ggufs() -> Files {
    ["Tiny-Q4_K_M.gguf", "Tiny-Q8_0.gguf"]
        .map(|name| (name.to_owned(), gguf(name)))
        .into()
}

fn gguf(name: &str) -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.extend(6u64.to_le_bytes());
    for (key, value) in [("general.architecture", "llama"), ("general.name", name)] {
        bytes.extend([text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat());
    }
    for (key, number) in [
        ("llama.block_count", 2u32),
        ("llama.embedding_length", 64),
        ("llama.attention.head_count", 4),
    ] {
        bytes.extend(
            [
                text(key),
                4u32.to_le_bytes().to_vec(),
                number.to_le_bytes().to_vec(),
            ]
            .concat(),
        );
    }
    // A vocabulary of nothing.
    bytes.extend(text("tokenizer.ggml.tokens"));
    bytes.extend([9u32.to_le_bytes(), 8u32.to_le_bytes()].concat());
    bytes.extend(0u64.to_le_bytes());
    // Where the data would begin.
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// A tensor's name and shape.
type Tensor = (String, Vec<usize>);

fn tensors() -> Vec<Tensor> {
    let keys = HIDDEN / HEADS * KV_HEADS;
    let mut all = vec![(
        "model.embed_tokens.weight".to_owned(),
        vec![VOCABULARY, HIDDEN],
    )];
    for layer in 0..LAYERS {
        for (part, shape) in [
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![keys, HIDDEN]),
            ("self_attn.v_proj", vec![keys, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
        ] {
            all.push((format!("model.layers.{layer}.{part}.weight"), shape));
        }
    }
    all.push(("model.norm.weight".into(), vec![HIDDEN]));
    all
}

/// In float32, values between -1/2 and 1/2 from a SplitMix64 that the name seeds; norms around 1.
fn safetensors(tensors: &[Tensor]) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, shape) in tensors {
        let from = data.len();
        let mut state = (name.bytes()).fold(7u64, |s, b| s.wrapping_mul(31).wrapping_add(b.into()));
        for _ in 0..shape.iter().product() {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            let value = (z >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
            let norm = if name.contains("norm") { 1.0 } else { 0.0 };
            data.extend((value + norm).to_le_bytes());
        }
        let place = json!({"dtype": "F32", "shape": shape, "data_offsets": [from, data.len()]});
        header.insert(name.clone(), place);
    }
    let mut header = Value::from(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}
