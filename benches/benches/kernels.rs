//! The processor's arithmetic in the shapes of the starter models: matrix products, and attention over a
//! long past. What PERFORMANCE.md says of them is measured here: `cargo bench -p bulkhead-benches`.

use bulkhead_kernels::compute::paged::{self, Attention, BLOCK_TOKENS, Layout, Query};
use bulkhead_kernels::compute::simd::{self, Level};
use bulkhead_kernels::compute::{GROUP, Linear, Rows, ragged};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::time::Duration;

/// Numbers from -1 to 1 in no order.
fn noise(count: usize) -> Vec<f32> {
    let number = |at: usize| ((at.wrapping_mul(2_654_435_761)) % 2001) as f32 / 1000.0 - 1.0;
    (0..count).map(number).collect()
}

fn four_bits(inputs: usize, outputs: usize) -> Rows {
    let groups = inputs / GROUP * outputs;
    Rows::Affine {
        scale: vec![0.01; groups],
        offset: vec![-0.08; groups],
        q: (0..inputs * outputs).map(|at| (at % 16) as u8).collect(),
        bits: 4,
    }
}

/// Multiply-adds a second, as elements.
fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    for (name, inputs, outputs, rows) in [
        ("f32", 384, 1536, 38),
        ("f32", 384, 1536, 1216),
        ("4bit", 576, 3072, 1),
        ("4bit", 576, 3072, 2),
        ("4bit", 576, 3072, 4),
        ("4bit", 576, 3072, 8),
        ("4bit", 576, 3072, 64),
        ("4bit", 576, 49_152, 1),
    ] {
        let weights = match name {
            "f32" => Rows::F32(noise(inputs * outputs)),
            _ => four_bits(inputs, outputs),
        };
        let linear = Linear::new(inputs, outputs, &weights, &[]).expect("the sizes agree");
        let (x, mut out) = (noise(rows * inputs), vec![0.0; rows * outputs]);
        group.throughput(Throughput::Elements((inputs * outputs * rows) as u64));
        let id = BenchmarkId::new(name, format!("{inputs}x{outputs}x{rows}"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| linear.forward(black_box(&x), &mut out, |_| ()));
        });
    }
    group.finish();
}

/// The same product with each of the instruction sets that the processor has.
fn instructions(criterion: &mut Criterion) {
    let (inputs, outputs) = (576, 3072);
    let linear = Linear::new(inputs, outputs, &four_bits(inputs, outputs), &[]);
    let linear = linear.expect("the sizes agree");
    let mut group = criterion.benchmark_group("instructions");
    for rows in [1, 8] {
        let (x, mut out) = (noise(rows * inputs), vec![0.0; rows * outputs]);
        for level in [Level::Scalar, Level::Avx2, Level::Avx512, Level::Best] {
            group.throughput(Throughput::Elements((inputs * outputs * rows) as u64));
            let id = BenchmarkId::new("4bit", format!("{rows}{level:?}"));
            group.bench_function(id, |bencher| {
                simd::limit(level);
                bencher.iter(|| linear.forward(black_box(&x), &mut out, |_| ()));
            });
        }
    }
    simd::limit(Level::Best);
    group.finish();
}

/// All layers of SmolLM2 for so many tokens after so many, as they follow each other in a pass. Bytes are those of the
/// keys and values that are there.
fn paged_attention(criterion: &mut Criterion) {
    let layout = Layout {
        layers: 30,
        heads: 3,
        width: 64,
    };
    let (heads, most) = (9, 8000 / BLOCK_TOKENS + 4);
    let kv = noise(most * layout.block());
    let blocks: Vec<u32> = (0..most as u32).collect();
    let mut group = criterion.benchmark_group("paged");
    for (past, tokens) in [
        (400, 1),
        (4000, 1),
        (8000, 1),
        (4000, 8),
        (8000, 8),
        (8000, 24),
        (0, 64),
    ] {
        let position = |nth| Query {
            blocks: &blocks,
            position: past + nth,
        };
        let queries: Vec<Query<'_>> = (0..tokens).map(position).collect();
        let stride = (heads + 2 * layout.heads) * layout.width;
        let q = noise(tokens * stride);
        let mut out = vec![0.0; tokens * heads * layout.width];
        group.throughput(Throughput::Bytes(
            (past + tokens) as u64 * layout.token_bytes(),
        ));
        let id = BenchmarkId::new("30layers", format!("{tokens}after{past}"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| {
                for layer in 0..layout.layers {
                    let how = Attention::new(layout, layer);
                    paged::attend(black_box(&q), stride, &queries, &kv, &how, &mut out);
                }
            });
        });
    }
    group.finish();
}

/// One layer of MiniLM.
fn ragged_attention(criterion: &mut Criterion) {
    let (hidden, heads) = (384, 12);
    let mut group = criterion.benchmark_group("ragged");
    for (texts, length) in [(1, 38), (32, 38), (4, 256)] {
        let ranges: Vec<_> = (0..texts)
            .map(|nth| nth * length..(nth + 1) * length)
            .collect();
        let qkv = noise(texts * length * 3 * hidden);
        let mut out = vec![0.0; texts * length * hidden];
        group.throughput(Throughput::Elements((texts * length) as u64));
        let id = BenchmarkId::new("minilm", format!("{texts}of{length}"));
        group.bench_function(id, |bencher| {
            bencher.iter(|| ragged::attend(black_box(&qkv), &ranges, hidden, heads, &mut out));
        });
    }
    group.finish();
}

criterion_group! {
    name = kernels;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    targets = products, instructions, paged_attention, ragged_attention
}
criterion_main!(kernels);
