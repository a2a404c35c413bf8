//! Faults planted in the choice of tokens: each is found, as those of the other kernels are (see faults.rs).

use crate::faults::{Fault, missed};
use crate::{choose, weights};

const FAULTS: &[Fault] = &[
    // Barriers of the choice.
    (
        "inverse);\n    __syncthreads();",
        "inverse);",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "all->counts[bin] = 0u;\n  }\n  __syncthreads();",
        "all->counts[bin] = 0u;\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "atomicAdd(&all->counts[bin], 1u);\n  }\n  __syncthreads();",
        "atomicAdd(&all->counts[bin], 1u);\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "all->groups[group] = taken;\n  }\n  __syncthreads();",
        "all->groups[group] = taken;\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "descend(goal, all);\n    __syncthreads();",
        "descend(goal, all);",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "all->counts[part] = 0u;\n  __syncthreads();",
        "all->counts[part] = 0u;",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "/ PART_TOKENS], 1u);\n  }\n  __syncthreads();",
        "/ PART_TOKENS], 1u);\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "all->found = at;\n  }\n  __syncthreads();",
        "all->found = at;\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "with_equals + without;\n  }\n  __syncthreads();",
        "with_equals + without;\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "sum += all->sums[part];\n    }\n  }\n  __syncthreads();",
        "sum += all->sums[part];\n    }\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "row[first + slot] : 0.0f;\n  }\n  __syncthreads();",
        "row[first + slot] : 0.0f;\n  }",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    // Weights, sums and limits of the choice.
    (
        "log > -87.0f ?",
        "log > -86.0f ?",
        weights::weights_are_the_processors_to_the_bit,
    ),
    (
        "lanes_sum(row, first, middle, least.weight);\n    const double without = lanes_sum(row, middle, last, above)",
        "lanes_sum(row, first, middle, above);\n    const double without = lanes_sum(row, middle, last, least.weight)",
        weights::sums_are_the_processors_to_the_bit,
    ),
    (
        "least.id == NONE ? NONE : least.id + 1u",
        "NONE",
        weights::sums_are_the_processors_to_the_bit,
    ),
    (
        "(goal.mass - above.mass - 1ULL) / each + 1ULL",
        "(goal.mass - above.mass) / each + 1ULL",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "--nth > 0u",
        "nth-- > 0u",
        weights::sums_are_the_processors_to_the_bit,
    ),
    (
        "taken.tokens >= goal.tokens ||",
        "taken.tokens > goal.tokens ||",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "if (min_p > least.weight) least",
        "if (min_p > 0.0f) least",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "part < parts && sum <= goal; ++part",
        "part < parts && sum < goal; ++part",
        choose::draws_fall_where_the_processors_do_from_end_to_end,
    ),
    (
        "slot < PART_TOKENS && sum <= goal - all->before; ++slot",
        "slot < PART_TOKENS && sum < goal - all->before; ++slot",
        choose::draws_fall_where_the_processors_do_from_end_to_end,
    ),
    (
        "(weight == least.weight && id <= least.id)",
        "(weight == least.weight && id < least.id)",
        choose::the_token_is_the_processors_whatever_is_left_to_draw_from,
    ),
    (
        "float biased = __fadd_rn(ranked(*logit)",
        "float biased = __fadd_rn((*logit)",
        choose::biases_penalties_and_bans_are_those_of_the_processor,
    ),
    (
        "count > 0u ? __uint_as_float(wish[WISH_PRESENCE]) : 0.0f",
        "__uint_as_float(wish[WISH_PRESENCE])",
        choose::biases_penalties_and_bans_are_those_of_the_processor,
    ),
    (
        "logit > 0.0f ? __fdiv_rn",
        "logit < 0.0f ? __fdiv_rn",
        choose::biases_penalties_and_bans_are_those_of_the_processor,
    ),
    (
        "if (top == negative_infinity()) id = NONE;\n",
        "",
        choose::what_is_no_number_is_never_chosen,
    ),
];

#[test]
fn every_fault_planted_in_the_choice_is_found() {
    let missed = missed(FAULTS);
    assert!(missed.is_empty(), "not found: {missed:#?}");
}
