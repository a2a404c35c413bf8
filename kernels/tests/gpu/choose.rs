//! Choosing tokens: the device's token is the processor's, for every way to choose, any row and any changes; and a
//! row's token does not depend on the rows beside it.

use crate::{download, noise, on_each_device, upload};
use bulkhead_kernels::compute::choice::{Change, Choice, Counted, Filters, Penalty, Wish, uniform};
use bulkhead_kernels::compute::reference;
use bulkhead_kernels::gpu::{
    CHOOSE_TOKENS_MAX, Device, LaunchError, NOTHING, UploadedWishes, Wishes, choose,
};

pub const OFF: Filters = Filters {
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
};
const NO_PENALTY: Penalty = Penalty {
    repetition: 1.0,
    presence: 0.0,
    frequency: 0.0,
};

pub fn wish(temperature: f32, filters: Filters, at: f64) -> Wish {
    Wish {
        choice: Choice {
            temperature,
            filters,
            at,
        },
        penalty: NO_PENALTY,
        changes: Vec::new(),
    }
}

fn greedy() -> Wish {
    wish(0.0, OFF, 0.0)
}

/// What the device chooses after these rows, and what they hold then.
pub fn chosen_and_rows<D: Device>(
    on: &D,
    logits: &[f32],
    vocabulary: usize,
    wishes: &[(usize, &Wish)],
) -> (Vec<u32>, Vec<f32>) {
    let none = vec![7u32; wishes.len()];
    let wished = Wishes::new(vocabulary, wishes).expect("sound wishes");
    let (mut memory, mut out) = (upload(on, logits), upload(on, &none));
    let numbers = upload(on, wished.numbers());
    // SAFETY: they were just uploaded.
    let uploaded = unsafe { UploadedWishes::new(&wished, on.span(&numbers)) };
    let (mut rows, mut to) = (on.span_mut(&mut memory), on.span_mut(&mut out));
    choose(on, &mut rows, &uploaded, &mut to).expect("it runs");
    (download(on, &out, &none), download(on, &memory, logits))
}

/// What the device chooses. Rows that nothing is wished for stay as they are.
pub fn chosen<D: Device>(
    on: &D,
    logits: &[f32],
    vocabulary: usize,
    wishes: &[(usize, &Wish)],
) -> Vec<u32> {
    let (chosen, after) = chosen_and_rows(on, logits, vocabulary, wishes);
    let bits = |row: &[f32]| row.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
    let both = after.chunks(vocabulary).zip(logits.chunks(vocabulary));
    for (row, (after, before)) in both.enumerate() {
        if !wishes.iter().any(|(wished, _)| *wished == row) {
            assert_eq!(bits(after), bits(before), "row {row}");
        }
    }
    chosen
}

/// Each wish for a row of its own, and the same wishes alone.
fn check<D: Device>(on: &D, logits: &[f32], vocabulary: usize, wishes: &[Wish]) {
    let rows: Vec<&[f32]> = logits.chunks(vocabulary).collect();
    let all: Vec<(usize, &Wish)> = (0..rows.len()).zip(wishes.iter().cycle()).collect();
    let got = chosen(on, logits, vocabulary, &all);
    for ((row, wish), got) in all.iter().zip(&got) {
        let want = wish.of(&mut rows[*row].to_vec());
        assert_eq!(*got, want.unwrap_or(NOTHING), "{vocabulary} {wish:?}");
    }
    let (row, wish) = all[all.len() - 1];
    let alone = chosen(on, rows[row], vocabulary, &[(0, wish)]);
    assert_eq!(alone, got[row..], "{vocabulary} {wish:?}");
}

/// Filters of every kind, alone and together.
fn filters() -> Vec<Filters> {
    let mut all = Vec::new();
    for top_k in [0, 1, 7, 300, u32::MAX] {
        for top_p in [1.0, 0.999_999_9, 0.9, 0.5, 1e-6] {
            for min_p in [0.0, 0.05, 1.0] {
                all.push(Filters {
                    top_k,
                    top_p,
                    min_p,
                });
            }
        }
    }
    all
}

