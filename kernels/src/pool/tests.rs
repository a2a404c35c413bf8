//! One set of test bodies for every back end.
//!
//! The CUDA ones exist only with `--features cuda`; where there is no device they print why and end;
//! where there is one that cannot be opened, they fail.

use super::*;
use crate::canary;
use std::cell::Cell;

const QUOTA_BYTES: usize = 3 * (1 << 20) + 17;

fn written_bytes_come_back(pool: &mut dyn Pool) {
    let mut sent = vec![0; 5000];
    canary::fill(&mut sent, 1);
    pool.write(4093, &sent).unwrap();
    let mut got = vec![0; 5000];
    pool.read(4093, &mut got).unwrap();
    assert_eq!(sent, got);
    assert!(pool.touched_bytes() >= 4093 + 5000);
}

fn a_scrub_leaves_only_zero_and_says_how_much(pool: &mut dyn Pool) {
    let mut sent = vec![0; QUOTA_BYTES];
    canary::fill(&mut sent, 2);
    pool.write(0, &sent).unwrap();
    let clock = Cell::new(100);
    let now_ns = || clock.replace(clock.get() + 7);
    let report = pool.scrub_all(&now_ns).unwrap();
    assert_eq!(
        report,
        ScrubReport::of(QUOTA_BYTES as u64, Residue::default(), 7)
    );
    let mut got = vec![1; QUOTA_BYTES];
    pool.read(0, &mut got).unwrap();
    assert!(got.iter().all(|byte| *byte == 0));
}

fn planted_residue_is_found_at_the_first_last_and_an_unaligned_byte(pool: &mut dyn Pool) {
    for at in [0, 1_000_003, QUOTA_BYTES - 1] {
        pool.zero(0..QUOTA_BYTES).unwrap();
        pool.write(at, &[0x80]).unwrap();
        let residue = pool.verify(0..QUOTA_BYTES).unwrap();
        assert_eq!(
            residue,
            Residue {
                count: 1,
                first_offset: Some(at as u64)
            }
        );
        if at > 0 {
            let residue = pool.verify(at - 1..QUOTA_BYTES).unwrap();
            assert_eq!(
                residue.first_offset,
                Some(1),
                "offsets count from the range's start"
            );
        }
    }
}

fn a_forgotten_fill_is_found(pool: &mut dyn Pool) {
    pool.write(10, &[9; 1000]).unwrap();
    pool.zero(0..500).unwrap();
    let residue = pool.verify(0..QUOTA_BYTES).unwrap();
    assert_eq!(
        residue,
        Residue {
            count: 510,
            first_offset: Some(500)
        }
    );
}

fn ranges_outside_the_quota_are_refused_and_change_nothing(pool: &mut dyn Pool) {
    pool.write(QUOTA_BYTES - 1, &[5]).unwrap();
    assert!(pool.write(QUOTA_BYTES, &[1]).is_err());
    assert!(pool.write(usize::MAX, &[1]).is_err());
    assert!(pool.read(QUOTA_BYTES - 1, &mut [0; 2]).is_err());
    assert!(pool.zero(0..QUOTA_BYTES + 1).is_err());
    #[allow(clippy::reversed_empty_ranges)]
    let backwards = 5..4;
    assert!(pool.verify(backwards).is_err());
    assert_eq!(pool.verify(0..QUOTA_BYTES).unwrap().count, 1);
}

macro_rules! for_each_back_end {
    ($($body:ident)*) => {
        mod cpu {
            use crate::pool::CpuPool;
            $(#[test]
            fn $body() {
                super::$body(&mut CpuPool::new(super::QUOTA_BYTES).unwrap());
            })*
        }

        #[cfg(feature = "cuda")]
        mod cuda {
            use crate::gpu::cuda::has_device_nodes;
            use crate::pool::CudaPool;
            $(#[test]
            fn $body() {
                match CudaPool::new(0, super::QUOTA_BYTES) {
                    Ok(mut pool) => super::$body(&mut pool),
                    Err(reason) => {
                        assert!(!has_device_nodes(), "{reason}");
                        eprintln!("not run, no CUDA device here: {reason}");
                    }
                }
            })*
        }
    };
}

for_each_back_end! {
    written_bytes_come_back
    a_scrub_leaves_only_zero_and_says_how_much
    planted_residue_is_found_at_the_first_last_and_an_unaligned_byte
    a_forgotten_fill_is_found
    ranges_outside_the_quota_are_refused_and_change_nothing
}
