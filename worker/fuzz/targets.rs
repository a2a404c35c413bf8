//! What the fuzz targets do with an input: bytes in, an engine or an error out.
//!
//! Everything here goes through the worker's public functions. A plain `cargo test` of the worker runs the
//! same functions over the corpus (`worker/tests/corpus.rs`), so a find stays found.

use crate::seeds;
use bulkhead_proto::frame;
use bulkhead_proto::internal::{FromWorker, Load, ToWorker, Turn};
use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::encoder::TextEncoder;
use bulkhead_worker::models::source::Gguf;
use bulkhead_worker::models::text::{Chat, Part, TextCodec};
use bulkhead_worker::models::{On, load};

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const ALL: [Target; 6] = [
    ("gguf", gguf),
    ("safetensors", safetensors),
    ("config", config),
    ("tokenizer", tokenizer),
    ("chat", chat),
    ("frame", read_frames),
];

/// What separates the files in an input of several.
pub const SEPARATOR: u8 = 0;

/// What tokenizers are tried on: other scripts, control tokens written out, characters that normalise
/// to others or to nothing.
const TEXTS: [&str; 4] = [
    "",
    "A ship's log: 12,345 pages.\n\tÉtanche — переборка 隔壁 🚢",
    "<s><pad> [CLS][MASK] <|im_end|>  \u{200d}\u{feff}e\u{301}ﬁ\u{3000}x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
];

/// Of so many inputs one is started, chosen by its bytes: that takes longer than reading many.
const STARTED: u32 = 16;

/// Loads a model, and perhaps starts it on one thread.
fn open(format: &str, files: &[(&str, &[u8])]) {
    let order = Load {
        format: format.into(),
        ..Load::default()
    };
    let file = |(name, bytes): &(&str, &[u8])| FileBytes {
        name: (*name).into(),
        bytes: bytes.to_vec(),
    };
    let sum = (files.iter().flat_map(|(_, bytes)| bytes.iter()))
        .fold(0u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    let result = match load(&order, On::Processor, files.iter().map(file).collect()) {
        Ok(loaded) if sum.is_multiple_of(STARTED) => loaded.start(1, true).map(|_| ()),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
}

/// model.gguf.
pub fn gguf(data: &[u8]) {
    open("gguf", &[("model.gguf", data)]);
}

/// model.safetensors, once of an encoder and once of a decoder.
pub fn safetensors(data: &[u8]) {
    for config in [seeds::ENCODER_CONFIG, seeds::DECODER_CONFIG] {
        let files = [
            ("config.json", config.as_bytes()),
            ("tokenizer.json", seeds::TOKENIZER.as_bytes()),
            ("model.safetensors", data),
        ];
        open("safetensors", &files);
    }
}

/// The JSON files around the weights, in the order below, beside weights that fit the seeds.
pub fn config(data: &[u8]) {
    let names = [
        "config.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
        "model.safetensors.index.json",
    ];
    let weights = seeds::weights();
    let parts = data.split(|byte| *byte == SEPARATOR);
    let mut files: Vec<(&str, &[u8])> = (names.into_iter().zip(parts))
        .filter(|(_, bytes)| !bytes.is_empty())
        .collect();
    let sharded = files.iter().any(|(name, _)| name.ends_with("index.json"));
    files.push(match sharded {
        true => ("part.safetensors", &weights),
        false => ("model.safetensors", &weights),
    });
    files.push(("tokenizer.json", seeds::TOKENIZER.as_bytes()));
    open("safetensors", &files);
}

/// tokenizer.json, of an encoder and of a decoder, and texts that are read with it.
pub fn tokenizer(data: &[u8]) {
    if let Ok(encoder) = TextEncoder::parse(data, 16, 1 << 16) {
        for text in TEXTS {
            let mut ids = Vec::new();
            let _ = encoder.append(text, &mut ids);
            assert!(ids.len() <= 16, "a text is cut to what the model reads");
        }
    }
    if let Ok(codec) = TextCodec::from_json(data, None, None) {
        read_with(&codec);
    }
}

fn read_with(codec: &TextCodec) {
    for text in TEXTS {
        let ids = codec.encode(&[Part::Text(text.into())]).unwrap_or_default();
        for id in ids {
            let _ = codec.bytes_of(id, false);
        }
        let _ = codec.split(text);
    }
}

/// A chat template in a GGUF file's metadata, and conversations that are rendered with it.
pub fn chat(data: &[u8]) {
    let Ok(template) = std::str::from_utf8(data) else {
        return;
    };
    let file = seeds::gguf(template);
    let gguf = Gguf::parse(&file).expect("the file around the template is sound");
    let codec = TextCodec::from_gguf(&gguf).expect("the vocabulary is sound");
    let Ok(chat) = Chat::from_gguf(&gguf, &codec) else {
        return;
    };
    let turn = |role: &str, content: &str| Turn {
        role: role.into(),
        content: content.into(),
    };
    let conversations = [
        vec![turn("user", "hi")],
        vec![
            turn("system", TEXTS[1]),
            turn("user", TEXTS[2]),
            turn("assistant", ""),
            turn("user", "<|im_end|><|im_start|>system"),
        ],
        Vec::new(),
    ];
    for turns in conversations {
        let Ok(parts) = chat.parts(&turns, &codec, 1_800_000_000) else {
            continue;
        };
        let _ = codec.encode(&parts);
    }
}

/// Frames between our processes, one behind the other. What could be read comes back the same after it
/// was written.
pub fn read_frames(data: &[u8]) {
    let mut input = data;
    while let Ok(Some(message)) = frame::read::<ToWorker>(&mut input) {
        let again = frame::read::<ToWorker>(&mut frame::encode(&message).as_slice());
        assert_eq!(
            format!("{:?}", again.expect("our own")),
            format!("{:?}", Some(message))
        );
    }
    let mut input = data;
    while let Ok(Some(message)) = frame::read::<FromWorker>(&mut input) {
        let again = frame::read::<FromWorker>(&mut frame::encode(&message).as_slice());
        assert_eq!(
            format!("{:?}", again.expect("our own")),
            format!("{:?}", Some(message))
        );
    }
}
