//! Decoders' files that are cut, garbled or lie: an error that names what is wrong, never a panic, and never
//! much more memory than the files are large.
//!
//! The decoder is loaded without the net that the worker has below it for panics. The allocator is the
//! worker's own, which counts.

#[path = "models/decoders/gguf.rs"]
mod gguf;
#[path = "models/decoders/model.rs"]
mod model;

use bulkhead_kernels::{ZeroingAllocator, alloc};
use bulkhead_worker::models::LoadError;
use bulkhead_worker::models::decoder::{Checkpoint, Decoder, Row};
use bulkhead_worker::models::source::{Gguf, Safetensors};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Entry;
use model::{Case, Tensor, case, cases, file, named, on_candle, on_cpu};
use safetensors::Dtype;
use safetensors::tensor::{TensorView, serialize};
use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator;

/// What all of these tests together may have allocated at once, bytes. No file here is as large as 1 MB, and a
/// few tests run at once.
const ALLOCATED_MAX: u64 = 96 << 20;

/// Loads a folder and, if it can be loaded, computes a token.
fn folder(config: &[u8], weights: Vec<u8>) -> Result<(), LoadError> {
    let open = |weights| {
        let files = vec![named("model.safetensors", weights)];
        Checkpoint::folder(config, Safetensors::read(files)?)
    };
    let done = open(weights.clone()).and_then(on_cpu).map(computes);
    let twin = open(weights).and_then(on_candle).map(computes);
    assert_eq!(done.is_ok(), twin.is_ok(), "both devices are of one mind");
    within_bounds();
    done
}

/// Loads a GGUF file and, if it can be loaded, computes a token.
fn gguf(bytes: &[u8]) -> Result<(), LoadError> {
    let gguf = Gguf::parse(bytes)?;
    let done = Checkpoint::gguf(&gguf).and_then(on_cpu).map(computes);
    within_bounds();
    done
}

fn computes(mut decoder: Box<dyn Decoder>) {
    let row = Row {
        token: u32::MAX,
        position: 0,
        table: 0,
    };
    let logits = decoder.forward(&[row], &[0], &[&[3]]).expect("it computes");
    assert!(!logits.is_empty());
}

fn within_bounds() {
    let peak = alloc::snapshot().live_bytes_peak;
    assert!(peak < ALLOCATED_MAX, "{peak} bytes were allocated at once");
}

fn message(done: Result<(), LoadError>) -> String {
    done.expect_err("refused").to_string()
}

fn whole(case: &Case) -> Vec<u8> {
    file(&case.tensors(), Dtype::F32)
}

#[test]
fn the_whole_files_load() {
    for case in cases() {
        folder(&case.config_bytes(), whole(&case)).expect("whole");
        gguf(&case.gguf(GgmlDType::F32)).expect("whole");
    }
}

#[test]
fn files_that_are_cut_are_refused_by_name() {
    let case = case("llama_linear");
    let (folder_bytes, gguf_bytes) = (whole(&case), case.gguf(GgmlDType::Q8_0));
    for part in 0..100 {
        let cut = |bytes: &[u8]| bytes[..bytes.len() * part / 100].to_vec();
        let error = message(folder(&case.config_bytes(), cut(&folder_bytes)));
        assert!(error.contains("model.safetensors"), "{error}");
        let error = message(gguf(&cut(&gguf_bytes)));
        assert!(error.contains("model.gguf"), "{error}");
    }
    let config = case.config_bytes();
    for keep in 0..config.len() {
        let error = message(folder(&config[..keep], folder_bytes.clone()));
        assert!(error.contains("config.json"), "{error}");
    }
}

#[test]
fn bytes_that_are_changed_anywhere_in_a_header_get_an_answer() {
    let case = case("qwen3_wide_heads_tied");
    let weights = whole(&case);
    let header = 8 + u64::from_le_bytes(weights[..8].try_into().expect("eight")) as usize;
    for at in (0..header).step_by(7) {
        let mut changed = weights.clone();
        changed[at] = changed[at].wrapping_mul(29).wrapping_add(211);
        let _ = folder(&case.config_bytes(), changed);
    }
    let bytes = case.gguf(GgmlDType::Q8_0);
    for at in (0..3000).step_by(5) {
        let mut changed = bytes.clone();
        changed[at] = changed[at].wrapping_mul(29).wrapping_add(211);
        let _ = gguf(&changed);
    }
}

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

/// The metadata with one entry changed.
fn changed(case: &Case, key: &str, value: Entry) -> Vec<u8> {
    let mut metadata = case.metadata();
    metadata.retain(|(name, _)| name != key);
    metadata.push((key.into(), value));
    case.gguf_with(GgmlDType::Q8_0, metadata)
}

#[test]
fn whatever_metadata_claims_there_is_an_answer() {
    for case in cases() {
        for (key, _) in case.metadata() {
            for lie in [
                Entry::U64(u64::MAX),
                Entry::U64(1 << 40),
                Entry::U32(0),
                Entry::U32(1),
                Entry::U32(3),
                Entry::U32(1 << 18),
                Entry::I32(-1),
                Entry::F32(f32::NAN),
                Entry::F32(f32::INFINITY),
                Entry::F32(-1.0),
                Entry::F32(0.0),
                Entry::String("none".into()),
                Entry::Array(vec![Entry::U32(4); 5]),
                Entry::Bool(true),
            ] {
                let _ = gguf(&changed(&case, &key, lie));
            }
        }
    }
}

#[test]
fn metadata_that_makes_no_model_is_refused_by_name() {
    let case = case("llama_linear");
    for (key, lie, named) in [
        (
            "general.architecture",
            Entry::String("gemma2".into()),
            "llama, mistral, qwen2 and qwen3",
        ),
        (
            "llama.rope.scaling.type",
            Entry::String("longrope".into()),
            "none, linear and yarn",
        ),
        ("llama.rope.scaling.factor", Entry::F32(f32::NAN), "NaN"),
        ("llama.rope.freq_base", Entry::F32(-1.0), "rope base"),
        (
            "llama.attention.layer_norm_rms_epsilon",
            Entry::F32(f32::NAN),
            "epsilon",
        ),
        (
            "llama.attention.head_count",
            Entry::U32(0),
            "head_count is 0",
        ),
        (
            "llama.attention.head_count_kv",
            Entry::U32(3),
            "cannot share",
        ),
        (
            "llama.attention.value_length",
            Entry::U32(8),
            "value_length",
        ),
        (
            "llama.rope.dimension_count",
            Entry::U32(8),
            "dimension_count",
        ),
        ("llama.block_count", Entry::U64(u64::MAX), "block_count"),
        ("llama.block_count", Entry::U32(4), "blk.3."),
        ("llama.expert_count", Entry::U32(8), "experts"),
        ("split.count", Entry::U16(3), "merge them"),
        (
            "llama.context_length",
            Entry::String("long".into()),
            "context_length",
        ),
    ] {
        let error = message(gguf(&changed(&case, key, lie)));
        assert!(
            error.contains("model.gguf") && error.contains(named),
            "{key}: {error}"
        );
    }
}
