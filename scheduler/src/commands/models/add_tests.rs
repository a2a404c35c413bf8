//! Models are added whole, with exactly the files that are used, or not at all.

use super::*;
use crate::models::{gguf::testing, load};

const CONFIG: &str = "{\"model_type\": \"llama\", \"num_hidden_layers\": 2, \"hidden_size\": 64, \
                      \"num_attention_heads\": 4}";

/// Adds a path under no name of its own choice, or this one.
fn add_as(dir: &Path, source: &Path, name: Option<&str>) -> Result<Added, AddError> {
    add(dir, source, Wish { name, owner: None })
}

/// The files of a folder, and what the refusal says.
type Case<'a> = (&'a [(&'a str, &'a [u8])], &'a str);

fn shard() -> Vec<u8> {
    let header = "{\"w\":{\"dtype\":\"F32\",\"shape\":[32,1],\"data_offsets\":[0,128]}}";
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + 128, 0);
    bytes
}

fn folder(dir: &Path, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = dir.join("My Model");
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    folder
}

fn gguf(dir: &Path, more: &[(&str, u32)]) -> PathBuf {
    let sizes = [
        ("llama.block_count", 2),
        ("llama.embedding_length", 64),
        ("llama.attention.head_count", 4),
    ];
    let path = dir.join("Some Model.Q8_0.gguf");
    fs::write(&path, testing::file("llama", &[&sizes, more].concat())).unwrap();
    path
}

#[test]
fn a_sharded_folder_is_added_with_what_is_used_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let index =
        "{\"weight_map\": {\"a\": \"model-1.safetensors\", \"b\": \"model-2.safetensors\"}}";
    let source = folder(
        dir.path(),
        &[
            ("config.json", CONFIG.as_bytes()),
            ("tokenizer.json", b"{}"),
            ("1_Pooling/config.json", b"{}"),
            (INDEX, index.as_bytes()),
            ("model-1.safetensors", &shard()),
            ("model-2.safetensors", &shard()),
            ("pytorch_model.bin", b"code"),
            (".git/config", b"x"),
        ],
    );
    let models = dir.path().join("models");
    let added = add(
        &models,
        &source,
        Wish {
            name: None,
            owner: Some("acme"),
        },
    )
    .unwrap();
    assert_eq!((added.name.as_str(), added.family), ("my-model", "llama"));
    assert_eq!(added.cost.weights_bytes, 2 * 128);
    let manifest = load(&models.join("my-model")).unwrap();
    assert_eq!(manifest.owner.as_deref(), Some("acme"));
    let mut names: Vec<_> = manifest.files.iter().map(|f| f.name.as_str()).collect();
    names.sort_unstable();
    let expected = [
        "1_Pooling/config.json",
        "config.json",
        "model-1.safetensors",
        "model-2.safetensors",
        INDEX,
        "tokenizer.json",
    ];
    assert_eq!(names, expected);
    assert!(!models.join("my-model/pytorch_model.bin").exists());
    let again = add_as(&models, &source, None).unwrap_err();
    assert!(
        again.to_string().contains("models remove my-model"),
        "{again}"
    );
}

#[test]
fn a_gguf_file_of_any_name_is_added_and_a_part_of_several_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    let added = add_as(&models, &gguf(dir.path(), &[]), None).unwrap();
    assert_eq!(
        (added.name.as_str(), added.format),
        ("some-model.q8_0", Format::Gguf)
    );
    assert!(models.join("some-model.q8_0").join(GGUF_FILE).is_file());

    let part = gguf(dir.path(), &[("split.count", 3)]);
    let error = add_as(&models, &part, Some("part"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("one part of several"), "{error}");
}

#[test]
fn what_cannot_work_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let models = dir.path().join("models");
    fs::create_dir(&models).unwrap();
    let whole = shard();
    let (config, tokenizer) = (
        ("config.json", CONFIG.as_bytes()),
        ("tokenizer.json", &b"{}"[..]),
    );
    let outside = b"{\"weight_map\": {\"a\": \"../../secret.safetensors\"}}";
    let cases: [Case<'_>; 5] = [
        (
            &[
                ("config.json", b"{\"model_type\": \"gpt2\"}"),
                tokenizer,
                (WEIGHTS, &whole),
            ],
            "gpt2",
        ),
        (&[config, tokenizer], "neither"),
        (&[config, (WEIGHTS, &whole)], "no tokenizer.json"),
        (&[config, tokenizer, (WEIGHTS, &whole[..70])], "cut short"),
        (&[config, tokenizer, (INDEX, outside)], "secret"),
    ];
    for (files, part) in cases {
        let source = folder(dir.path(), files);
        let error = add_as(&models, &source, None).unwrap_err().to_string();
        assert!(error.contains(part), "{error} should name {part}");
        fs::remove_dir_all(source).unwrap();
    }
    for bad in ["../x", "Upper", "null", ""] {
        assert!(
            add_as(&models, &gguf(dir.path(), &[]), Some(bad)).is_err(),
            "{bad}"
        );
    }
    assert_eq!(fs::read_dir(&models).unwrap().count(), 0);
}
