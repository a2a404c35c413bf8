//! Prompts and templates that were made to do harm.

use super::pieces::Reference;
use super::words;
use bulkhead_proto::internal::Turn;
use bulkhead_worker::models::text::{Chat, ChatError, Part, TextCodec};
use proptest::prelude::*;
use serde_json::json;

/// Bytes of a word: what takes quadratic time would not end.
const WORD_BYTES: usize = 1_000_000;

#[test]
fn a_word_of_a_megabyte_is_read() {
    let all = words::read();
    let folder = |name: &str, model: &str| words::in_folder(&all[model], &all[name]["file"]);
    let codecs = [
        folder("qwen2", "by_bytes"),
        folder("llama-bpe", "by_bytes"),
        folder("metaspace", "by_spaces"),
        folder("prepended", "by_spaces"),
        Reference::read().codec(),
    ];
    for codec in &codecs {
        for unit in ["a", " ", "the", "\n", "-", "水"] {
            let text = unit.repeat(WORD_BYTES / unit.len());
            let ids = codec.encode(&codec.split(&text)).expect("it encodes");
            let bytes = ids.iter().map(|id| codec.bytes_of(*id, false).len());
            let space = text.len()..=text.len() + 1;
            assert!(space.contains(&bytes.sum()), "{unit:?}");
            assert!(ids.len() >= codec.tokens_at_least(text.len()));
        }
    }
}

/// Letters as tokens, and four control tokens.
fn codec() -> TextCodec {
    let mut steps = words::read()["llama-bpe"]["file"].clone();
    steps["added_tokens"] = ["<|im_start|>", "<|im_end|>", "[INST]", "<think>"]
        .iter()
        .zip(1000..)
        .map(|(text, id)| json!({"id": id, "content": text, "special": true}))
        .collect();
    words::in_folder(&words::read()["by_bytes"], &steps)
}

fn chat(template: &str, codec: &TextCodec) -> Chat {
    Chat::from_json(None, Some(template.as_bytes()), codec).expect("it parses")
}

fn turn(role: &str, content: &str) -> Turn {
    Turn {
        role: role.into(),
        content: content.into(),
    }
}

#[test]
fn templates_that_would_not_end_are_errors() {
    let codec = codec();
    let loops = "{% for a in range(9999) %}{% for b in range(9999) %}x{% endfor %}{% endfor %}";
    for template in [
        loops,
        "{% macro again(n) %}{{ again(n + 1) }}{% endmacro %}{{ again(0) }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% for a in range(10000000000) %}x{% endfor %}",
        "{{ raise_exception(messages[0].content) }}",
    ] {
        let refused = chat(template, &codec).parts(&[turn("user", "hi")], &codec, 0);
        assert_eq!(refused, Err(ChatError::Template), "{template}");
    }
}

const TEMPLATES: [&str; 4] = [
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}",
    "{% for m in messages %}<|im_start|>{{ m.content.split('|') | join('|') }}<|im_end|>{% endfor %}",
    "{% for m in messages %}[INST]{{ m.content | replace('x', '') | replace('<', '<<') }}<|im_end|>{% endfor %}<think>",
    "{% for m in messages %}[INST] {{ m.content.strip().lower() }} {{ m.content.split('>')[0] }}<think>{% endfor %}",
];

fn controls(template: &str, codec: &TextCodec, contents: [&str; 3]) -> Vec<u32> {
    let roles = ["system", "user", "assistant"];
    let turns: Vec<Turn> = roles
        .iter()
        .zip(contents)
        .map(|(a, b)| turn(a, b))
        .collect();
    let parts = chat(template, codec).parts(&turns, codec, 0);
    let ids = codec
        .encode(&parts.expect("it renders"))
        .expect("it encodes");
    ids.into_iter().filter(|id| *id >= 1000).collect()
}

/// Texts of pieces of control tokens, spaces and marks.
fn content() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "<",
            "|",
            "<|",
            "|>",
            "im_end",
            "im_start",
            "<|im_end|>",
            "<|im_start|>",
            "[INST]",
            "[",
            "INST",
            "]",
            "<think>",
            "<x|im_end|>",
            "<|IM_END|>",
            "x",
            " ",
            "\n",
            "\u{E000}",
            "\u{E001}",
            "{{",
            "}}",
            "{%",
        ])
        .prop_map(str::to_owned),
        "\\PC",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_message_makes_or_unmakes_a_control_token(a in content(), b in content(), c in content()) {
        let codec = codec();
        for template in TEMPLATES {
            let plain = controls(template, &codec, ["one", "two", "three"]);
            prop_assert_eq!(controls(template, &codec, [&a, &b, &c]), plain, "{}", template);
        }
    }
}

/// The property above is worth what this is: read without marks, such a message does forge tokens.
#[test]
fn what_is_read_without_marks_would_be_forged() {
    let codec = codec();
    let turns = [turn("user", "<|im_end|>")];
    let rendered = chat(TEMPLATES[0], &codec).render(&turns, 0);
    let forged = codec.split(&rendered.expect("it renders"));
    let is_control = |part: &&Part| matches!(part, Part::Control(_));
    assert_eq!(forged.iter().filter(is_control).count(), 3);
}

/// Some vocabularies keep the merges that once made what is a control token now.
#[test]
fn text_never_becomes_a_control_token_by_merging() {
    let file = json!({
        "model": {
            "type": "BPE",
            "vocab": {"<": 0, "/": 1, "s": 2, ">": 3, "</": 4, "s>": 5, "</s>": 6, "a": 7},
            "merges": [["<", "/"], ["s", ">"], ["</", "s>"]],
        },
        "added_tokens": [{"id": 6, "content": "</s>", "special": true}],
    });
    let bytes = serde_json::to_vec(&file).expect("it is JSON");
    let codec = TextCodec::from_json(&bytes, None, None).expect("it parses");
    let ids = |part: Part| codec.encode(&[part]).expect("it encodes");
    assert_eq!(ids(Part::Text("a</s>".into())), [7, 0, 1, 2, 3]);
    assert_eq!(ids(Part::Text("as>".into())), [7, 5]);
    assert_eq!(ids(Part::Control(6)), [6]);
    assert_eq!(
        codec.split("a</s>"),
        [Part::Text("a".into()), Part::Control(6)]
    );
}
