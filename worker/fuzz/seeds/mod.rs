//! Small valid files, made by code: what the targets begin from, and what they put around an input.

mod weights;

use bulkhead_proto::frame;
use bulkhead_proto::internal::{
    Assign, EmbedJob, FromWorker, GenerateJob, Released, Step, ToWorker, Turn, Work, WorkItem,
    from_worker, to_worker, work_item::Job,
};
use weights::{decoder_names, encoder_tensors, safetensors};

pub use weights::{gguf, weights};

/// A tokenizer of BERT's kind.
pub const TOKENIZER: &str = r###"{"version":"1.0","added_tokens":[
{"id":1,"content":"[CLS]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},
"pre_tokenizer":{"type":"BertPreTokenizer"},
"post_processor":{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"[CLS]","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],
"pair":[],"special_tokens":{"[CLS]":{"id":"[CLS]","ids":[1],"tokens":["[CLS]"]}}},
"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,
"vocab":{"[UNK]":0,"[CLS]":1,"a":2,"##a":3,"ship":4,"##s":5,"log":6,":":7,"1":8,"##2":9,"ready":10,"x":11}}}"###;

/// A tokenizer of XLM-R's kind, with [`charsmap`] where it says MAP.
const UNIGRAM: &str = r#"{"version":"1.0","added_tokens":[],
"normalizer":{"type":"Sequence","normalizers":[{"type":"Precompiled","precompiled_charsmap":"MAP"},{"type":"NFKC"},
{"type":"Replace","pattern":{"Regex":" {2,}"},"content":" "}]},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"WhitespaceSplit"},
{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true}]},
"post_processor":{"type":"RobertaProcessing","sep":["</s>",2],"cls":["<s>",0],"trim_offsets":true,"add_prefix_space":true},
"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},
"model":{"type":"Unigram","unk_id":3,"byte_fallback":false,"vocab":[["<s>",0.0],["<pad>",0.0],["</s>",0.0],["<unk>",0.0],
["▁",-2.0],["a",-3.0],["▁ship",-4.5],["aa",-5.0],["1",-6.0]]}}"#;

/// A tokenizer of RoBERTa's kind.
const BYTES: &str = r#"{"version":"1.0","added_tokens":[
{"id":5,"content":"<|im_end|>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"normalizer":{"type":"NFC"},
"pre_tokenizer":{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
"behavior":"Isolated","invert":false},{"type":"Digits","individual_digits":true},
{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]},
"post_processor":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true},
"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true},
"model":{"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,
"fuse_unk":false,"byte_fallback":false,"ignore_merges":false,
"vocab":{"a":0,"b":1,"aa":2,"aab":3,"Ġ":4,"<|im_end|>":5},"merges":[["a","a"],["aa","b"]]}}"#;

/// Of the encoder whose weights are among [`weights`].
pub const ENCODER_CONFIG: &str = r#"{"model_type":"bert","hidden_size":32,"intermediate_size":32,
"num_attention_heads":2,"num_hidden_layers":1,"max_position_embeddings":16,"type_vocab_size":2,"vocab_size":12,
"hidden_act":"gelu","layer_norm_eps":1e-12,"pad_token_id":0,"position_embedding_type":"absolute"}"#;

/// Of the decoder whose weights are among [`weights`].
pub const DECODER_CONFIG: &str = r#"{"model_type":"qwen3","architectures":["Qwen3ForCausalLM"],"hidden_size":32,
"intermediate_size":32,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":16,"num_hidden_layers":1,
"max_position_embeddings":64,"vocab_size":12,"hidden_act":"silu","rms_norm_eps":1e-6,"rope_theta":10000.0,
"rope_scaling":{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":16},"tie_word_embeddings":true,
"use_sliding_window":false,"sliding_window":null,"attention_bias":false,"eos_token_id":5}"#;

const ROBERTA_CONFIG: &str = r#"{"model_type":"xlm-roberta","hidden_size":32,"intermediate_size":32,
"num_attention_heads":4,"num_hidden_layers":1,"max_position_embeddings":16,"type_vocab_size":2,"vocab_size":12,
"hidden_act":"gelu_new","layer_norm_eps":1e-5,"pad_token_id":1}"#;
const MODULES: &str = r#"[{"idx":0,"name":"0","path":"","type":"sentence_transformers.models.Transformer"},
{"idx":1,"name":"1","path":"1_Pooling","type":"sentence_transformers.models.Pooling"},
{"idx":2,"name":"2","path":"2_Normalize","type":"sentence_transformers.models.Normalize"}]"#;
const POOLING: &str = r#"{"word_embedding_dimension":32,"pooling_mode_cls_token":true,"pooling_mode_mean_tokens":false}"#;
const SENTENCES: &str = r#"{"max_seq_length":12,"do_lower_case":false}"#;
const TEMPLATE: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + \
    message['content'] | trim + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ \
    '<|im_start|>assistant\\n' }}{% else %}{{ raise_exception('no') }}{% endif %}";
