//! Tiny encoders of every family, pooling and activation against what sentence-transformers computes.

use crate::fixture::{STEP_LIMIT_NS, cosine, drain, embed_item, load, reference, values};
use crate::tiny::{CONTEXT, Tiny};
use bulkhead_proto::internal::Outcome;
use bulkhead_worker::engine::Engine;
use bulkhead_worker::load::FileBytes;
use bulkhead_worker::models::LoadError;
use bulkhead_worker::models::encoder::TextEncoder;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Value, json};

/// The least cosine to the reference, in every type of weights: they hold the same numbers.
const COSINE_MIN: f64 = 0.99999;
/// The most that a value may differ from the reference's.
const DIFFERENCE_MAX: f32 = 2e-5;

#[derive(Deserialize)]
struct Reference {
    texts: Vec<String>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    model_type: String,
    tokenizer: String,
    activation: String,
    pooling: String,
    normalise: bool,
    vectors: Vec<Vec<f32>>,
}

impl Case {
    fn tiny(&self) -> Tiny {
        Tiny {
            model_type: self.model_type.clone(),
            tokenizer: self.tokenizer.clone(),
            activation: self.activation.clone(),
            pooling: self.pooling.clone(),
            normalise: self.normalise,
            ..Tiny::bert()
        }
    }

    fn name(&self) -> String {
        format!(
            "{} {} {} {}",
            self.model_type, self.activation, self.pooling, self.normalise
        )
    }
}

fn known() -> Reference {
    reference("encoder/vectors.json")
}

fn engine(tiny: &Tiny) -> Box<dyn Engine> {
    let mut engine = load(tiny.files(), "bert").expect("the model loads");
    engine.assign(0, STEP_LIMIT_NS);
    engine
}

fn embed(engine: &mut dyn Engine, texts: &[&str]) -> Vec<Vec<f32>> {
    engine.add(embed_item(1, texts));
    let said = drain(engine);
    said.finished(1).vectors.iter().map(values).collect()
}

fn assert_same(got: &[f32], want: &[f32], what: &str) {
    let cosine = cosine(got, want);
    assert!(cosine >= COSINE_MIN, "{what}: {cosine}");
    for (got, want) in got.iter().zip(want) {
        assert!(
            (got - want).abs() <= DIFFERENCE_MAX,
            "{what}: {got} is not {want}"
        );
    }
}

#[test]
fn each_family_pooling_and_activation_meets_the_reference() {
    let known = known();
    for case in &known.cases {
        let mut engine = engine(&case.tiny());
        for (text, want) in known.texts.iter().zip(&case.vectors) {
            let got = embed(engine.as_mut(), &[text]);
            assert_same(&got[0], want, &format!("{} {text:?}", case.name()));
        }
    }
}

#[test]
fn weights_of_16_bits_meet_the_same_reference() {
    let known = known();
    for case in &known.cases {
        for dtype in [Dtype::BF16, Dtype::F16] {
            let tiny = Tiny {
                dtype,
                ..case.tiny()
            };
            let texts: Vec<&str> = known.texts.iter().map(String::as_str).collect();
            let got = embed(engine(&tiny).as_mut(), &texts);
            for (got, want) in got.iter().zip(&case.vectors) {
                assert_same(got, want, &format!("{} {dtype:?}", case.name()));
            }
        }
    }
}

#[test]
fn together_shuffled_and_in_the_least_steps_it_is_the_same_answer() {
    let known = known();
    for case in &known.cases {
        let mut engine = engine(&case.tiny());
        // A limit of no time at all is one piece a step, of all time is one step.
        for limit_ns in [1, u64::MAX] {
            engine.assign(0, limit_ns);
            for stride in [1, 3, 5] {
                // 3 and 5 have no factor in common with the number of texts, so each comes once.
                let order: Vec<usize> = (0..known.texts.len())
                    .map(|at| at * stride % known.texts.len())
                    .collect();
                let texts: Vec<&str> = order.iter().map(|at| known.texts[*at].as_str()).collect();
                let got = embed(engine.as_mut(), &texts);
                for (at, got) in order.iter().zip(got) {
                    assert_same(&got, &case.vectors[*at], &case.name());
                }
            }
        }
    }
}

#[test]
fn a_scrub_between_two_pieces_takes_nothing_from_the_batch_on_its_way() {
    let known = known();
    let case = &known.cases[0];
    let mut engine = engine(&case.tiny());
    engine.assign(0, 1);
    engine.add(embed_item(1, &known.texts));
    let now = crate::fixture::clock();
    let finished = loop {
        let step = engine.step(&now);
        if let Some(finished) = step.finished.into_iter().next() {
            break finished;
        }
        engine.scrub();
    };
    for (got, want) in finished.vectors.iter().zip(&case.vectors) {
        assert_same(&values(got), want, "scrubbed between");
    }
    let scrubbed = engine.scrub();
    assert!(scrubbed.verified > 0 && scrubbed.residue == 0);
    assert_eq!(engine.scrub().verified, 0);
}

