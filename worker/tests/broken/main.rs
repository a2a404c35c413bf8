//! Decoders' files that are cut, garbled or lie: an error that names what is wrong, never a panic, and never
//! much more memory than the files are large.
//!
//! The decoder is loaded without the net that the worker has below it for panics. The allocator is the
//! worker's own, which counts.

mod folders;
#[path = "../models/decoders/gguf.rs"]
mod gguf;
mod metadata;
#[path = "../models/decoders/model.rs"]
mod model;

use bulkhead_kernels::{ZeroingAllocator, alloc};
use bulkhead_worker::models::LoadError;
use bulkhead_worker::models::decoder::{Checkpoint, Decoder, Given, Row};
use bulkhead_worker::models::source::{Gguf, Safetensors};
use bulkhead_worker_core::PassKind;
use candle_core::quantized::GgmlDType;
use model::{Case, case, cases, file, named, on_candle, on_cpu};
use safetensors::Dtype;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

/// What all of these tests together may have allocated at once, bytes. No file here is as large as 1 MB, and a
/// few tests run at once.
const ALLOCATED_MAX: u64 = 32 << 20;

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
fn single(bytes: &[u8]) -> Result<(), LoadError> {
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
    let given = Given {
        rows: &[row],
        wanted: &[0],
        tables: &[&[3]],
    };
    let logits = decoder.advance(PassKind::Reading, given, &mut |_| true);
    assert!(
        logits
            .expect("it computes")
            .is_some_and(|logits| !logits.is_empty())
    );
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
        single(&case.gguf(GgmlDType::F32)).expect("whole");
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
        let error = message(single(&cut(&gguf_bytes)));
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
        let _ = single(&changed);
    }
}
