//! GGUF files whose metadata claims what cannot be.

use crate::model::{Case, case, cases};
use crate::{message, single};
use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::Value as Entry;

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
                let _ = single(&changed(&case, &key, lie));
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
        let error = message(single(&changed(&case, key, lie)));
        assert!(
            error.contains("model.gguf") && error.contains(named),
            "{key}: {error}"
        );
    }
}
