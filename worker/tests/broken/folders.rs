//! Folders whose weights or config.json do not fit each other, or claim what cannot be.

use crate::model::{Tensor, case, cases, file};
use crate::{folder, message, whole};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

#[test]
fn each_tensor_that_is_missing_or_of_another_shape_is_named() {
    for name in ["qwen2_yarn_window", "qwen3_wide_heads_tied"] {
        let case = case(name);
        let tensors = case.tensors();
        for at in 0..tensors.len() {
            let mut fewer = tensors.clone();
            let missing = fewer.remove(at).name;
            let error = message(folder(&case.config_bytes(), file(&fewer, Dtype::F32)));
            assert!(error.contains(&missing), "{missing}: {error}");
            let mut others = tensors.clone();
            others[at].shape.insert(0, 1);
            let error = message(folder(&case.config_bytes(), file(&others, Dtype::F32)));
            assert!(error.contains(&missing), "{missing}: {error}");
            let mut others = tensors.clone();
            let rows = others[at].shape[0];
            let values = others[at].values.len();
            others[at].values.truncate(values / rows * (rows - 1));
            others[at].shape[0] = rows - 1;
            let error = message(folder(&case.config_bytes(), file(&others, Dtype::F32)));
            assert!(error.contains(&missing), "{missing}: {error}");
        }
    }
}

#[test]
fn kinds_of_numbers_that_cannot_be_read_are_named() {
    let case = case("llama_linear");
    let written: Vec<(Tensor, Vec<u8>)> = case
        .tensors()
        .into_iter()
        .map(|one| {
            (
                one.clone(),
                one.values.iter().flat_map(|x| x.to_le_bytes()).collect(),
            )
        })
        .collect();
    let views = written.iter().map(|(tensor, bytes)| {
        let dtype = if tensor.name.contains("v_proj") {
            Dtype::I32
        } else {
            Dtype::F32
        };
        let view = TensorView::new(dtype, tensor.shape.clone(), bytes).expect("it fits");
        (tensor.name.as_str(), view)
    });
    let error = message(folder(
        &case.config_bytes(),
        serialize(views, None).expect("it writes"),
    ));
    assert!(
        error.contains("I32") && error.contains("F32, F16 and BF16"),
        "{error}"
    );
}

/// What a number may be claimed to be.
fn lies() -> Vec<Value> {
    let numbers = [0i64, -1, 1, 2, 3, 5, 63, 65, 1 << 18, 1 << 40, i64::MAX];
    let mut all: Vec<Value> = numbers.iter().map(|number| json!(number)).collect();
    all.extend([
        json!(u64::MAX),
        json!(-0.5),
        json!(1e-300),
        json!(1e300),
        json!(2.5),
    ]);
    all.extend([json!("64"), json!([]), json!({}), json!(true), Value::Null]);
    all
}

#[test]
fn whatever_a_config_claims_there_is_an_answer() {
    for case in cases() {
        let weights = whole(&case);
        let keys = case.config.as_object().expect("an object").keys().cloned();
        for key in keys.chain([
            "rope_scaling".into(),
            "head_dim".into(),
            "layer_types".into(),
        ]) {
            for lie in lies() {
                let mut config = case.config.clone();
                config[&key] = lie;
                let _ = folder(config.to_string().as_bytes(), weights.clone());
            }
        }
        for key in ["rope_scaling", "rope_parameters"] {
            let inner = case.config[key].as_object().cloned().unwrap_or_default();
            for (inner, lie) in inner
                .keys()
                .flat_map(|key| lies().into_iter().map(move |lie| (key, lie)))
            {
                let mut config = case.config.clone();
                config[key][inner] = lie;
                let _ = folder(config.to_string().as_bytes(), weights.clone());
            }
        }
    }
}

#[test]
fn sizes_that_make_no_model_are_refused() {
    let case = case("llama_linear");
    let weights = whole(&case);
    let refused = |key: &str, lie: Value| {
        let mut config = case.config.clone();
        config[key] = lie;
        message(folder(config.to_string().as_bytes(), weights.clone()))
    };
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for lie in [
            json!(0),
            json!(-4),
            json!(u64::MAX),
            json!(1u64 << 40),
            json!(2.5),
        ] {
            let error = refused(key, lie);
            assert!(error.starts_with("config.json"), "{key}: {error}");
        }
    }
    assert!(refused("num_key_value_heads", json!(3)).contains("4 heads cannot share 3"));
    assert!(refused("head_dim", json!(6)).contains("6 wide"));
    for epsilon in [0.0, -1.0, 1e300] {
        assert!(refused("rms_norm_eps", json!(epsilon)).contains("epsilon"));
    }
    for base in [0.0, -10_000.0] {
        let rope = json!({"rope_type": "default", "rope_theta": base});
        assert!(refused("rope_scaling", rope).contains("rope base"));
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name_with_what_is() {
    let case = case("qwen2_yarn_window");
    let weights = whole(&case);
    let refused = |changes: Value| {
        let mut config = case.config.clone();
        for (key, value) in changes.as_object().expect("an object") {
            config[key] = value.clone();
        }
        message(folder(config.to_string().as_bytes(), weights.clone()))
    };
    for (changes, named, known) in [
        (
            json!({"model_type": "gemma3"}),
            "gemma3",
            "llama, mistral, qwen2 and qwen3",
        ),
        (json!({"model_type": "qwen2_moe"}), "qwen2_moe", "qwen3"),
        (json!({"model_type": null}), "architecture", "qwen3"),
        (
            json!({"architectures": ["Qwen2ForTokenClassification"]}),
            "TokenClassification",
            "text",
        ),
        (
            json!({"quantization_config": {"quant_method": "gptq"}}),
            "gptq",
            "GGUF",
        ),
        (json!({"hidden_act": "gelu"}), "gelu", "silu"),
        (json!({"mlp_bias": true}), "mlp_bias", ""),
        (
            json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            "dynamic",
            "linear, llama3 and yarn",
        ),
        (
            json!({"rope_scaling": {"rope_type": "longrope"}}),
            "longrope",
            "yarn",
        ),
        (
            json!({"rope_scaling": {"rope_type": "linear"}}),
            "factor",
            "",
        ),
        (
            json!({"rope_parameters": {"full_attention": {}}}),
            "by kind of layer",
            "",
        ),
        (
            json!({"partial_rotary_factor": 0.5}),
            "partial_rotary_factor",
            "",
        ),
        (
            json!({"layer_types": vec!["chunked_attention"; 3]}),
            "chunked_attention",
            "sliding_attention",
        ),
        (
            json!({"layer_types": ["full_attention"]}),
            "1 layer_types",
            "",
        ),
        (json!({"sliding_window": 0}), "sliding window", ""),
    ] {
        let error = refused(changes);
        assert!(error.contains(named) && error.contains(known), "{error}");
    }
}
