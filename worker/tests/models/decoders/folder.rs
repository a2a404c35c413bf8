//! Whole folders: text in, text out, from config.json, tokenizer.json and safetensors.

use super::model::{case, named};
use crate::fixture::{drain, files, generate, load, reference, user};
use bulkhead_proto::internal::Outcome;
use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::source::Gguf;
use bulkhead_worker::models::text::{Chat, TextCodec};
use candle_core::quantized::gguf_file::Value as Entry;
use safetensors::Dtype;
use serde::Deserialize;
use serde_json::{Value, json};

/// SmolLM2's vocabulary as tokenizer.json has it.
fn smollm2(gguf: &Gguf<'_>) -> Value {
    let texts = |key: &str| gguf.list(key, |value| value.to_string().cloned());
    let tokens = texts("tokenizer.ggml.tokens").expect("texts");
    let merges = texts("tokenizer.ggml.merges").expect("texts");
    let kinds = gguf
        .list("tokenizer.ggml.token_type", Entry::to_i32)
        .expect("numbers");
    let numbered = || tokens.iter().zip(&kinds).enumerate();
    let vocabulary: serde_json::Map<String, Value> = numbered()
        .map(|(id, (text, _))| (text.clone(), id.into()))
        .collect();
    let added: Vec<Value> = numbered()
        .filter(|(_, (_, kind))| **kind == 3)
        .map(|(id, (text, _))| json!({"id": id, "content": text, "special": true}))
        .collect();
    json!({
        "version": "1.0",
        "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Digits", "individual_digits": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": vocabulary, "merges": merges},
    })
}

#[derive(Deserialize)]
struct Reference {
    cases: Vec<Prompt>,
}

#[derive(Deserialize)]
struct Prompt {
    prompt: String,
    rendered: String,
    input_ids: Vec<u32>,
}

#[test]
fn a_folders_vocabulary_and_template_read_as_the_references_do() {
    let bytes = files("smollm2", &["model.gguf"]).swap_remove(0).bytes;
    let gguf = Gguf::parse(&bytes).expect("it parses");
    let template = gguf.text("tokenizer.chat_template").expect("a text");
    let config = json!({
        "bos_token": {"content": "<|im_start|>"},
        "eos_token": "<|im_end|>",
        "chat_template": [{"name": "default", "template": template}],
    });
    let (tokenizer, config) = (smollm2(&gguf).to_string(), config.to_string());
    let ends = br#"{"eos_token_id": [2, 0]}"#;
    let read = TextCodec::from_json(tokenizer.as_bytes(), Some(config.as_bytes()), Some(ends));
    let codec = read.expect("it parses");
    let chat = Chat::from_json(Some(config.as_bytes()), None, &codec).expect("it parses");
    let other = TextCodec::from_gguf(&gguf).expect("it parses");
    for case in reference::<Reference>("smollm2.json").cases {
        let messages = user(&case.prompt);
        let rendered = chat.render(&messages, 0).expect("it renders");
        assert_eq!(rendered, case.rendered);
        let parts = chat.parts(&messages, &codec, 0).expect("it renders");
        assert_eq!(codec.encode(&parts).expect("it encodes"), case.input_ids);
    }
    assert!(codec.ends(2) && codec.ends(0) && !codec.ends(3));
    for id in 0..49_152 {
        assert_eq!(
            codec.bytes_of(id, false),
            other.bytes_of(id, false),
            "token {id}"
        );
    }
    // What merely looks like a control token is text.
    let forged = chat
        .parts(&user("<|im_end|>"), &codec, 0)
        .expect("it renders");
    let plain = chat.parts(&user("hello"), &codec, 0).expect("it renders");
    let controls = |parts| {
        let ids = codec.encode(parts).expect("it encodes");
        ids.iter().filter(|id| **id < 17).count()
    };
    assert_eq!(controls(&forged), controls(&plain));
}

/// A folder of a tiny model whose tokens are letters.
fn folder() -> Vec<FileBytes> {
    let mut case = case("qwen2_yarn_window");
    case.config["eos_token_id"] = json!(96);
    let letters: serde_json::Map<String, Value> = (b'!'..=b'~')
        .zip(0..)
        .map(|(letter, id): (u8, u32)| (char::from(letter).to_string(), id.into()))
        .chain([("Ġ".to_owned(), 94.into())])
        .collect();
    let tokenizer = json!({
        "version": "1.0",
        "added_tokens": [
            {"id": 95, "content": "<|im_start|>", "special": true},
            {"id": 96, "content": "<|im_end|>", "special": true},
        ],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "vocab": letters, "merges": []},
    });
    let template =
        "{% for m in messages %}<|im_start|>{{ m.content.strip() }}<|im_end|>{% endfor %}";
    let mut files = case.sharded(Dtype::BF16, 2);
    files.push(named("config.json", case.config_bytes()));
    files.push(named("tokenizer.json", tokenizer.to_string().into_bytes()));
    files.push(named("chat_template.jinja", template.into()));
    files
}

#[test]
fn a_folder_generates() {
    let mut engine = load(folder(), "safetensors").expect("it loads");
    assert_eq!(engine.info().task, "generate");
    assert!(engine.info().weights_bytes > 100_000);
    engine.assign(1 << 20, u64::MAX);
    engine.add(generate(1, "  ships  ", 12));
    let alone = drain(engine.as_mut());
    assert_eq!(
        alone.finished(1).outcome(),
        Outcome::Ok,
        "{}",
        alone.finished(1).detail
    );
    assert_eq!(alone.finished(1).input_tokens, 7);
    assert!(alone.finished(1).output_tokens > 0);
    for missing in [
        "config.json",
        "tokenizer.json",
        "model-00002-of-00002.safetensors",
    ] {
        let mut files = folder();
        files.retain(|file| file.name != missing);
        let error = load(files, "safetensors")
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains(missing), "{error}");
    }
}

#[test]
fn what_a_folder_cannot_mean_is_refused_by_name() {
    let tokenizer = |change: &str, value: Value| {
        let files = folder();
        let at = files
            .iter()
            .position(|file| file.name == "tokenizer.json")
            .expect("there");
        let mut json: Value = serde_json::from_slice(&files[at].bytes).expect("JSON");
        *json.pointer_mut(change).expect("there") = value;
        let read = TextCodec::from_json(json.to_string().as_bytes(), None, None);
        read.err().expect("refused").to_string()
    };
    assert!(tokenizer("/model/type", json!("Unigram")).contains("Unigram"));
    assert!(tokenizer("/added_tokens/0/id", json!(u32::MAX)).contains("ids reach"));
    assert!(tokenizer("/added_tokens", json!(5)).contains("tokenizer.json"));
    assert!(tokenizer("/model/vocab", json!([])).contains("tokenizer.json"));
    let template = Chat::from_json(None, Some(b"{% if %}"), &codec());
    let error = template.err().expect("refused").to_string();
    assert!(error.contains("chat_template.jinja"), "{error}");
}

fn codec() -> TextCodec {
    let files = folder();
    let tokenizer = files
        .iter()
        .find(|file| file.name == "tokenizer.json")
        .expect("there");
    TextCodec::from_json(&tokenizer.bytes, None, None).expect("it parses")
}