#[test]
fn names_with_a_prefix_and_files_without_modules_are_read() {
    let known = known();
    let case = &known.cases[0];
    for prefix in ["bert.", "roberta.", "model."] {
        let tiny = Tiny {
            prefix,
            ..case.tiny()
        };
        let mut files = tiny.files();
        files.retain(|file| !matches!(&*file.name, "modules.json" | "1_Pooling/config.json"));
        let mut engine = load(files, "bert").expect("the model loads");
        let got = embed(engine.as_mut(), &[&known.texts[1]]);
        assert_same(&got[0], &case.vectors[1], prefix);
    }
}

#[test]
fn weights_in_two_files_are_those_of_one() {
    let known = known();
    let case = &known.cases[0];
    let mut engine = load(case.tiny().files_sharded(), "bert").expect("the model loads");
    let got = embed(engine.as_mut(), &[&known.texts[1]]);
    assert_same(&got[0], &case.vectors[1], "sharded");
    let mut files = case.tiny().files_sharded();
    files.retain(|file| file.name != "model-2-of-2.safetensors");
    assert!(refusal(files).contains("model-2-of-2.safetensors"));
}

#[test]
fn the_context_of_xlm_r_leaves_out_the_positions_before_its_first() {
    let tiny = Tiny::xlm_roberta();
    let mut files = tiny.files();
    files.retain(|file| file.name != "sentence_bert_config.json");
    let mut engine = load(files, "bert").expect("the model loads");
    assert_eq!(engine.info().context_tokens as usize, CONTEXT);
    engine.add(embed_item(1, &["the harbour lights ".repeat(100)]));
    let said = drain(engine.as_mut());
    let vector = &said.finished(1).vectors[0];
    assert!(vector.truncated);
    assert_eq!(vector.tokens as usize, CONTEXT);
}

#[test]
fn megabytes_of_text_are_read_in_bounded_steps_and_nobody_waits_for_them() {
    for tiny in [Tiny::bert(), Tiny::xlm_roberta()] {
        let mut engine = engine(&tiny);
        engine.assign(0, 1_000_000);
        // Spaces are read to the end: there is no token in them.
        engine.add(embed_item(1, &vec![" ".repeat(150_000) + "ship"; 40]));
        engine.add(embed_item(2, &["short"]));
        let said = drain(engine.as_mut());
        let step_of = |request| {
            let ended = |step: &bulkhead_worker::engine::StepOutcome| {
                step.finished
                    .iter()
                    .any(|finished| finished.request == request)
            };
            said.steps.iter().position(ended).expect("answered")
        };
        // In one step it would be one step.
        assert!(said.steps.len() > 20, "{} steps", said.steps.len());
        assert!(step_of(2) + 20 < step_of(1));
        println!("longest step {:.1} ms", said.longest_step_ns as f64 / 1e6);
    }
}

#[test]
fn the_begin_of_a_long_text_is_read_as_the_whole_would_be() {
    // More than is tried first, with the words that fill the context in the first part or behind it.
    for (tiny, spaces) in [
        (Tiny::bert(), 0),
        (Tiny::bert(), 1000),
        (Tiny::xlm_roberta(), 0),
        (Tiny::xlm_roberta(), 1000),
    ] {
        let words = "Every cargo has its own hold, étanche, переборка. ";
        let text = " ".repeat(spaces) + &words.repeat(200);
        let short = " ".repeat(spaces) + &words.repeat(4);
        let encoder = TextEncoder::parse(&tiny.tokenizer_json(), CONTEXT, 1000).expect("good");
        let whole = TextEncoder::parse(&tiny.tokenizer_json(), 10_000, 1000).expect("good");
        let (mut cut, mut all) = (Vec::new(), Vec::new());
        assert_eq!(encoder.append(&text, &mut cut), Some(true));
        assert_eq!(whole.append(&short, &mut all), Some(false));
        assert_eq!(cut.len(), CONTEXT);
        assert_eq!(cut[..CONTEXT - 1], all[..CONTEXT - 1]);
        assert_eq!(
            cut.last(),
            all.last(),
            "both end with the same special token"
        );
    }
}

#[test]
fn what_is_still_text_can_be_cancelled() {
    let mut engine = engine(&Tiny::xlm_roberta());
    engine.add(embed_item(1, &["one", "two"]));
    engine.add(embed_item(2, &["three"]));
    engine.cancel(1);
    let said = drain(engine.as_mut());
    assert_eq!(
        said.finished(1).outcome(),
        bulkhead_proto::internal::Outcome::Cancelled
    );
    assert_eq!(said.finished(2).vectors.len(), 1);
}

/// A file of the folder.
fn file<'a>(files: &'a mut [FileBytes], name: &str) -> &'a mut Vec<u8> {
    let file = files.iter_mut().find(|file| file.name == name);
    &mut file.expect("it is there").bytes
}

/// Loads with `change` made to a JSON file; the error's text.
fn refused(tiny: &Tiny, name: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut files = tiny.files();
    let bytes = file(&mut files, name);
    let mut json: Value = serde_json::from_slice(bytes).expect("JSON");
    change(&mut json);
    *bytes = json.to_string().into_bytes();
    refusal(files)
}

