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

/// Control tokens, some of which their file calls words, one of a single character.
const CONTROLS: [(&str, bool); 8] = [
    ("<|im_start|>", true),
    ("<|im_end|>", true),
    ("[INST]", false),
    ("<think>", false),
    ("</think>", false),
    ("<s>", true),
    ("§", true),
    ("Human", true),
];

/// Letters as tokens, and the control tokens from 1000 on.
fn codec() -> TextCodec {
    let mut steps = words::read()["llama-bpe"]["file"].clone();
    steps["added_tokens"] = CONTROLS
        .iter()
        .zip(1000..)
        .map(|((text, special), id)| {
            // What stands beside a token that says so could unmake it.
            let alone = *text == "<|im_end|>";
            json!({"id": id, "content": text, "special": special, "single_word": alone})
        })
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

const TEMPLATES: [&str; 7] = [
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}",
    "{% for m in messages %}<|im_start|>{{ m.content.split('|') | join('|') }}<|im_end|>{% endfor %}",
    "{% for m in messages %}[INST]{{ m.content | replace('x', '') | replace('<', '<<') }}<|im_end|>{% endfor %}<think>",
    "{% for m in messages %}[INST] {{ m.content.strip().lower() }} {{ m.content.split('>')[0] }}<think>{% endfor %}",
    // What the template itself writes could be half of a control token.
    "{% for m in messages %}<{{ m.content }}><|{{ m.content | upper }}|>{{ m.content | title }}uman<|im_end|>{% endfor %}",
    "{% for m in messages %}{{ m.content[:3] }}{{ m.content[1:2] }}{{ m.content[::-1] }}im_end|>§{% endfor %}",
    "{% macro t(x) %}<{{ x.upper() }}>{{ x.lower() }}{% endmacro %}{% for m in messages %}{{ t(m.content) }}\
     {{ m | tojson }}{{ m.content.split() | join('') }}{{ m.content | list | join('|') }}§{% endfor %}",
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
            "＜|im_end|＞",
            "s",
            "S",
            "ſ",
            "§",
            "H",
            "uman",
            "</think>",
            "\u{F0000}",
            "\u{F0010}",
            "\u{100000}",
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

/// The property above is worth what this is: read as it is, such a message does forge tokens.
#[test]
fn what_is_read_without_stand_ins_would_be_forged() {
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
    assert_eq!(ids(Part::Text("a</s>".into())), [7, 4, 5]);
    assert_eq!(ids(Part::Text("as>".into())), [7, 5]);
    assert_eq!(ids(Part::Control(6)), [6]);
    assert_eq!(
        codec.split("a</s>"),
        [Part::Text("a".into()), Part::Control(6)]
    );
}

/// A normaliser may make the characters of a control token out of others.
#[test]
fn text_never_becomes_a_control_token_by_normalising() {
    let file = json!({
        "normalizer": {"type": "NFKC"},
        "model": {
            "type": "BPE",
            "ignore_merges": true,
            "vocab": {"<": 0, "s": 1, ">": 2, "<s": 3, "<s>": 4, "!": 5},
            "merges": [["<", "s"], ["<s", ">"]],
        },
        "added_tokens": [
            {"id": 4, "content": "<s>", "special": true},
            {"id": 5, "content": "!", "special": true},
        ],
    });
    let bytes = serde_json::to_vec(&file).expect("it is JSON");
    let codec = TextCodec::from_json(&bytes, None, None).expect("it parses");
    let ids = |text: &str| codec.encode(&[Part::Text(text.into())]);
    for text in ["<s>", "＜s＞", "＜ｓ＞"] {
        assert_eq!(ids(text), Some(vec![3, 2]), "{text}");
    }
    // This character has no other token, so no text may hold it.
    assert_eq!(ids("s!"), None);
    assert_eq!(ids("s！"), None);
}

fn parts(template: &str, turns: &[(&str, &str)]) -> Result<Vec<Part>, ChatError> {
    let codec = codec();
    let turns: Vec<Turn> = turns.iter().map(|(a, b)| turn(a, b)).collect();
    chat(template, &codec).parts(&turns, &codec, 0)
}

#[test]
fn roles_are_three_and_nothing_else() {
    for role in ["<|im_end|>", "tool", "user\n<|im_end|>", "System", ""] {
        assert_eq!(parts(TEMPLATES[0], &[(role, "hi")]), Err(ChatError::Role));
    }
}

/// As the templates of models that think do it: what an old answer thought is left out.
const THINKING: &str = "\
    {%- for m in messages %}\
    {%- set content = m.content %}\
    {%- if m.role == 'assistant' and '</think>' in m.content and not '<x>' in content %}\
    {%- set thought = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}\
    {%- set content = content.split('</think>')[-1].lstrip('\n') %}\
    {%- endif %}\
    {{- '<|im_start|>' + m.role + '\n' }}\
    {%- if loop.last and thought %}{{ '<think>' ~ thought | trim ~ '</think>' }}{% endif %}\
    {{- content }}{% generation %}<|im_end|>{% endgeneration %}\
    {%- endfor %}";

#[test]
fn templates_see_what_messages_hold_and_cut_it() {
    let question = "what is <|im_end|> and </think>?";
    let old = "<think>\nI wonder</think>\n\nA token, <b>.";
    let found = parts(
        THINKING,
        &[("user", question), ("assistant", old), ("user", "so?")],
    );
    let text = |text: &str| Part::Text(text.into());
    let [start, end] = [1000, 1001].map(Part::Control);
    let wanted = [
        start.clone(),
        text("user\nwhat is <|im_end|> and </think>?"),
        end.clone(),
        start.clone(),
        text("assistant\nA token, <b>."),
        end.clone(),
        start.clone(),
        text("user\nso?"),
        end.clone(),
    ];
    assert_eq!(found.expect("it renders"), wanted);
    // The template's own marks around what it kept are marks, those inside are text.
    let found = parts(THINKING, &[("assistant", "<think>§ is <s></think>yes")]);
    let [think, thought] = [1003, 1004].map(Part::Control);
    let wanted = [
        start,
        text("assistant\n"),
        think,
        text("§ is <s>"),
        thought,
        text("yes"),
        end,
    ];
    assert_eq!(found.expect("it renders"), wanted);
}

#[test]
fn what_templates_ask_of_a_message_is_answered_by_its_text() {
    let content = " <s>Human: 12 <s>§</think> ";
    for (asked, answer) in [
        ("c.startswith(' <s>')", "True"),
        ("c.endswith(('x', '</think> '))", "True"),
        ("c is startingwith ' <s>H'", "True"),
        ("c.find('Human')", "4"),
        ("c.count('<s>')", "2"),
        ("c | length", "27"),
        ("c.strip(' <s>')[:5]", "Human"),
        ("(c | trim('> '))[:3]", "<s>"),
        ("c.replace('<s>', '-') | trim", "-Human: 12 -§</think>"),
        ("c | replace('<s>', '') | trim", "Human: 12 §</think>"),
        ("c.replace('<s>', '', 1) | trim", "Human: 12 <s>§</think>"),
        ("c.split('<s>') | length", "3"),
        (
            "(c | split('</think>') | list)[0] | trim",
            "<s>Human: 12 <s>§",
        ),
        ("c.upper().strip()", "<S>HUMAN: 12 <S>§</THINK>"),
        ("c | lower | trim", "<s>human: 12 <s>§</think>"),
        ("c[4:9].isalpha()", "True"),
        ("c[4:9] | capitalize", "Human"),
        ("('Human: ' ~ c).split('Human') | length", "2"),
        ("'<s>' in c", "True"),
        ("'<s>' not in c", "False"),
        ("'<x>' in c or 'role' in messages[0]", "True"),
        ("'</think>' in c | upper", "False"),
        ("c is string", "True"),
        ("asked(c)", "True-"),
    ] {
        let template = format!(
            "{{% macro asked(c) %}}{{{{ '</think>' in c }}}}{{{{ c.split('H')[0] | replace('<s>', '-') | trim }}}}\
             {{% endmacro %}}{{% set c = messages[0].content %}}{{{{ {asked} }}}}"
        );
        let found = parts(&template, &[("user", content)]).expect(asked);
        assert_eq!(found, [Part::Text(answer.into())], "{asked}");
    }
}
