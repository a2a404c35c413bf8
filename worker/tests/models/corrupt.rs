//! Files that are truncated, garbled or missing: an error that names the file, never a panic.

use crate::fixture::{MINILM, files, load};
use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::LoadError;

/// The file that the error names.
fn refused(files: Vec<FileBytes>, format: &str) -> String {
    match load(files, format) {
        Ok(_) => panic!("it loaded"),
        Err(LoadError::Missing { file } | LoadError::Bad { file, .. }) => file,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn each_file_of_minilm_that_is_missing_cut_or_garbled_is_named() {
    for (at, name) in MINILM.iter().enumerate() {
        if *name != "sentence_bert_config.json" {
            let mut files = files("minilm", MINILM);
            files.remove(at);
            assert_eq!(refused(files, "bert"), *name);
        }
        let mut cut = files("minilm", MINILM);
        let half = cut[at].bytes.len() / 2;
        cut[at].bytes.truncate(half);
        assert_eq!(refused(cut, "bert"), *name);
        let mut garbled = files("minilm", MINILM);
        for byte in garbled[at].bytes.iter_mut().take(1000) {
            *byte = byte.wrapping_mul(31).wrapping_add(7);
        }
        assert_eq!(refused(garbled, "bert"), *name);
    }
}

#[test]
fn sizes_that_do_not_fit_the_weights_are_refused() {
    let lies = [
        ("\"hidden_size\": 384", "\"hidden_size\": 192"),
        (
            "\"vocab_size\": 30522",
            "\"vocab_size\": 18446744073709551615",
        ),
        ("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7"),
        ("\"num_attention_heads\": 12", "\"num_attention_heads\": 0"),
    ];
    for (truth, lie) in lies {
        let mut files = files("minilm", MINILM);
        let config = String::from_utf8(files[1].bytes.clone()).expect("JSON");
        assert!(config.contains(truth));
        files[1].bytes = config.replace(truth, lie).into_bytes();
        refused(files, "bert");
    }
}

#[test]
fn an_unknown_format_is_refused_with_the_known_ones() {
    let error = load(Vec::new(), "onnx").err().expect("refused");
    assert!(error.to_string().contains("\"gguf\""), "{error}");
}

#[test]
fn an_unknown_kind_of_model_is_refused_with_the_known_ones() {
    for config in [
        r#"{"model_type": "gemma3"}"#,
        r#"{"architectures": ["gemma3"]}"#,
    ] {
        let config = FileBytes {
            name: "config.json".into(),
            bytes: config.into(),
        };
        let error = load(vec![config], "safetensors").err().expect("refused");
        let error = error.to_string();
        assert!(
            error.contains("qwen3") && error.contains("xlm-roberta"),
            "{error}"
        );
    }
}
