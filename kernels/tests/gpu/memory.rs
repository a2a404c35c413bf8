//! Read-back, canaries, and what lies on chip.

use crate::emulation::Emulated;
use crate::{download, on_each_device, upload};
use bulkhead_kernels::gpu::{
    Argument, Device, Launch, NOTHING_FOUND, OnChip, Shape, canary_fill, canary_scan,
    scrub_on_chip, verify,
};
use bulkhead_kernels::{Residue, canary, verify_zero};

/// What the kernel says of `bytes` from `start` on.
fn verified<D: Device>(on: &D, bytes: &[u8], start: usize) -> Residue {
    let memory = upload(on, bytes);
    let mut result = upload(on, &NOTHING_FOUND);
    let all = on.span::<u8>(&memory);
    let part = all.part(start..bytes.len()).expect("in range");
    verify(on, part, &mut on.span_mut(&mut result)).expect("it runs");
    let [count, first] = download(on, &result, &NOTHING_FOUND)[..] else {
        unreachable!("two numbers")
    };
    Residue {
        count,
        first_offset: (count > 0).then_some(first),
    }
}

pub fn a_planted_bit_is_found_wherever_it_is<D: Device>(on: &D) {
    // Lengths and starts around the words of 16 bytes, and one that all threads stride through.
    for length in [0, 1, 15, 16, 17, 31, 33, 4096, 300_007] {
        for start in [0, 1, 7, 15].into_iter().filter(|start| *start <= length) {
            let mut bytes = vec![0u8; length];
            assert_eq!(verified(on, &bytes, start), Residue::default());
            for at in [
                start,
                start + 1,
                length / 2,
                length.saturating_sub(17),
                length.saturating_sub(1),
            ] {
                if (start..length).contains(&at) {
                    bytes[at] = 0x80;
                    let found = verified(on, &bytes, start);
                    assert_eq!(found, verify_zero(&bytes[start..]), "{length} {start} {at}");
                    assert_eq!(
                        (found.count, found.first_offset),
                        (1, Some((at - start) as u64))
                    );
                    bytes[at] = 0;
                }
            }
        }
    }
}

pub fn all_residue_is_counted<D: Device>(on: &D) {
    let mut bytes = vec![0u8; 10_001];
    canary::fill(&mut bytes[3..5000], 1);
    bytes[10_000] = 1;
    for start in [0, 3, 11] {
        assert_eq!(verified(on, &bytes, start), verify_zero(&bytes[start..]));
    }
}

pub fn canaries_are_those_of_the_cpu_and_are_found_at_any_byte<D: Device>(on: &D) {
    for length in [0, 1, 7, 8, 9, 100, 70_001] {
        let mut want = vec![0u8; length];
        let mut memory = upload(on, &want);
        canary_fill(on, &mut on.span_mut(&mut memory), 7).expect("it runs");
        canary::fill(&mut want, 7);
        assert_eq!(download(on, &memory, &want), want, "{length}");
    }
    let mut canary = [0u8; 32];
    canary::fill(&mut canary, 7);
    for at in [0, 1, 13, 968] {
        let mut bytes = vec![0u8; 1000];
        bytes[at..at + 32].copy_from_slice(&canary);
        let scan = |seed| {
            let memory = upload(on, &bytes);
            let mut result = upload(on, &NOTHING_FOUND);
            canary_scan(on, on.span(&memory), seed, 4, &mut on.span_mut(&mut result))
                .expect("it runs");
            download(on, &result, &NOTHING_FOUND)
        };
        assert_eq!(
            scan(7),
            [4, at as u64],
            "four words, the first of them at {at}"
        );
        assert_eq!(scan(8), NOTHING_FOUND);
    }
}

pub fn every_multiprocessor_is_reached_and_left_clean<D: Device>(on: &D) {
    let done = scrub_on_chip(on).expect("it runs");
    assert!(done.is_clean(), "{done:?}");
    assert!(done.launches >= 2, "{done:?}");
}

on_each_device! {
    a_planted_bit_is_found_wherever_it_is
    all_residue_is_counted
    canaries_are_those_of_the_cpu_and_are_found_at_any_byte
    every_multiprocessor_is_reached_and_left_clean
}

/// Launches one block over all shared memory; returns how much of it holds the pattern.
fn shared(on: &Emulated, kernel: &'static str, pattern: u32) -> u64 {
    let bytes = on.shared_bytes_max();
    let shape = Shape {
        grid: [1, 1, 1],
        block: 1024,
        shared_bytes: bytes,
    };
    let mut found = upload(on, &[0u64]);
    let mut arguments = vec![Argument::Count(bytes), Argument::Count(pattern)];
    if kernel == "find_shared" {
        arguments.push(on.span_mut::<u64>(&mut found).as_argument());
    }
    // SAFETY: these are their arguments.
    unsafe { on.launch(kernel, shape, &mut arguments) }.expect("it runs");
    download(on, &found, &[0u64])[0]
}

/// What one tenant's kernel left in shared memory, the next one's reads: that is the leak; and the scrub ends it.
/// On a device it depends on which multiprocessor comes next; here there is one memory for all.
#[test]
fn what_a_kernel_leaves_in_shared_memory_is_gone_after_the_scrub() {
    for order in crate::emulation::ORDERS {
        let mut on = Emulated::new(order);
        on.fresh = false;
        let words = u64::from(on.shared_bytes_max() / 4);
        shared(&on, "soil_shared", 0xC0FF_EE11);
        assert_eq!(shared(&on, "find_shared", 0xC0FF_EE11), words, "it leaks");
        assert!(scrub_on_chip(&on).expect("it runs").is_clean());
        assert_eq!(shared(&on, "find_shared", 0xC0FF_EE11), 0);
        assert_eq!(shared(&on, "find_shared", 0), words, "all of it is zero");
    }
}

#[test]
fn a_missed_multiprocessor_and_residue_are_not_clean() {
    let good = OnChip {
        multiprocessors: 5,
        shared_scrubbed: 5,
        registers_scrubbed: 5,
        shared_bytes: 100,
        residue: 0,
        launches: 2,
    };
    assert!(good.is_clean());
    for bad in [
        OnChip {
            shared_scrubbed: 4,
            ..good
        },
        OnChip {
            registers_scrubbed: 4,
            ..good
        },
        OnChip { residue: 1, ..good },
    ] {
        assert!(!bad.is_clean(), "{bad:?}");
    }
}
