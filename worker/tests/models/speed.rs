//! How fast the engines are here: printed, with bounds loose enough for a busy machine.
//! Run with `--nocapture` to see the figures.

use crate::fixture::{clock, drain, embed_item, generate, minilm, smollm2};

/// 36 words of one token each, and two special tokens.
fn text_of_38_tokens() -> String {
    vec!["ship"; 36].join(" ")
}

#[test]
fn minilm_speed() {
    let mut engine = minilm();
    let texts = vec![text_of_38_tokens(); 32];
    let mut best = f64::MAX;
    let mut longest = 0;
    for round in 0..8 {
        engine.add(embed_item(round, &texts));
        let now = clock();
        let said = drain(engine.as_mut());
        best = best.min(now() as f64 / 1e9);
        if round > 1 {
            longest = longest.max(said.longest_step_ns);
        }
        assert_eq!(said.finished(round).input_tokens, 32 * 38);
    }
    println!("minilm 32 texts of 38 tokens: {:.0} texts/s", 32.0 / best);
    println!("minilm longest step: {:.1} ms", longest as f64 / 1e6);
    let mut longest = 0;
    for round in 100..105 {
        engine.add(embed_item(round, &["word ".repeat(400)]));
        longest = longest.max(drain(engine.as_mut()).longest_step_ns);
    }
    println!(
        "minilm longest step of a text of 256 tokens: {:.1} ms",
        longest as f64 / 1e6
    );
    let now = clock();
    for round in 200..220 {
        engine.add(embed_item(round, &texts[..1]));
        drain(engine.as_mut());
    }
    println!(
        "minilm one text of 38 tokens: {:.1} ms",
        now() as f64 / 20e6
    );
    assert!(best < 32.0 / 10.0, "under 10 texts/s");
}

#[test]
fn smollm2_speed() {
    let mut engine = smollm2();
    engine.add(generate(0, "Tell me something about ships.", 64));
    drain(engine.as_mut());
    let prompt = "ship ".repeat(500);
    let now = clock();
    engine.add(generate(1, &prompt, 1));
    let said = drain(engine.as_mut());
    let tokens = said.finished(1).input_tokens;
    println!(
        "smollm2 prefill: {:.0} tok/s",
        f64::from(tokens) * 1e9 / now() as f64
    );
    println!(
        "smollm2 longest step of a prefill: {:.1} ms",
        said.longest_step_ns as f64 / 1e6
    );
    let now = clock();
    engine.add(generate(2, "Tell me a long story about a ship.", 100));
    let said = drain(engine.as_mut());
    let tokens = said.finished(2).output_tokens;
    println!(
        "smollm2 decode: {:.0} tok/s",
        f64::from(tokens) * 1e9 / now() as f64
    );
    let now = clock();
    for request in 10..18 {
        engine.add(generate(request, "Tell me a long story about a ship.", 50));
    }
    let said = drain(engine.as_mut());
    let tokens: u32 = (10..18)
        .map(|request| said.finished(request).output_tokens)
        .sum();
    println!(
        "smollm2 eight at once: {:.0} tok/s",
        f64::from(tokens) * 1e9 / now() as f64
    );
    println!(
        "smollm2 longest step of eight: {:.1} ms",
        said.longest_step_ns as f64 / 1e6
    );
    assert!(tokens > 0);
}
