//! Weights of zeros in both containers: an encoder's and a decoder's of one layer.

/// Words of the vocabulary that all seeds share.
const WORDS: usize = 12;
const HIDDEN: usize = 32;
const INNER: usize = 32;

/// An encoder's tensors and their shapes.
pub(super) fn encoder_tensors() -> Vec<(String, Vec<usize>)> {
    let table = |name: &str, rows| {
        (
            format!("embeddings.{name}_embeddings.weight"),
            vec![rows, HIDDEN],
        )
    };
    let mut all = vec![
        table("word", WORDS),
        table("position", 16),
        table("token_type", 2),
    ];
    let mut vector = |name: &str, width| all.push((name.into(), vec![width]));
    for norm in [
        "embeddings",
        "encoder.layer.0.attention.output",
        "encoder.layer.0.output",
    ] {
        vector(&format!("{norm}.LayerNorm.weight"), HIDDEN);
        vector(&format!("{norm}.LayerNorm.bias"), HIDDEN);
    }
    for dense in [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    ] {
        all.push((
            format!("encoder.layer.0.{dense}.weight"),
            vec![INNER, HIDDEN],
        ));
        all.push((format!("encoder.layer.0.{dense}.bias"), vec![INNER]));
    }
    all
}

/// By the names of safetensors and of GGUF.
fn decoder_tensors() -> Vec<(&'static str, &'static str, Vec<usize>)> {
    vec![
        ("model.embed_tokens", "token_embd", vec![WORDS, HIDDEN]),
        ("model.norm", "output_norm", vec![HIDDEN]),
        (
            "model.layers.0.input_layernorm",
            "blk.0.attn_norm",
            vec![HIDDEN],
        ),
        (
            "model.layers.0.post_attention_layernorm",
            "blk.0.ffn_norm",
            vec![HIDDEN],
        ),
        (
            "model.layers.0.self_attn.q_proj",
            "blk.0.attn_q",
            vec![32, HIDDEN],
        ),
        (
            "model.layers.0.self_attn.k_proj",
            "blk.0.attn_k",
            vec![16, HIDDEN],
        ),
        (
            "model.layers.0.self_attn.v_proj",
            "blk.0.attn_v",
            vec![16, HIDDEN],
        ),
        (
            "model.layers.0.self_attn.o_proj",
            "blk.0.attn_output",
            vec![HIDDEN, 32],
        ),
        (
            "model.layers.0.self_attn.q_norm",
            "blk.0.attn_q_norm",
            vec![16],
        ),
        (
            "model.layers.0.self_attn.k_norm",
            "blk.0.attn_k_norm",
            vec![16],
        ),
        (
            "model.layers.0.mlp.gate_proj",
            "blk.0.ffn_gate",
            vec![INNER, HIDDEN],
        ),
        (
            "model.layers.0.mlp.up_proj",
            "blk.0.ffn_up",
            vec![INNER, HIDDEN],
        ),
        (
            "model.layers.0.mlp.down_proj",
            "blk.0.ffn_down",
            vec![HIDDEN, INNER],
        ),
    ]
}

/// A safetensors file of zeros in half precision.
pub(super) fn safetensors(tensors: &[(String, Vec<usize>)]) -> Vec<u8> {
    let mut entries = Vec::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let begin = end;
        end += shape.iter().product::<usize>() * 2;
        entries.push(format!(
            r#""{name}":{{"dtype":"F16","shape":{shape:?},"data_offsets":[{begin},{end}]}}"#
        ));
    }
    let header = format!("{{{}}}", entries.join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + end, 0);
    file
}

/// A decoder's tensors and their shapes, as safetensors have them.
pub(super) fn decoder_names() -> Vec<(String, Vec<usize>)> {
    let named = |(name, _, shape): (&str, _, _)| (format!("{name}.weight"), shape);
    decoder_tensors().into_iter().map(named).collect()
}

/// The weights of the encoder and of the decoder in one file.
pub fn weights() -> Vec<u8> {
    let mut all = encoder_tensors();
    all.extend(decoder_names());
    safetensors(&all)
}

/// Writes GGUF.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) -> &mut Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(&mut self, value: usize) -> &mut Self {
        self.0.extend((value as u64).to_le_bytes());
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.u64(text.len()).0.extend(text.as_bytes());
        self
    }
}

/// A GGUF file of a Qwen3 with that chat template.
pub fn gguf(template: &str) -> Vec<u8> {
    let numbers = [
        ("qwen3.block_count", 1),
        ("qwen3.embedding_length", HIDDEN as u32),
        ("qwen3.feed_forward_length", INNER as u32),
        ("qwen3.attention.head_count", 2),
        ("qwen3.attention.head_count_kv", 1),
        ("qwen3.attention.key_length", 16),
        ("qwen3.context_length", 64),
        ("tokenizer.ggml.bos_token_id", 10),
        ("tokenizer.ggml.eos_token_id", 11),
    ];
    let texts = [
        ("general.architecture", "qwen3"),
        ("tokenizer.ggml.model", "gpt2"),
        ("tokenizer.ggml.pre", "smollm"),
        ("tokenizer.chat_template", template),
    ];
    let tokens = "a b aa aab Ġ h i : . Ċ <|im_start|> <|im_end|>".split(' ');
    let tensors = decoder_tensors();
    let mut file = Writer(b"GGUF".to_vec());
    file.u32(3).u64(tensors.len());
    file.u64(numbers.len() + texts.len() + 4);
    for (key, value) in numbers {
        file.text(key).u32(4).u32(value);
    }
    for (key, value) in texts {
        file.text(key).u32(8).text(value);
    }
    file.text("qwen3.rope.freq_base")
        .u32(6)
        .u32(10_000f32.to_bits());
    file.text("tokenizer.ggml.tokens").u32(9).u32(8).u64(WORDS);
    for token in tokens {
        file.text(token);
    }
    file.text("tokenizer.ggml.token_type")
        .u32(9)
        .u32(5)
        .u64(WORDS);
    for token in 0..WORDS {
        file.u32(if token < 10 { 1 } else { 3 });
    }
    file.text("tokenizer.ggml.merges")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("a a")
        .text("aa b");
    let mut end = 0;
    for (_, name, shape) in &tensors {
        // Matrices in Q8_0 (34 bytes of 32 weights), vectors in f32.
        let count: usize = shape.iter().product();
        let (kind, bytes) = if shape.len() > 1 {
            (8, count / 32 * 34)
        } else {
            (0, count * 4)
        };
        file.text(&format!("{name}.weight")).u32(shape.len() as u32);
        for size in shape.iter().rev() {
            file.u64(*size);
        }
        file.u32(kind).u64(end);
        end += bytes.next_multiple_of(32);
    }
    let start = file.0.len().next_multiple_of(32);
    file.0.resize(start + end, 0);
    file.0
}
