//! Every family against what transformers computes: ragged batches, in any order, alone or together,
//! prompts in pieces; from every kind of file.

use super::drive::{answers, apart, logits, stopped};
use super::model::{Case, case, cases, on_candle, on_cpu};
use crate::fixture::cosine;
use bulkhead_worker::models::decoder::{Checkpoint, Decoder};
use bulkhead_worker::models::source::Gguf;
use candle_core::quantized::GgmlDType;
use safetensors::Dtype;
use serde_json::Value;

/// What a decoder in f32 has to agree to.
const COSINE_MIN: f64 = 0.999_999;
/// How far the same logits may be apart when computed by candle, or by candle in another company. Ours may not be
/// apart at all.
const APART_MAX: f32 = 1e-4;

/// The least cosine with the reference.
fn agreement(case: &Case, logits: &[Vec<f32>]) -> f64 {
    let each = case
        .logits
        .iter()
        .zip(logits)
        .map(|(want, got)| cosine(want, got));
    each.fold(1.0, f64::min)
}

fn from_folder(case: &Case, dtype: Dtype) -> Box<dyn Decoder> {
    on_cpu(case.open(case.single(dtype)).expect("its shape is known")).expect("it loads")
}

/// All that has to hold of a decoder for a case.
fn check(case: &Case, decoder: &mut dyn Decoder, apart_max: f32, what: &str) {
    let prompts = &case.prompts;
    let together = logits(decoder, prompts, &[usize::MAX; 3]);
    let worst = agreement(case, &together);
    println!("{} {what}: cosine {worst:.9}", case.name);
    assert!(worst >= COSINE_MIN, "{} {what}: {worst}", case.name);
    for pieces in [[1, 1, 1], [3, 5, 16], [16, 1, 9]] {
        let apart = apart(&together, &logits(decoder, prompts, &pieces));
        assert!(
            apart <= apart_max,
            "{} {what} in {pieces:?}: {apart}",
            case.name
        );
    }
    let reversed: Vec<_> = prompts.iter().rev().cloned().collect();
    let mut other = logits(decoder, &reversed, &[4, 4, 4]);
    other.reverse();
    assert!(
        apart(&together, &other) <= apart_max,
        "{} {what} reversed",
        case.name
    );
    let count = case.answers[0].len();
    assert_eq!(
        answers(decoder, prompts, count),
        case.answers,
        "{} {what}",
        case.name
    );
    for (prompt, answer) in prompts.iter().zip(&case.answers) {
        let alone = answers(decoder, std::slice::from_ref(prompt), count);
        assert_eq!(
            alone,
            std::slice::from_ref(answer),
            "{} {what} alone",
            case.name
        );
    }
}

#[test]
fn every_family_agrees_with_the_reference() {
    for case in cases() {
        check(&case, from_folder(&case, Dtype::F32).as_mut(), 0.0, "f32");
    }
}

#[test]
fn formats_of_16_bits_and_shards_agree_with_the_reference() {
    for case in cases().into_iter().filter(|case| case.bits == 7) {
        for dtype in [Dtype::BF16, Dtype::F16] {
            check(
                &case,
                from_folder(&case, dtype).as_mut(),
                0.0,
                &format!("{dtype:?}"),
            );
            let shards = case
                .open(case.sharded(dtype, 3))
                .expect("its shape is known");
            let mut decoder = on_cpu(shards).expect("it loads");
            check(
                &case,
                decoder.as_mut(),
                0.0,
                &format!("{dtype:?} in three files"),
            );
        }
    }
}

#[test]
fn gguf_agrees_with_the_reference() {
    for mut case in cases() {
        if case.family().starts_with("qwen") {
            // GGUF says of no layer of these that it has a window.
            case.config["use_sliding_window"] = false.into();
            let folder = from_folder(&case, Dtype::F32);
            agree_without_reference(&case, folder);
        } else {
            for (dtype, least) in [
                (GgmlDType::F32, COSINE_MIN),
                (GgmlDType::F16, 0.999_99),
                (GgmlDType::BF16, 0.999),
                (GgmlDType::Q8_0, 0.999),
            ] {
                let got = from_gguf(&case, &case.gguf(dtype));
                let worst = agreement(&case, &got);
                println!("{} gguf {dtype:?}: cosine {worst:.9}", case.name);
                assert!(worst >= least, "{} {dtype:?}: {worst}", case.name);
            }
        }
    }
}