/// Rows of kinds: like a model's, crowded with ties, level, with few that can be chosen, and with no numbers.
pub fn row(kind: usize, vocabulary: usize, seed: u64) -> Vec<f32> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let shape = |(at, x): (usize, f32)| match kind {
        0 => (x * 3.0).powi(3),
        1 => (x * 4.0).round(),
        2 => 1.5,
        3 if at % 97 == 5 => x,
        3 => -inf,
        _ => match at % 41 {
            3 => nan,
            11 => -inf,
            17 if x > 0.9 => inf,
            _ => x * 50.0,
        },
    };
    noise(vocabulary, seed)
        .into_iter()
        .enumerate()
        .map(shape)
        .collect()
}

pub fn the_token_is_the_processors_whatever_is_left_to_draw_from<D: Device>(on: &D) {
    let vocabularies = [1, 31, 257, 1000, 2503];
    for (from, vocabulary) in vocabularies.into_iter().enumerate() {
        for kind in 0..5 {
            // Together all kinds of rows and of lengths meet all filters.
            let some = filters().into_iter().skip((from + kind) % 5).step_by(5);
            let wishes: Vec<Wish> = (0u64..)
                .zip(some)
                .map(|(nth, filters)| {
                    let temperature = [1.0, 0.3, 5.0][nth as usize % 3];
                    wish(temperature, filters, uniform(kind as u64, nth))
                })
                .collect();
            let logits: Vec<f32> = (0..wishes.len() as u64)
                .flat_map(|seed| row(kind, vocabulary, seed))
                .collect();
            check(on, &logits, vocabulary, &wishes);
        }
    }
}

pub fn draws_fall_where_the_processors_do_from_end_to_end<D: Device>(on: &D) {
    let vocabulary = 700;
    let last = 1.0 - f64::EPSILON / 2.0;
    let places = (0..30).map(|nth| f64::from(nth) / 30.0);
    let wishes: Vec<Wish> = places
        .chain([last, f64::MIN_POSITIVE])
        .map(|at| wish(1.0, OFF, at))
        .collect();
    for kind in 0..5 {
        // With parts at the end that hold nothing to choose, too.
        for end in [vocabulary, 200] {
            let mut one = row(kind, vocabulary, 3);
            one[end..].fill(f32::NEG_INFINITY);
            check(on, &one.repeat(wishes.len()), vocabulary, &wishes);
        }
    }
}

pub fn rows_as_long_as_vocabularies_can_be_are_chosen_from<D: Device>(on: &D) {
    for (vocabulary, kind) in [(200_003, 0), (CHOOSE_TOKENS_MAX, 1)] {
        let top_p = Filters { top_p: 0.95, ..OFF };
        let wishes = [
            greedy(),
            wish(0.8, OFF, 0.83),
            wish(0.8, Filters { top_k: 40, ..top_p }, 0.4),
            wish(3.0, top_p, 0.999),
        ];
        let logits: Vec<f32> = (0..4)
            .flat_map(|seed| row(kind, vocabulary, seed))
            .collect();
        check(on, &logits, vocabulary, &wishes);
    }
}

pub fn the_greatest_logit_is_chosen_and_the_lowest_id_of_equals<D: Device>(on: &D) {
    for vocabulary in [1, 31, 32, 1000, 1024, 1025, 5003] {
        let logits = noise(3 * vocabulary, 7);
        let want: Vec<u32> = (logits.chunks(vocabulary))
            .map(|row| reference::greedy(row).expect("there is one"))
            .collect();
        let greedy = greedy();
        let all = [(0, &greedy), (1, &greedy), (2, &greedy)];
        assert_eq!(chosen(on, &logits, vocabulary, &all), want, "{vocabulary}");
        // Equals in other threads, other warps, and the same thread.
        for (first, second) in [
            (0, vocabulary - 1),
            (vocabulary / 2, vocabulary - 1),
            (0, vocabulary / 2),
        ] {
            let mut row = logits[..vocabulary].to_vec();
            (row[first], row[second]) = (9.0, 9.0);
            assert_eq!(
                chosen(on, &row, vocabulary, &all[..1]),
                [first as u32],
                "{vocabulary} {first} {second}"
            );
        }
    }
}

pub fn what_is_no_number_is_never_chosen<D: Device>(on: &D) {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    for (row, want) in [
        ([nan, -1.0, nan, -inf], 1),
        ([0.0, 1.0, inf, nan], 2),
        ([-inf, nan, -inf, nan], NOTHING),
        ([-inf, -inf, f32::MIN, -inf], 2),
    ] {
        for wish in [greedy(), wish(1.0, OFF, 0.7)] {
            assert_eq!(chosen(on, &row, 4, &[(0, &wish)]), [want], "{row:?}");
        }
    }
}