fn refusal(files: Vec<FileBytes>) -> String {
    match load(files, "bert") {
        Ok(_) => panic!("it loaded"),
        Err(error @ (LoadError::Bad { .. } | LoadError::Missing { .. })) => error.to_string(),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn sizes_that_cannot_be_are_refused_with_their_file_and_name() {
    let sizes = [
        "hidden_size",
        "intermediate_size",
        "num_attention_heads",
        "num_hidden_layers",
        "max_position_embeddings",
        "vocab_size",
        "type_vocab_size",
    ];
    for tiny in [Tiny::bert(), Tiny::xlm_roberta()] {
        for size in sizes {
            for lie in [json!(0), json!(u64::MAX), json!(-1), json!("many")] {
                let error = refused(&tiny, "config.json", |config| config[size] = lie.clone());
                assert!(error.contains("config.json"), "{size} {lie}: {error}");
            }
            // A size that is possible and not that of the weights. More heads fit them, too.
            if size == "num_attention_heads" {
                continue;
            }
            let error = refused(&tiny, "config.json", |config| {
                config[size] = json!(config[size].as_u64().expect("a size") * 2);
            });
            let named = ["config.json", "model.safetensors"];
            assert!(named.iter().any(|name| error.contains(name)), "{error}");
        }
    }
}

#[test]
fn what_would_be_computed_wrongly_is_refused_by_name() {
    let tiny = Tiny::bert();
    let config =
        |key: &str, value: Value| refused(&tiny, "config.json", |config| config[key] = value);
    let error = config("model_type", json!("mpnet"));
    assert!(
        error.contains("mpnet") && error.contains("xlm-roberta"),
        "{error}"
    );
    assert!(config("hidden_act", json!("quick_gelu")).contains("quick_gelu"));
    assert!(config("num_attention_heads", json!(5)).contains("5 attention heads"));
    assert!(config("position_embedding_type", json!("relative_key")).contains("relative_key"));
    assert!(config("is_decoder", json!(true)).contains("is_decoder"));
    let error = refused(&Tiny::xlm_roberta(), "config.json", |config| {
        config["pad_token_id"] = json!(4_000_000_000u32);
    });
    assert!(error.contains("max_position_embeddings"), "{error}");
    let dense = refused(&tiny, "modules.json", |modules| {
        modules[2]["type"] = json!("sentence_transformers.models.Dense");
    });
    assert!(
        dense.contains("Dense") && dense.contains("modules.json"),
        "{dense}"
    );
}

#[test]
fn a_missing_pooling_and_a_foreign_tokenizer_are_named() {
    let tiny = Tiny::bert();
    let mut files = tiny.files();
    files.retain(|file| file.name != "1_Pooling/config.json");
    assert!(refusal(files).contains("1_Pooling/config.json"));
    let mut files = tiny.files();
    *file(&mut files, "tokenizer.json") = Tiny {
        tokenizer: "bytes".into(),
        ..tiny.clone()
    }
    .tokenizer_json();
    let error = refusal(files);
    assert!(
        error.contains("tokenizer.json") && error.contains("vocab_size"),
        "{error}"
    );
}

#[test]
fn tensors_that_are_missing_or_of_another_shape_are_named() {
    let tiny = Tiny::bert();
    for (truth, lie) in [
        ("layer.1.output.dense.bias", "layer.1.output.dense.bios"),
        ("\"shape\":[64,32]", "\"shape\":[32,64]"),
        (
            "embeddings.word_embeddings.weight",
            "embeddings.word_embeddings.height",
        ),
    ] {
        let mut files = tiny.files();
        let bytes = file(&mut files, "model.safetensors");
        let at = bytes
            .windows(truth.len())
            .position(|window| window == truth.as_bytes())
            .expect("it is there");
        bytes[at..at + truth.len()].copy_from_slice(lie.as_bytes());
        assert!(refusal(files).contains("model.safetensors"));
    }
}

/// Finite weights whose products are beyond f32.
#[test]
fn a_vector_that_is_not_of_finite_numbers_is_no_answer() {
    let mut files = Tiny::bert().files();
    for file in &mut files {
        if file.name.ends_with(".safetensors") {
            let (header, told) = SafeTensors::read_metadata(&file.bytes).expect("it is whole");
            for (name, tensor) in told.tensors() {
                if name.ends_with("output.LayerNorm.weight") {
                    let (from, to) = tensor.data_offsets;
                    let (weights, _) = file.bytes[8 + header..][from..to].as_chunks_mut::<4>();
                    weights.fill(3e38f32.to_le_bytes());
                }
            }
        }
    }
    let mut engine = load(files, "bert").expect("the model loads");
    engine.assign(0, STEP_LIMIT_NS);
    engine.add(embed_item(1, &["a text"]));
    let said = drain(engine.as_mut());
    let finished = said.finished(1);
    assert_eq!(finished.outcome(), Outcome::Internal);
    assert!(finished.vectors.is_empty());
    assert!(finished.detail.contains("finite"), "{}", finished.detail);
}
