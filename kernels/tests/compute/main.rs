//! Every fast function against its plain twin, over odd sizes, and with each of the instruction sets
//! that this machine has.

mod attention;
mod choice;
mod elementwise;
mod linear;

use bulkhead_kernels::compute::simd::{self, Level};
use std::sync::{Mutex, PoisonError};

/// The limit is the process's: tests that set it take turns.
static TURN: Mutex<()> = Mutex::new(());

/// Runs `test` with each instruction set.
fn at_each_level(test: impl Fn(Level)) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for level in [Level::Scalar, Level::Avx2, Level::Avx512, Level::Best] {
        simd::limit(level);
        test(level);
    }
}

/// Numbers from -1 to 1.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2) | 1;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(step).collect()
}

/// The greatest difference between two results of equal length.
fn apart(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let difference = |(got, want): (&f32, &f32)| {
        assert!(got.is_finite(), "{got}");
        (got - want).abs()
    };
    got.iter().zip(want).map(difference).fold(0.0, f32::max)
}