pub fn biases_penalties_and_bans_are_those_of_the_processor<D: Device>(on: &D) {
    let vocabulary = 900;
    let penalty = |repetition, presence, frequency| Penalty {
        repetition,
        presence,
        frequency,
    };
    let change = |token: u32| Change {
        token,
        bias: if token.is_multiple_of(3) {
            0.0
        } else {
            token as f32 / 90.0 - 5.0
        },
        counted: match token % 5 {
            0 => Counted::Not,
            1 => Counted::Banned,
            count => Counted::Times(count - 2),
        },
    };
    let mut wishes = Vec::new();
    for (penalty, tokens) in [
        (penalty(1.3, 0.0, 0.0), 0..900),
        (penalty(0.01, -2.0, 2.0), 100..850),
        (penalty(1.0, 1.5, 0.25), 0..2000),
        (NO_PENALTY, 0..0),
    ] {
        let changes: Vec<Change> = tokens.map(change).collect();
        for choice in [greedy().choice, wish(0.7, OFF, 0.31).choice] {
            wishes.push(Wish {
                choice,
                penalty,
                changes: changes.clone(),
            });
        }
    }
    for kind in [0, 1, 4] {
        let logits: Vec<f32> = (0..8)
            .flat_map(|seed| row(kind, vocabulary, seed))
            .collect();
        check(on, &logits, vocabulary, &wishes);
    }
    // All but one are banned, and then that one too.
    let ban = |token| Change {
        token,
        bias: 0.0,
        counted: Counted::Banned,
    };
    for (all, want) in [(299, 299), (300, NOTHING)] {
        let wish = Wish {
            changes: (0..all).map(ban).collect(),
            ..greedy()
        };
        assert_eq!(chosen(on, &noise(300, 5), 300, &[(0, &wish)]), [want]);
    }
}

pub fn rows_without_a_wish_stay_and_wishes_that_do_not_fit_are_refused<D: Device>(on: &D) {
    let logits = noise(5 * 300, 9);
    let (first, second) = (wish(1.0, OFF, 0.5), greedy());
    let got = chosen(on, &logits, 300, &[(1, &first), (3, &second)]);
    let want = |row: usize, wish: &Wish| wish.of(&mut logits[row * 300..][..300].to_vec());
    assert_eq!(
        [Some(got[0]), Some(got[1])],
        [want(1, &first), want(3, &second)]
    );
    assert_eq!(chosen(on, &logits, 300, &[]), []);

    let twice = Wish {
        changes: vec![first_change(4), first_change(4)],
        ..greedy()
    };
    for (vocabulary, wishes) in [
        (300, &[(1, &first), (1, &second)][..]),
        (300, &[(2, &first), (1, &second)]),
        (300, &[(0, &twice)]),
        (0, &[]),
        (CHOOSE_TOKENS_MAX + 1, &[]),
    ] {
        let refused = Wishes::new(vocabulary, wishes);
        assert!(matches!(refused, Err(LaunchError::Shape { .. })));
    }
    let mut memory = upload(on, &logits);
    for (vocabulary, row, answers) in [(300, 5, 1), (299, 1, 1), (300, 1, 2)] {
        let wished = Wishes::new(vocabulary, &[(row, &first)]).expect("sound wishes");
        let numbers = upload(on, wished.numbers());
        // SAFETY: they were just uploaded.
        let uploaded = unsafe { UploadedWishes::new(&wished, on.span(&numbers)) };
        let mut out = upload(on, &vec![0u32; answers]);
        let (mut rows, mut to) = (on.span_mut(&mut memory), on.span_mut(&mut out));
        let refused = choose(on, &mut rows, &uploaded, &mut to);
        assert!(matches!(refused, Err(LaunchError::Shape { .. })));
    }
    assert_eq!(download(on, &memory, &logits), logits);
}

fn first_change(token: u32) -> Change {
    Change {
        token,
        bias: 1.0,
        counted: Counted::Not,
    }
}

on_each_device! {
    the_token_is_the_processors_whatever_is_left_to_draw_from
    draws_fall_where_the_processors_do_from_end_to_end
    rows_as_long_as_vocabularies_can_be_are_chosen_from
    the_greatest_logit_is_chosen_and_the_lowest_id_of_equals
    what_is_no_number_is_never_chosen
    biases_penalties_and_bans_are_those_of_the_processor
    rows_without_a_wish_stay_and_wishes_that_do_not_fit_are_refused
}