const TEMPLATE_MACRO: &str = "{%- macro m(x, n=2) -%}{{ x[:n] | upper }}{%- endmacro -%}{{- bos_token }}\
    {%- set ns = namespace(i=0) %}{%- for t in messages if t.role != 'system' %}{%- set ns.i = ns.i + 1 %}\
    {{ loop.index0 ~ m(t.content, n=ns.i) }}{%- endfor %}{{ messages | tojson }}{{ range(3) | join(',') }}";

fn frames() -> Vec<u8> {
    let to = |message| {
        frame::encode(&ToWorker {
            message: Some(message),
        })
    };
    let from = |message| {
        frame::encode(&FromWorker {
            message: Some(message),
        })
    };
    let turn = Turn {
        role: "user".into(),
        content: "hi".into(),
    };
    let generate = GenerateJob {
        messages: vec![turn],
        max_tokens: 7,
        ..GenerateJob::default()
    };
    let items = [
        Job::Generate(generate),
        Job::Embed(EmbedJob {
            texts: vec!["one".into(), "two".into()],
        }),
    ];
    let item = |job| WorkItem {
        request: 3,
        job: Some(job),
        ..WorkItem::default()
    };
    let work = Work {
        items: items.into_iter().map(item).collect(),
    };
    let assign = Assign {
        tenant: "acme".into(),
        ..Assign::default()
    };
    [
        to(to_worker::Message::Assign(assign)),
        to(to_worker::Message::Work(work)),
        from(from_worker::Message::Step(Step::default())),
        from(from_worker::Message::Released(Released::default())),
    ]
    .concat()
}

/// SentencePiece's map of characters, in base64: one that makes b of a. A tree of 512 units of 4 bytes
/// whose root leads to unit 256 + 'a', whose leaf beside it leads to the text.
fn charsmap() -> String {
    let mut tree = [0u32; 512];
    let letter = u32::from(b'a');
    tree[0] = 256 << 10;
    tree[(256 ^ letter) as usize] = letter | 1 << 8 | 1 << 10;
    tree[(256 ^ letter ^ 1) as usize] = 1 << 31;
    let mut bytes = 2048u32.to_le_bytes().to_vec();
    bytes.extend(tree.iter().flat_map(|unit| unit.to_le_bytes()));
    // Three bytes are four digits: no padding is needed at the end.
    bytes.extend(b"b\0\0\0");
    bytes.truncate(bytes.len() / 3 * 3);
    base64(&bytes)
}

fn base64(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let four = |three: &[u8; 3]| {
        let bits = u32::from_be_bytes([0, three[0], three[1], three[2]]);
        [18, 12, 6, 0].map(|shift| char::from(digits[(bits >> shift & 63) as usize]))
    };
    bytes.as_chunks::<3>().0.iter().flat_map(four).collect()
}

/// The seeds of each target, by its name.
pub fn all() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let folder = |files: &[&str]| files.join("\0").into_bytes();
    let index = |tensors: &[(String, Vec<usize>)]| {
        let entry = |(name, _): &(String, _)| format!(r#""{name}":"part.safetensors""#);
        let entries: Vec<String> = tensors.iter().map(entry).collect();
        format!(r#"{{"weight_map":{{{}}}}}"#, entries.join(","))
    };
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("gguf", vec![gguf(TEMPLATE)]),
        (
            "safetensors",
            vec![
                safetensors(&encoder_tensors()),
                safetensors(&decoder_names()),
            ],
        ),
        (
            "config",
            vec![
                folder(&[ENCODER_CONFIG, MODULES, POOLING, SENTENCES]),
                folder(&[ROBERTA_CONFIG]),
                folder(&[
                    DECODER_CONFIG,
                    "",
                    "",
                    "",
                    r#"{"chat_template":"x"}"#,
                    r#"{"eos_token_id":[5]}"#,
                    TEMPLATE,
                ]),
                folder(&[
                    ENCODER_CONFIG,
                    "",
                    "",
                    "",
                    "",
                    "",
                    "",
                    &index(&encoder_tensors()),
                ]),
            ],
        ),
        (
            "tokenizer",
            vec![
                text(TOKENIZER),
                text(&UNIGRAM.replace("MAP", &charsmap())),
                text(BYTES),
            ],
        ),
        ("chat", vec![text(TEMPLATE), text(TEMPLATE_MACRO)]),
        ("frame", vec![frames()]),
    ]
}