/// Logits after each prompt of the case, from a GGUF file.
fn from_gguf(case: &Case, bytes: &[u8]) -> Vec<Vec<f32>> {
    let gguf = Gguf::parse(bytes).expect("it parses");
    let checkpoint = Checkpoint::gguf(&gguf).expect("its shape is known");
    let mut decoder = on_cpu(checkpoint).expect("it loads");
    logits(decoder.as_mut(), &case.prompts, &[usize::MAX; 3])
}

#[test]
fn quantised_gguf_computes_what_its_weights_say() {
    for case in cases() {
        for dtype in [
            GgmlDType::Q8_0,
            GgmlDType::Q5_1,
            GgmlDType::Q5_0,
            GgmlDType::Q4_1,
            GgmlDType::Q4_0,
        ] {
            let want = from_gguf(&case, &case.gguf_rounded(dtype));
            let got = from_gguf(&case, &case.gguf(dtype));
            let each = want.iter().zip(&got).map(|(want, got)| cosine(want, got));
            let worst = each.fold(1.0, f64::min);
            println!(
                "{} {dtype:?} as its weights say: cosine {worst:.9}",
                case.name
            );
            assert!(worst >= COSINE_MIN, "{} {dtype:?}: {worst}", case.name);
        }
    }
}

/// The GGUF and the folder of one model compute the same.
fn agree_without_reference(case: &Case, mut folder: Box<dyn Decoder>) {
    let want = logits(folder.as_mut(), &case.prompts, &[usize::MAX; 3]);
    let got = from_gguf(case, &case.gguf(GgmlDType::F32));
    let apart = apart(&want, &got);
    println!("{} gguf: {apart} from its folder", case.name);
    assert!(apart < APART_MAX, "{}: {apart}", case.name);
}

#[test]
fn the_twin_on_candle_agrees_with_the_reference_and_with_the_fast_one() {
    for case in cases() {
        for dtype in [Dtype::F32, Dtype::BF16] {
            if dtype == Dtype::BF16 && case.bits != 7 {
                continue;
            }
            let checkpoint = case
                .open(case.sharded(dtype, 2))
                .expect("its shape is known");
            let mut twin = on_candle(checkpoint).expect("it loads");
            check(
                &case,
                twin.as_mut(),
                APART_MAX,
                &format!("{dtype:?} on candle"),
            );
            let mut fast = from_folder(&case, dtype);
            let want = logits(fast.as_mut(), &case.prompts, &[5, 16, 30]);
            let got = logits(twin.as_mut(), &case.prompts, &[5, 16, 30]);
            assert!(apart(&want, &got) < APART_MAX, "{}", case.name);
        }
    }
}

/// Another pass goes through the same buffers at every stop, and they are scrubbed.
#[test]
fn a_pass_that_is_left_before_every_stage_computes_the_same_on_either_device() {
    for case in cases() {
        let open = || {
            case.open(case.single(Dtype::F32))
                .expect("its shape is known")
        };
        for (decoder, apart_max) in [(on_cpu(open()), 0.0), (on_candle(open()), APART_MAX)] {
            let mut decoder = decoder.expect("it loads");
            let decoder = decoder.as_mut();
            let want = logits(decoder, &case.prompts, &[usize::MAX; 3]);
            let (others, all) = (&case.prompts[..1], case.prompts.len());
            let got = stopped(decoder, &case.prompts, all, others, (0, None));
            assert!(apart(&want, &got) <= apart_max, "{}", case.name);
            let layers = decoder.shape().layers;
            for (at, dropped) in [(1, 0), (layers - 1, 1), (layers, 1), (layers, 2)] {
                let stop = (at, Some(dropped));
                let got = stopped(decoder, &case.prompts, all, others, stop);
                let mut want = want.clone();
                want.remove(dropped);
                assert!(
                    apart(&want, &got) <= apart_max,
                    "{} without {dropped}",
                    case.name
                );
            }
            // Only the first answers: without it there is nothing to compute at the end.
            for (dropped, left) in [(0, &[][..]), (1, &want[..1])] {
                for at in [layers - 1, layers] {
                    let stop = (at, Some(dropped));
                    let got = stopped(decoder, &case.prompts, 1, others, stop);
                    assert_eq!(got.len(), left.len());
                    assert!(apart(left, &got) <= apart_max, "{}", case.name);
                }
            }
        }
    }
}

