//! Texts that are encoded a piece at a time, cut where [`piece_end`] says.

use super::pieces::Reference;
use super::words;
use crate::fixture::{MINILM, files};
use bulkhead_worker::models::encoder::TextEncoder;
use bulkhead_worker::models::text::{PIECE_BYTES, Part, TextCodec, WORD_BYTES_MAX, piece_end};
use proptest::prelude::*;
use tokenizers::Tokenizer;

fn codecs() -> Vec<TextCodec> {
    let all = words::read();
    let folder = |name: &str, model: &str| words::in_folder(&all[model], &all[name]["file"]);
    vec![
        folder("qwen2", "by_bytes"),
        folder("llama-bpe", "by_bytes"),
        folder("metaspace", "by_spaces"),
        folder("prepended", "by_spaces"),
        Reference::read().codec(),
    ]
}

/// The parts of a text, cut into pieces of about `bytes`.
fn pieces(codec: &TextCodec, text: &str, bytes: usize) -> Vec<Part> {
    let mut cut = Vec::new();
    for part in codec.split(text) {
        let Part::Text(text) = part else {
            cut.push(part);
            continue;
        };
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(piece_end(rest, bytes));
            cut.push(Part::Text(piece.to_owned()));
            rest = more;
        }
    }
    cut
}

/// Words and what stands between them, so that two letters with a space between are never far.
fn writing() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        4 => "[a-z]{1,9}",
        1 => "[A-Z]?[a-z']{1,7}[.,;!?)]{0,2}",
        1 => "[0-9]{1,9}|\\PC{1,9}|[水密隔壁]{1,9}。?|[\n\t ]{1,5}|[🚢e\u{301}]{1,5}",
    ];
    prop::collection::vec(word, 1..60).prop_map(|words| words.join(" "))
}

proptest! {
    #[test]
    fn pieces_of_a_text_have_the_texts_tokens(text in writing(), bytes in 1usize..200) {
        for codec in codecs() {
            let whole = codec.encode(&codec.split(&text)).expect("it encodes");
            let cut = codec.encode(&pieces(&codec, &text, bytes)).expect("it encodes");
            prop_assert_eq!(cut, whole);
        }
    }
}

/// Scripts without spaces are cut at their own signs, which byte-level vocabularies know as ends of words.
#[test]
fn a_long_text_without_spaces_keeps_its_tokens_too() {
    let sentence = "水密隔壁把船分成許多小艙，一處進水不致沉沒。";
    let text = sentence.repeat(3 * (PIECE_BYTES + WORD_BYTES_MAX) / sentence.len());
    for codec in &codecs()[..2] {
        let whole = codec.encode(&codec.split(&text)).expect("it encodes");
        let cut = pieces(codec, &text, PIECE_BYTES);
        assert!(cut.len() > 3);
        assert_eq!(codec.encode(&cut).expect("it encodes"), whole);
    }
}

#[test]
fn an_encoders_long_texts_have_the_librarys_tokens() {
    let file = files("minilm", &MINILM[2..3]).remove(0).bytes;
    let mut library = Tokenizer::from_bytes(&file).expect("it parses");
    library
        .with_truncation(None)
        .expect("none")
        .with_padding(None);
    let encoder = TextEncoder::parse(&file, 1 << 15, 1 << 20).expect("it parses");
    let word = "étanche, the ship's log of 1912 says: 水密隔壁 🚢 ";
    for text in [
        word.repeat(9 * PIECE_BYTES / word.len()),
        " ".repeat(9 * PIECE_BYTES),
    ] {
        let mut ids = Vec::new();
        assert_eq!(encoder.append(&text, &mut ids), Some(false));
        let whole = library.encode_fast(text, true).expect("it encodes");
        assert!(
            ids == whole.get_ids(),
            "{} of {}",
            ids.len(),
            whole.get_ids().len()
        );
    }
}
