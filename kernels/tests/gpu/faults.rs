//! The tests' own test: each of these faults, planted in the kernels' source, is found by the body that is named
//! beside it, in some order of threads. Barriers are the point: a device may hide that one is missing for years.
//!
//! Not among them are faults that reach beyond a kernel's memory: those end the process.

use crate::emulation::{Emulated, ORDERS};
use crate::{attention, choose, compute, digest, memory};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What is there, what is put in its place, and what finds it.
pub type Fault = (&'static str, &'static str, fn(&Emulated));

const FAULTS: &[Fault] = &[
    // Barriers.
    (
        "room[threadIdx.x / 32u] = x;\n  __syncthreads();",
        "room[threadIdx.x / 32u] = x;",
        compute::norms_are_those_of_the_plain_loops,
    ),
    (
        "words[word] = 0u;\n  __syncthreads();",
        "words[word] = 0u;",
        memory::every_multiprocessor_is_reached_and_left_clean,
    ),
    (
        "// queries are there.\n  __syncthreads();",
        "",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    (
        "widen(block[part + at]);\n  }\n  __syncthreads();",
        "widen(block[part + at]);\n  }",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    (
        "shares[at] = score;\n  }\n  __syncthreads();",
        "shares[at] = score;\n  }",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    (
        "run_on(how, tile, start);\n  __syncthreads();",
        "run_on(how, tile, start);",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    (
        "all->ids[threadIdx.x / 32u] = *id;\n  }\n  __syncthreads();",
        "all->ids[threadIdx.x / 32u] = *id;\n  }",
        choose::the_greatest_logit_is_chosen_and_the_lowest_id_of_equals,
    ),
    (
        "room[threadIdx.x / 32u] = sum;\n    __syncthreads();",
        "room[threadIdx.x / 32u] = sum;",
        digest::digests_are_those_of_the_twin,
    ),
    // A barrier that only some threads reach.
    (
        "if (lane == 0u) room[threadIdx.x / 32u] = x;\n  __syncthreads();",
        "if (lane == 0u) { room[threadIdx.x / 32u] = x; __syncthreads(); } else { x += 0.0f;\n __syncthreads(); }",
        compute::norms_are_those_of_the_plain_loops,
    ),
    // Ends and tails.
    (
        "head + (length - tail);",
        "head;",
        memory::a_planted_bit_is_found_wherever_it_is,
    ),
    (
        "if (byte < first) first = byte;\n      }\n    }\n  }\n\n  const",
        "first = byte;\n      }\n    }\n  }\n\n  const",
        memory::all_residue_is_counted,
    ),
    (
        "length < 8ULL ? 0ULL : length - 7ULL",
        "length < 8ULL ? 0ULL : length - 8ULL",
        memory::canaries_are_those_of_the_cpu_and_are_found_at_any_byte,
    ),
    (
        "1u << (id % 32u)",
        "1u << (id % 4u)",
        memory::every_multiprocessor_is_reached_and_left_clean,
    ),
    (
        "(length + DIGEST_WORDS - 1ULL)",
        "length",
        digest::digests_are_those_of_the_twin,
    ),
    (
        "piece += gridDim.x",
        "piece += pieces",
        digest::a_block_that_has_several_pieces_keeps_them_apart,
    ),
    (
        "at < length ? ((const",
        "at + 1ULL < length ? ((const",
        digest::a_changed_bit_changes_the_digest_of_its_piece_alone,
    ),
    (
        "(word & 0xFFFFFFFFULL, point)",
        "(word & 0xFFFFFF00ULL, point)",
        digest::a_changed_bit_changes_the_digest_of_its_piece_alone,
    ),
    (
        "word >> 32);",
        "(word >> 32) & 0x7FFFFFFFULL);",
        digest::a_changed_bit_changes_the_digest_of_its_piece_alone,
    ),
    (
        "lane < DIGEST_THREADS / 32u",
        "lane < DIGEST_THREADS / 32u - 1u",
        digest::a_changed_bit_changes_the_digest_of_its_piece_alone,
    ),
    // Arithmetic.
    (
        "(low >> 61)",
        "(low >> 60)",
        digest::digests_are_those_of_the_twin,
    ),
    (
        "sum >= FIELD ? sum - FIELD : sum",
        "sum",
        digest::digests_are_those_of_the_twin,
    ),
    (
        "field_multiply(sum, steps[threadIdx.x])",
        "sum",
        digest::digests_are_those_of_the_twin,
    ),
    (
        "other == *best && other_id < *id",
        "other == *best && other_id > *id",
        choose::the_greatest_logit_is_chosen_and_the_lowest_id_of_equals,
    ),
    (
        "neighbours ? a + 1 : a + pairs",
        "a + 1",
        compute::heads_are_turned_as_by_the_plain_loops,
    ),
    (
        "magnitude + 0xFFFu + ((magnitude >> 13) & 1u)",
        "magnitude + 0x1000u",
        attention::keys_and_values_go_to_their_places_and_come_back,
    ),
    (
        "tile.tops[lane] = top;\n    tile.sums[lane] = sum;",
        "tile.sums[lane] = sum;",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    (
        "position + 1u - window;",
        "position - window;",
        attention::every_token_sees_its_own_sequence_and_no_later_token,
    ),
    // Spans of attention.
    (
        "tile.tops[lane], tile.sums[lane]);\n  }\n  __syncthreads();",
        "tile.tops[lane], tile.sums[lane]);\n  }",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "__fadd_rn(__fmul_rn(before, fades.before), __fmul_rn(more, fades.more))",
        "__fadd_rn(before, __fmul_rn(more, fades.more))",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "if (span_sum == 0.0f) return {1.0f, 0.0f};\n",
        "",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "  *top = next;\n",
        "",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "start < end && start < (span + 1u) * SPAN",
        "start < end",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "told[2] + told[3]; ++part",
        "told[2] + told[3] - 1u; ++part",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
    (
        "how.parts[place + how.width + 1u] = tile.sums[lane]",
        "how.parts[place + how.width + 1u] = 1.0f",
        attention::long_sequences_come_out_the_same_however_they_are_divided,
    ),
];

/// Those of the faults that nothing finds.
pub fn missed(faults: &[Fault]) -> Vec<(&'static str, &'static str)> {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let is_found = |(right, wrong, body): &&Fault| {
        ORDERS.iter().any(|order| {
            let on = Emulated::with_fault(*order, right, wrong);
            catch_unwind(AssertUnwindSafe(|| body(&on))).is_err()
        })
    };
    let missed = faults.iter().filter(|fault| !is_found(fault));
    let missed = missed.map(|(right, wrong, _)| (*right, *wrong)).collect();
    std::panic::set_hook(quiet);
    missed
}

#[test]
fn every_planted_fault_is_found() {
    let missed = missed(FAULTS);
    assert!(missed.is_empty(), "not found: {missed:#?}");
}