#[test]
fn the_twin_on_candle_computes_with_a_files_own_blocks() {
    for case in cases() {
        let bytes = case.gguf(GgmlDType::Q8_0);
        let gguf = Gguf::parse(&bytes).expect("it parses");
        let checkpoint = || Checkpoint::gguf(&gguf).expect("its shape is known");
        let mut twin = on_candle(checkpoint()).expect("it loads");
        let mut fast = on_cpu(checkpoint()).expect("it loads");
        let want = logits(fast.as_mut(), &case.prompts, &[usize::MAX; 3]);
        let got = logits(twin.as_mut(), &case.prompts, &[usize::MAX; 3]);
        // candle rounds activations to 8 bits where weights are blocks.
        for (want, got) in want.iter().zip(&got) {
            let alike = cosine(want, got);
            println!(
                "{} Q8_0 on candle: cosine {alike:.6} with the fast one",
                case.name
            );
            assert!(alike > 0.998, "{}: {alike}", case.name);
        }
        assert!(twin.shape().weights_bytes < fast.shape().weights_bytes);
    }
}

#[test]
fn blocks_are_zero_once_cleaned_on_either() {
    let case = case("qwen3_wide_heads_tied");
    let open = || {
        case.open(case.single(Dtype::F32))
            .expect("its shape is known")
    };
    for mut decoder in [
        on_cpu(open()).expect("it loads"),
        on_candle(open()).expect("it loads"),
    ] {
        let first = logits(decoder.as_mut(), &case.prompts, &[usize::MAX; 3]);
        let block = decoder.shape().block_bytes;
        let scrubbed = decoder.clean(0..16);
        assert_eq!(
            (scrubbed.zeroed, scrubbed.verified),
            (16 * block, 16 * block)
        );
        assert_eq!(scrubbed.residue, 0);
        assert!(decoder.scrub().zeroed > 0);
        // What is gone is not missed.
        let again = logits(decoder.as_mut(), &case.prompts, &[usize::MAX; 3]);
        assert!(apart(&first, &again) == 0.0);
    }
}

#[test]
fn each_thing_that_makes_a_family_counts() {
    type Change = fn(&mut Case);
    let without: [(&str, Change); 6] = [
        ("llama_linear", |case| {
            case.config["rope_scaling"] = Value::Null
        }),
        ("llama_llama3_tied_bias", |case| {
            case.config["rope_parameters"]["rope_type"] = "default".into();
        }),
        ("mistral_window", |case| {
            case.config["sliding_window"] = Value::Null
        }),
        ("qwen2_yarn_window", |case| {
            case.config["use_sliding_window"] = false.into()
        }),
        ("qwen2_yarn_window", |case| {
            case.config["rope_scaling"] = Value::Null
        }),
        ("qwen3_wide_heads_tied", |case| {
            case.config["layer_types"] = vec!["full_attention"; 3].into();
        }),
    ];
    for (name, change) in without {
        let mut case = case(name);
        change(&mut case);
        let mut decoder = from_folder(&case, Dtype::F32);
        let worst = agreement(
            &case,
            &logits(decoder.as_mut(), &case.prompts, &[usize::MAX; 3]),
        );
        assert!(worst < COSINE_MIN, "{name}: {worst} without");
    }
}

#[test]
fn a_decoder_says_what_its_weights_take() {
    let case = case("qwen2_yarn_window");
    let bytes = |dtype| from_folder(&case, dtype).shape().weights_bytes;
    let values: usize = case
        .tensors()
        .iter()
        .map(|tensor| tensor.values.len())
        .sum();
    let plain = bytes(Dtype::F32);
    // Norms are left out, and outputs are filled up to whole tiles.
    assert!(
        (3 * values as u64..5 * values as u64).contains(&plain),
        "{plain}"
    );
    assert!(bytes(Dtype::BF16) < plain * 6 / 10);
}
