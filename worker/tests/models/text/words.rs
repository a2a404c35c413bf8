//! What stands before the model, in GGUF files and in folders, against the library told by the families'
//! own files.

use super::vocabulary::{file, texts};
use crate::fixture::reference;
use bulkhead_worker::models::source::Gguf;
use bulkhead_worker::models::text::{Part, TextCodec};
use candle_core::quantized::gguf_file::Value as Entry;
use serde_json::{Value, json};
use tokenizers::Tokenizer;

pub fn read() -> Value {
    reference("text/words.json")
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().expect("a list").clone()
}

/// The vocabulary `model` as GGUF with a named pre-tokenizer, and behind its tokens others of some kinds.
fn in_gguf(model: &Value, pre: &str, others: &[(&str, i32)]) -> Result<TextCodec, String> {
    let vocabulary = model["vocab"].as_object().expect("a vocabulary");
    let mut tokens: Vec<(u64, String)> = vocabulary
        .iter()
        .map(|(text, id)| (id.as_u64().expect("an id"), text.clone()))
        .collect();
    tokens.sort();
    let own = tokens.into_iter().map(|(_, text)| text);
    let tokens: Vec<String> = own
        .chain(others.iter().map(|(text, _)| (*text).to_owned()))
        .collect();
    let kinds = vec![1; tokens.len() - others.len()];
    let kinds = kinds
        .into_iter()
        .chain(others.iter().map(|(_, kind)| *kind));
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
            Entry::Array(kinds.map(Entry::I32).collect()),
        ),
    ]);
    let gguf = Gguf::parse(&bytes).expect("it parses");
    TextCodec::from_gguf(&gguf).map_err(|error| error.to_string())
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
fn the_words_of_each_family_are_the_librarys() {
    let all = read();
    for (name, model) in [
        ("qwen2", "by_bytes"),
        ("llama-bpe", "by_bytes"),
        ("llama3", "whole_words"),
        ("tekken", "whole_words"),
        ("stablelm2", "by_bytes"),
        ("olmo", "by_bytes"),
        ("default", "by_bytes"),
    ] {
        let gguf = in_gguf(&all[model], name, &[]).expect("it parses");
        agrees(&gguf, &all, name);
        let folder = in_folder(&all[model], &all[name]["file"]);
        agrees(&folder, &all, name);
    }
}

#[test]
fn an_unknown_pre_tokenizer_is_refused_with_those_that_are_known() {
    let refused = in_gguf(&read()["by_bytes"], "poro-chat", &[]).err();
    let refused = refused.expect("refused");
    for name in ["\"poro-chat\"", "llama-bpe", "qwen2", "tekken", "smollm"] {
        assert!(refused.contains(name), "{refused}");
    }
}

/// GGUF's kinds: 3 is control, 4 was defined by the file's authors.
#[test]
fn words_of_a_gguf_files_authors_are_found_in_texts_and_marks_are_not() {
    let all = read();
    let others = [("    ", 4), ("<tool_call>", 4), ("<|end|>", 3), ("dé", 4)];
    let codec = in_gguf(&all["by_bytes"], "qwen2", &others).expect("it parses");
    let first = (codec.vocabulary() - others.len()) as u32;
    let ids = |text: &str| {
        codec
            .encode(&[Part::Text(text.into())])
            .expect("it encodes")
    };
    let found = |text: &str| -> Vec<u32> {
        let ids = ids(text).into_iter();
        ids.filter(|id| *id >= first).map(|id| id - first).collect()
    };
    assert_eq!(found("a    b     c dé"), [0, 0, 3]);
    assert!(found("<tool_call><|end|>").is_empty());
    assert_eq!(
        codec.split("<tool_call>x<|end|>"),
        [
            Part::Control(first + 1),
            Part::Text("x".into()),
            Part::Control(first + 2)
        ]
    );
    let bytes = |nth: u32| codec.bytes_of(first + nth, false);
    assert_eq!(bytes(0), b"    ");
    assert_eq!(bytes(1), b"<tool_call>");
    assert_eq!(bytes(2), b"", "a control token is never shown");
    assert_eq!(bytes(3), "dé".as_bytes());
}

/// What tokens of a folder take of the text around them, against the library on the same file.
#[test]
fn added_tokens_take_the_space_that_the_file_says() {
    let all = read();
    let vocabulary = all["by_bytes"]["vocab"].as_object().expect("a vocabulary");
    let added = [
        ("<|left|>", true, (true, false, false)),
        ("<|right|>", true, (false, true, false)),
        ("<alone>", true, (false, false, true)),
        ("    ", false, (false, false, false)),
        ("<think>", false, (true, true, false)),
        ("ship", false, (false, false, true)),
    ];
    let mut file = all["llama-bpe"]["file"].clone();
    let added = added.iter().zip(vocabulary.len()..).map(|(token, id)| {
        let (content, special, (left, right, alone)) = token;
        json!({"id": id, "content": content, "special": special, "normalized": false,
               "lstrip": left, "rstrip": right, "single_word": alone})
    });
    file["added_tokens"] = added.collect();
    let codec = in_folder(&all["by_bytes"], &file);
    file["model"] = all["by_bytes"].clone();
    let library = Tokenizer::from_bytes(file.to_string().as_bytes()).expect("it parses");
    for text in [
        "a  <|left|>  b",
        "a  <|right|> \n b",
        "a<alone> <alone>, <alone>b <alone>",
        "a    b     c",
        "one <think> two <|right|> <|left|> <think>",
        "ship ships a ship-ship _ship",
        " <|left|>",
        "<|right|> ",
    ] {
        let ids = codec.encode(&codec.split(text)).expect("it encodes");
        let wanted = library.encode_fast(text, false).expect("it encodes");
        assert_eq!(ids, wanted.get_ids(), "{text:?}");
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
