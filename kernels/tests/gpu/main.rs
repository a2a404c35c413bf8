//! Every kernel against its twin on the CPU.
//!
//! One set of test bodies, for the emulation of a device (on every machine with a C++ compiler), where threads run
//! in several orders, and, with the feature `cuda`, for a GPU; where there is none, those say so and end.

mod attention;
mod choice_faults;
mod choose;
mod compute;
mod digest;
mod emulation;
mod faults;
mod memory;
mod storage;
mod weights;

use bulkhead_kernels::gpu::{Device, Plain, as_bytes, as_bytes_mut};

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

fn upload<D: Device, T: Plain>(on: &D, values: &[T]) -> D::Memory {
    on.upload(as_bytes(values)).expect("there is room")
}

/// What is in memory now.
fn download<D: Device, T: Plain>(on: &D, memory: &D::Memory, like: &[T]) -> Vec<T> {
    let mut values = like.to_vec();
    on.download(memory, as_bytes_mut(&mut values))
        .expect("the device answers");
    values
}

/// Runs each body on the emulation in each order of threads, and on a GPU.
macro_rules! on_each_device {
    ($($body:ident)*) => {
        mod emulated {
            use crate::emulation::{Emulated, ORDERS};
            $(#[test]
            fn $body() {
                for order in ORDERS {
                    super::$body(&Emulated::new(order));
                }
            })*
        }

        #[cfg(feature = "cuda")]
        mod on_gpu {
            use bulkhead_kernels::gpu::cuda::{Gpu, has_device_nodes};
            $(#[test]
            fn $body() {
                match Gpu::new(0) {
                    Ok(gpu) => super::$body(&gpu),
                    Err(reason) => {
                        assert!(!has_device_nodes(), "{reason}");
                        eprintln!("not run, no CUDA device here: {reason}");
                    }
                }
            })*
        }
    };
}
use on_each_device;
