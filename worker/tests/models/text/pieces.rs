//! SentencePiece's BPE in GGUF files, against the library itself.

use super::vocabulary::{Case, file, texts};
use crate::fixture::reference;
use bulkhead_worker::models::source::Gguf;
use bulkhead_worker::models::text::{Part, TextCodec};
use candle_core::quantized::gguf_file::Value;
use proptest::prelude::*;
use serde::Deserialize;

#[derive(Deserialize)]
pub struct Reference {
    tokens: Vec<String>,
    scores: Vec<f32>,
    kinds: Vec<i32>,
    cases: Vec<Case>,
}

impl Reference {
    pub fn read() -> Self {
        reference("text/pieces.json")
    }

    fn metadata(&self) -> Vec<(&'static str, Value)> {
        let scores = self.scores.iter().copied().map(Value::F32);
        let kinds = self.kinds.iter().copied().map(Value::I32);
        vec![
            ("tokenizer.ggml.model", Value::String("llama".into())),
            ("tokenizer.ggml.tokens", texts(&self.tokens)),
            ("tokenizer.ggml.scores", Value::Array(scores.collect())),
            ("tokenizer.ggml.token_type", Value::Array(kinds.collect())),
        ]
    }

    pub fn codec(&self) -> TextCodec {
        codec(self.metadata()).expect("it parses")
    }
}

fn codec(metadata: Vec<(&str, Value)>) -> Result<TextCodec, String> {
    let bytes = file(metadata);
    let gguf = Gguf::parse(&bytes).expect("it parses");
    TextCodec::from_gguf(&gguf).map_err(|error| error.to_string())
}

fn decoded(codec: &TextCodec, ids: &[u32]) -> String {
    let first = std::iter::once(true).chain(std::iter::repeat(false));
    let bytes = ids.iter().zip(first);
    let bytes: Vec<u8> = bytes
        .flat_map(|(id, first)| codec.bytes_of(*id, first).to_vec())
        .collect();
    String::from_utf8(bytes).expect("text")
}

#[test]
fn texts_are_divided_as_the_library_does() {
    let reference = Reference::read();
    let codec = reference.codec();
    for case in &reference.cases {
        // What looks like a control token is text: it is told in parts, not looked for.
        let text = Part::Text(format!(" {}", case.text));
        let ids = match case.text.is_empty() {
            true => Vec::new(),
            false => codec.encode(&[text]).expect("it encodes"),
        };
        assert_eq!(ids, case.ids, "{:?}", case.text);
        let plain = case.text.replace('▁', " ");
        assert_eq!(decoded(&codec, &ids), plain, "{:?}", case.text);
    }
}

#[test]
fn each_text_gets_its_space_and_marks_are_no_words() {
    let codec = Reference::read().codec();
    let parts = codec.split("<s>a</s> b<think>");
    let text = |text: &str| Part::Text(text.into());
    let controls = [1, 2, 5].map(Part::Control);
    let [begin, end, think] = controls;
    assert_eq!(
        parts,
        [begin, text(" a"), end, text("  b"), think],
        "a user's own word that looks like a mark is one"
    );
    assert_eq!(codec.begin(), Some(1));
    assert_eq!(codec.end_tokens(), [2, 2]);
    assert!(codec.bytes_of(1, false).is_empty() && codec.bytes_of(0, false).is_empty());
    assert_eq!(codec.bytes_of(5, false), b"<think>");
    assert_eq!(codec.bytes_of(6 + 0xC3, false), [0xC3]);
    assert_eq!(codec.vocabulary(), 700);
}

#[test]
fn the_files_settings_count() {
    let mut metadata = Reference::read().metadata();
    metadata.push(("tokenizer.ggml.add_space_prefix", Value::Bool(false)));
    metadata.push(("tokenizer.ggml.add_bos_token", Value::Bool(false)));
    metadata.push(("tokenizer.ggml.eos_token_id", Value::U32(7)));
    let codec = codec(metadata).expect("it parses");
    assert_eq!(codec.split("a"), [Part::Text("a".into())]);
    assert_eq!(codec.begin(), None);
    assert_eq!(codec.end_tokens(), [2, 7]);
}

#[test]
fn vocabularies_that_could_not_read_everything_are_refused_by_name() {
    let refused = |change: fn(&mut Reference)| {
        let mut reference = Reference::read();
        change(&mut reference);
        codec(reference.metadata()).err().expect("refused")
    };
    assert!(refused(|all| all.scores.truncate(9)).contains("scores"));
    assert!(refused(|all| all.scores[400] = f32::NAN).contains("score is no number"));
    assert!(refused(|all| all.kinds[6] = 1).contains("byte"));
    assert!(refused(|all| all.kinds.truncate(9)).contains("kinds"));
}

proptest! {
    #[test]
    fn every_text_comes_back(text in "(\\PC|[a-z ]|\\n|\\s|[\\x00-\\x1f]){0,60}") {
        let codec = Reference::read().codec();
        let ids = codec.encode(&codec.split(&text)).expect("it encodes");
        let controls = ["<s>", "</s>", "<unk>", "<think>"];
        prop_assume!(!controls.iter().any(|control| text.contains(control)));
        prop_assert_eq!(decoded(&codec, &ids), text.replace('▁', " "));
    }
}
