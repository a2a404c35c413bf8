//! What stands before the model, in GGUF files and in folders, against the library told by the families'
//! own files.

use super::vocabulary::{file, texts};
use crate::fixture::reference;
use bulkhead_worker::models::source::Gguf;
use bulkhead_worker::models::text::TextCodec;
use candle_core::quantized::gguf_file::Value as Entry;
use serde_json::Value;

pub fn read() -> Value {
    reference("text/words.json")
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().expect("a list").clone()
}

/// Both ways of telling the vocabulary `model`, as GGUF with a named pre-tokenizer.
fn in_gguf(model: &Value, pre: &str) -> TextCodec {
    let vocabulary = model["vocab"].as_object().expect("a vocabulary");
    let mut tokens: Vec<(u64, String)> = vocabulary
        .iter()
        .map(|(text, id)| (id.as_u64().expect("an id"), text.clone()))
        .collect();
    tokens.sort();
    let tokens: Vec<String> = tokens.into_iter().map(|(_, text)| text).collect();
    let merges: Vec<String> = list(&model["merges"])
        .iter()
        .map(|pair| {
            let half = |at: usize| pair[at].as_str().expect("a text");
            format!("{} {}", half(0), half(1))
        })
        .collect();
    let bytes = file(vec![
        ("tokenizer.ggml.model", Entry::String("gpt2".into())),
        ("tokenizer.ggml.pre", Entry::String(pre.into())),
        ("tokenizer.ggml.tokens", texts(&tokens)),
        ("tokenizer.ggml.merges", texts(&merges)),
        (
            "tokenizer.ggml.token_type",
            Entry::Array(vec![Entry::I32(1); tokens.len()]),
        ),
    ]);
    let gguf = Gguf::parse(&bytes).expect("it parses");
    TextCodec::from_gguf(&gguf).expect("it parses")
}

pub fn in_folder(model: &Value, steps: &Value) -> TextCodec {
    let mut file = steps.clone();
    file["model"] = model.clone();
    TextCodec::from_json(file.to_string().as_bytes(), None, None).expect("it parses")
}

/// What the codec makes of each text is what the library made of it.
fn agrees(codec: &TextCodec, all: &Value, name: &str) {
    for (text, wanted) in list(&all["texts"]).iter().zip(list(&all[name]["ids"])) {
        let text = text.as_str().expect("a text");
        let ids = codec.encode(&codec.split(text)).expect("it encodes");
        let wanted: Vec<u32> = serde_json::from_value(wanted).expect("ids");
        assert_eq!(ids, wanted, "{name}: {text:?}");
    }
}

#[test]
fn the_words_of_qwen_2_and_llama_3_are_the_librarys() {
    let all = read();
    for name in ["qwen2", "llama-bpe"] {
        agrees(&in_gguf(&all["by_bytes"], name), &all, name);
        let folder = in_folder(&all["by_bytes"], &all[name]["file"]);
        agrees(&folder, &all, name);
    }
}

#[test]
fn folders_that_write_spaces_as_characters_read_as_the_library_does() {
    let all = read();
    for name in ["metaspace", "prepended"] {
        let codec = in_folder(&all["by_spaces"], &all[name]["file"]);
        agrees(&codec, &all, name);
        for text in ["a bulkhead", "水密隔壁 🚢", " two  spaces"] {
            let ids = codec.encode(&codec.split(text)).expect("it encodes");
            let bytes = ids.iter().flat_map(|id| codec.bytes_of(*id, false));
            let bytes: Vec<u8> = bytes.copied().collect();
            let spaced = String::from_utf8(bytes).expect("text");
            assert_eq!(spaced.trim_start(), text.trim_start());
        }
    }
}
