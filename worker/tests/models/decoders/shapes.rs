//! Shapes that no published model has: the fast decoder and its twin on candle, which share no arithmetic,
//! agree on them too.

use super::drive::{apart, logits};
use super::model::{Case, on_candle, on_cpu};
use crate::fixture::cosine;
use bulkhead_worker::models::decoder::Checkpoint;
use bulkhead_worker::models::source::Gguf;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde_json::{Value, json};

/// How far the same logits may be apart, computed by the one and by the other.
const APART_MAX: f32 = 2e-4;

/// Hidden, inner, layers, heads, key-value heads, head width, vocabulary, window.
const SHAPES: [[usize; 8]; 11] = [
    [4, 1, 1, 1, 1, 4, 1, 1],
    [36, 50, 2, 3, 1, 12, 33, 1000],
    [33, 31, 3, 5, 5, 4, 257, 3],
    [64, 64, 1, 8, 2, 8, 64, 16],
    [100, 7, 2, 2, 1, 68, 5, 17],
    [48, 96, 2, 6, 3, 16, 31, 1],
    [31, 129, 4, 7, 7, 8, 65, 2],
    [256, 32, 1, 4, 1, 64, 500, 40],
    [20, 20, 2, 9, 3, 20, 99, 15],
    [160, 1, 1, 2, 2, 128, 32, 33],
    K_QUANTS,
];

/// One whose rows are whole blocks of 256.
const K_QUANTS: [usize; 8] = [256, 512, 2, 8, 4, 32, 70, 20];

fn case(shape: [usize; 8], family: &str) -> Case {
    let [
        hidden,
        inner,
        layers,
        heads,
        kv_heads,
        width,
        vocabulary,
        window,
    ] = shape;
    let prompt = |length: u32| (0..length).map(|at| at * 31 % vocabulary as u32).collect();
    let config: Value = json!({
        "model_type": family,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": width,
        "vocab_size": vocabulary,
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "sliding_window": window,
        "use_sliding_window": true,
        "max_window_layers": layers / 2,
        "tie_word_embeddings": inner.is_multiple_of(2),
        "attention_bias": heads.is_multiple_of(3),
    });
    Case {
        name: format!("{shape:?}"),
        bits: 7,
        config,
        prompts: vec![prompt(1), prompt(17), prompt(47)],
        logits: Vec::new(),
        answers: Vec::new(),
    }
}

#[test]
fn odd_shapes_compute_the_same_on_either_device() {
    for shape in SHAPES {
        for family in ["llama", "mistral", "qwen2", "qwen3"] {
            for dtype in [Dtype::F32, Dtype::F16] {
                let case = case(shape, family);
                let open = || case.open(case.single(dtype)).expect("its shape is known");
                let mut fast = on_cpu(open()).expect("it loads");
                let mut twin = on_candle(open()).expect("it loads");
                for pieces in [[usize::MAX; 3], [1, 5, 16]] {
                    let want = logits(twin.as_mut(), &case.prompts, &pieces);
                    let got = logits(fast.as_mut(), &case.prompts, &pieces);
                    let apart = apart(&want, &got);
                    assert!(
                        apart < APART_MAX,
                        "{} {family} {dtype:?}: {apart}",
                        case.name
                    );
                }
            }
        }
    }
}

#[test]
fn k_quants_compute_what_their_weights_say() {
    for family in ["mistral", "qwen3"] {
        let case = case(K_QUANTS, family);
        for (dtype, least) in [
            // Taken over exactly.
            (GgmlDType::Q4K, 0.999_999),
            (GgmlDType::Q5K, 0.999_999),
            // Rounded once more, to 8 bits.
            (GgmlDType::Q2K, 0.997),
            (GgmlDType::Q3K, 0.997),
            (GgmlDType::Q6K, 0.997),
        ] {
            let computed = |bytes: &[u8]| {
                let gguf = Gguf::parse(bytes).expect("it parses");
                let checkpoint = Checkpoint::gguf(&gguf).expect("its shape is known");
                let mut decoder = on_cpu(checkpoint).expect("it loads");
                logits(decoder.as_mut(), &case.prompts, &[usize::MAX; 3])
            };
            let want = computed(&case.gguf_rounded(dtype));
            let got = computed(&case.gguf(dtype));
            let each = want.iter().zip(&got).map(|(want, got)| cosine(want, got));
            let worst = each.fold(1.0, f64::min);
            println!("{family} {dtype:?} as its weights say: cosine {worst:.9}");
            assert!(worst >= least, "{family} {dtype:?}: {worst}");
        }
    }
}
