//! Digests on the device against their twin, and that nothing can be changed without one.

use crate::{on_each_device, upload};
use bulkhead_kernels::digest::{self, Key, PIECE_BYTES};
use bulkhead_kernels::gpu::{Device, digests};

/// Words of a piece.
const PIECE: usize = PIECE_BYTES / 8;

fn key() -> Key {
    Key::from_random(*b"sixteen at most!")
}

/// Words in which all bits come.
fn words(count: usize) -> Vec<u64> {
    let word = |nth: u64| {
        (nth + 1)
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            .rotate_left(29)
    };
    (0..count as u64).map(word).collect()
}

fn on_device<D: Device>(on: &D, words: &[u64]) -> Vec<u64> {
    let memory = upload(on, words);
    digests(on, on.span(&memory), &key()).expect("it runs")
}

fn on_cpu(words: &[u64]) -> Vec<u64> {
    digest::digests(&key(), bulkhead_kernels::gpu::as_bytes(words))
}

pub fn digests_are_those_of_the_twin<D: Device>(on: &D) {
    // Lengths around those of pieces and of their parts.
    for length in [
        0,
        1,
        255,
        256,
        257,
        PIECE - 1,
        PIECE,
        PIECE + 1,
        2 * PIECE + 300,
    ] {
        let words = words(length);
        assert_eq!(on_device(on, &words), on_cpu(&words), "{length}");
    }
    // The greatest words there are.
    let most = vec![u64::MAX; PIECE];
    assert_eq!(on_device(on, &most), on_cpu(&most));
}

pub fn a_changed_bit_changes_the_digest_of_its_piece_alone<D: Device>(on: &D) {
    let mut words = words(2 * PIECE + 40);
    let before = on_device(on, &words);
    // Every thread has the first of these; of the rest, ends and middles of pieces and of rounds over them.
    let all = (0..256).chain([256, 511, PIECE - 1, PIECE, PIECE + 256, 2 * PIECE - 1]);
    for at in all.chain([2 * PIECE, 2 * PIECE + 39]) {
        for bit in [0, 31, 32, 63]
            .into_iter()
            .filter(|_| at % 64 == 0 || at > 256)
        {
            words[at] ^= 1 << bit;
            let now = on_device(on, &words);
            for piece in 0..3 {
                let changed = now[piece] != before[piece];
                assert_eq!(changed, piece == at / PIECE, "{at} {bit}");
            }
            words[at] ^= 1 << bit;
        }
    }
}

pub fn a_block_that_has_several_pieces_keeps_them_apart<D: Device>(on: &D) {
    // More than there are blocks in the emulation.
    let words = words(44 * PIECE);
    assert_eq!(on_device(on, &words), on_cpu(&words));
}

on_each_device! {
    a_block_that_has_several_pieces_keeps_them_apart
    digests_are_those_of_the_twin
    a_changed_bit_changes_the_digest_of_its_piece_alone
}
