//! The allocator as a process's own: what is freed is zero, what is grown or shrunk keeps its bytes.
//!
//! Freed memory cannot be read through Rust, so the last word is the kernel's: `/proc/self/mem`.

use bulkhead_kernels::{ZeroingAllocator, alloc, canary};
use proptest::prelude::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::os::unix::fs::FileExt;

#[global_allocator]
static ALLOCATOR: ZeroingAllocator = ZeroingAllocator::SYSTEM;

fn filled(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    canary::fill(&mut bytes, seed);
    bytes
}

proptest! {
    #[test]
    fn realloc_keeps_the_common_part_and_zeroes_the_whole_old_block(
        old_size in 1usize..200_000,
        new_size in 1usize..200_000,
        align_log2 in 0u32..9,
        seed in any::<u64>(),
    ) {
        let align = 1usize << align_log2;
        let layout = Layout::from_size_align(old_size, align).unwrap();
        let expected = filled(old_size, seed);
        let before = alloc::snapshot();
        // SAFETY: sizes are not zero; the block is written and read inside its layout only, and
        // freed once, with the layout that it then has.
        let (kept, aligned) = unsafe {
            let block = ALLOCATOR.alloc(layout);
            prop_assert!(!block.is_null());
            block.copy_from_nonoverlapping(expected.as_ptr(), old_size);
            let block = ALLOCATOR.realloc(block, layout, new_size);
            prop_assert!(!block.is_null());
            let common = old_size.min(new_size);
            let kept = std::slice::from_raw_parts(block, common) == &expected[..common];
            let aligned = (block as usize).is_multiple_of(align);
            ALLOCATOR.dealloc(block, Layout::from_size_align(new_size, align).unwrap());
            (kept, aligned)
        };
        prop_assert!(kept && aligned);
        let done = alloc::snapshot().since(&before);
        prop_assert!(done.bytes_zeroed >= (old_size + new_size) as u64);
        prop_assert_eq!(done.bytes_verified, done.bytes_zeroed);
        prop_assert_eq!(done.residue_bytes, 0);
    }

    #[test]
    fn zeroed_blocks_are_zero_even_where_dirty_ones_were_freed(size in 1usize..100_000) {
        drop(filled(size, 3));
        prop_assert!(vec![0u8; size].iter().all(|byte| *byte == 0));
    }
}

/// Counts pages of this process's private writable memory that hold a piece of `secret`, other than
/// where it lives itself and the stack that reads.
fn pages_with(secret: &[u8]) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let memory = std::fs::File::open("/proc/self/mem").unwrap();
    let mut page = [0u8; 4096];
    let (own, stack) = (secret.as_ptr() as u64, page.as_ptr() as u64);
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw-p ")) {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let start = u64::from_str_radix(start, 16).unwrap();
        let end = u64::from_str_radix(end, 16).unwrap();
        if (start..end).contains(&stack) {
            continue;
        }
        for at in (start..end).step_by(page.len()) {
            // Other tests run beside this one; what they have unmapped meanwhile is gone.
            if memory.read_exact_at(&mut page, at).is_err() {
                continue;
            }
            for offset in 0..page.len() as u64 {
                if (own..own + secret.len() as u64).contains(&(at + offset)) {
                    page[offset as usize] = 0;
                }
            }
            found += usize::from(canary::scan(&page, secret, 16).is_some());
        }
    }
    found
}

#[test]
fn a_growing_vector_leaves_nothing_behind_and_the_plain_allocator_does() {
    let secret = filled(32, 0x5EC2E7);
    let grow = |times: usize| {
        let mut vector = Vec::new();
        for _ in 0..times {
            vector.extend_from_slice(&secret);
        }
        assert_eq!(vector.len(), times * 32);
    };
    grow(10_000);
    assert_eq!(pages_with(&secret), 0);
    let layout = Layout::from_size_align(8192, 8).unwrap();
    // SAFETY: the size is not zero; writes stay inside the block; it is freed once, as it was taken.
    unsafe {
        let block = System.alloc(layout);
        assert!(!block.is_null());
        for at in (0..8192).step_by(32) {
            block.add(at).copy_from_nonoverlapping(secret.as_ptr(), 32);
        }
        System.dealloc(block, layout);
    }
    assert!(
        pages_with(&secret) > 0,
        "the test must bite: the system's allocator leaves it"
    );
}

#[test]
fn live_bytes_follow_large_blocks() {
    let before = alloc::snapshot().live_bytes;
    let block = vec![1u8; 64 << 20];
    let during = alloc::snapshot();
    assert!(during.live_bytes >= before + (60 << 20));
    assert!(during.live_bytes_peak >= during.live_bytes);
    drop(block);
    assert!(alloc::snapshot().live_bytes < during.live_bytes - (60 << 20));
}
