//! Choosing tokens where the logits are, as [`Wish::of`] chooses them on the processor, to the token.

use super::launch::{Launch, LaunchError, Shape, Span, SpanMut, count};
use crate::compute::choice::{Change, Counted, Wish};

const KERNEL: &str = "choose";
/// Threads of a block that chooses.
const THREADS: u32 = 1024;
/// Threads of a block that changes logits.
const CHANGE_THREADS: u32 = 256;
/// Shared memory of a block that chooses, bytes: `Choosing` in weights.cu.
const SHARED_BYTES: u32 = 26_912;
/// What adjust.cu is told of a wish and of a change, numbers.
const WISH_NUMBERS: usize = 10;
const CHANGE_NUMBERS: usize = 4;
const NOT_COUNTED: u32 = u32::MAX;
const BANNED: u32 = u32::MAX - 1;

/// Tokens that a row may have: 2048 parts of 256.
pub const CHOOSE_TOKENS_MAX: usize = 2048 * 256;
/// What [`choose`] answers where nothing is left to choose from.
pub const NOTHING: u32 = u32::MAX;

/// Wishes as the kernels need them, one behind the other and their changes behind all, so that one copy takes all
/// of it to the device.
#[derive(Clone, Debug)]
pub struct Wishes {
    numbers: Vec<u32>,
    wishes: usize,
    rows: usize,
    vocabulary: usize,
}

impl Wishes {
    /// For rows of so many logits: which rows, ascending, and what is wished for each.
    pub fn new(vocabulary: usize, wishes: &[(usize, &Wish)]) -> Result<Self, LaunchError> {
        let unless = |fits, what| LaunchError::unless(fits, KERNEL, what);
        let fits = (1..=CHOOSE_TOKENS_MAX).contains(&vocabulary);
        unless(fits, "rows of so many tokens cannot be chosen from")?;
        let ascend = wishes.is_sorted_by(|(a, _), (b, _)| a < b);
        unless(ascend, "a row is chosen from twice, or out of order")?;
        let mut numbers = Vec::with_capacity(wishes.len() * WISH_NUMBERS);
        for (row, wish) in wishes {
            numbers.extend(wish_numbers(count(*row, KERNEL)?, wish));
        }
        for (nth, (_, wish)) in (0u32..).zip(wishes) {
            let ascend = wish.changes.is_sorted_by(|a, b| a.token < b.token);
            unless(ascend, "a token is changed twice, or out of order")?;
            let there = |change: &&Change| (change.token as usize) < vocabulary;
            let changes = wish.changes.iter().filter(there);
            numbers.extend(changes.flat_map(|change| change_numbers(nth, change)));
        }
        count(numbers.len(), KERNEL)?;
        Ok(Wishes {
            numbers,
            wishes: wishes.len(),
            rows: wishes.last().map_or(0, |(row, _)| row + 1),
            vocabulary,
        })
    }

    /// What has to be on the device.
    pub fn numbers(&self) -> &[u32] {
        &self.numbers
    }

    /// How many tokens are chosen.
    pub fn len(&self) -> usize {
        self.wishes
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.wishes == 0
    }
}

fn wish_numbers(row: u32, wish: &Wish) -> [u32; WISH_NUMBERS] {
    let Wish {
        choice, penalty, ..
    } = wish;
    let filters = choice.filters;
    let at = choice.at.to_bits();
    let inverse = match choice.is_greedy() {
        true => 0.0,
        false => choice.inverse(),
    };
    [
        row,
        inverse.to_bits(),
        filters.top_k,
        filters.top_p.to_bits(),
        filters.min_p.to_bits(),
        at as u32,
        (at >> 32) as u32,
        penalty.repetition.to_bits(),
        penalty.presence.to_bits(),
        penalty.frequency.to_bits(),
    ]
}

fn change_numbers(wish: u32, change: &Change) -> [u32; CHANGE_NUMBERS] {
    let counted = match change.counted {
        Counted::Not => NOT_COUNTED,
        Counted::Times(times) => times.min(BANNED - 1),
        Counted::Banned => BANNED,
    };
    [wish, change.token, change.bias.to_bits(), counted]
}

/// Wishes whose numbers are on the device.
#[derive(Clone, Copy, Debug)]
pub struct UploadedWishes<'a> {
    wishes: &'a Wishes,
    numbers: Span<'a, u32>,
}

impl<'a> UploadedWishes<'a> {
    /// Vouches for it.
    ///
    /// # Safety
    /// `numbers` holds [`Wishes::numbers`] when a kernel reads it.
    pub unsafe fn new(wishes: &'a Wishes, numbers: Span<'a, u32>) -> Self {
        UploadedWishes { wishes, numbers }
    }

    /// The wishes' numbers, and those of their changes.
    fn parts(&self) -> (Span<'a, u32>, Span<'a, u32>) {
        let middle = self.wishes.wishes * WISH_NUMBERS;
        let (wishes, changes) = (
            self.numbers.part(0..middle),
            self.numbers.part(middle..self.wishes.numbers.len()),
        );
        match (wishes, changes) {
            (Some(wishes), Some(changes)) => (wishes, changes),
            _ => unreachable!("the numbers are the wishes'"),
        }
    }
}

/// For each wish the token after its row, or [`NOTHING`]. The rows that are chosen from hold no logits any more
/// afterwards; the others are as they were.
pub fn choose(
    on: &impl Launch,
    logits: &mut SpanMut<'_, f32>,
    wishes: &UploadedWishes<'_>,
    chosen: &mut SpanMut<'_, u32>,
) -> Result<(), LaunchError> {
    let of = wishes.wishes;
    let there = logits.len() / of.vocabulary;
    let fits = logits.len() == there * of.vocabulary && of.rows <= there;
    LaunchError::unless(fits, KERNEL, "a row that is wished for is not there")?;
    let fits = chosen.len() == of.wishes;
    LaunchError::unless(fits, KERNEL, "there are not as many answers as wishes")?;
    if of.is_empty() {
        return Ok(());
    }
    adjust(on, logits, wishes)?;
    let shape = Shape {
        grid: [count(of.wishes, KERNEL)?, 1, 1],
        block: THREADS,
        shared_bytes: SHARED_BYTES,
    };
    let arguments = &mut [
        logits.as_argument(),
        count(of.vocabulary, KERNEL)?.into(),
        wishes.parts().0.into(),
        chosen.as_argument(),
    ];
    // SAFETY: it reads and writes the rows that are wished for, which are there and are each named once, and writes
    // a number for each.
    unsafe { on.launch(KERNEL, shape, arguments) }
}

/// The changes of all wishes.
fn adjust(
    on: &impl Launch,
    logits: &mut SpanMut<'_, f32>,
    wishes: &UploadedWishes<'_>,
) -> Result<(), LaunchError> {
    const KERNEL: &str = "adjust";
    let (of, changes) = wishes.parts();
    let changes_count = count(changes.len() / CHANGE_NUMBERS, KERNEL)?;
    if changes_count == 0 {
        return Ok(());
    }
    let shape = Shape {
        grid: [changes_count.div_ceil(CHANGE_THREADS), 1, 1],
        block: CHANGE_THREADS,
        shared_bytes: 0,
    };
    let arguments = &mut [
        logits.as_argument(),
        count(wishes.wishes.vocabulary, KERNEL)?.into(),
        of.into(),
        changes.into(),
        changes_count.into(),
    ];
    // SAFETY: it writes logits of rows that are there and of tokens that they have, each once.
    unsafe { on.launch(KERNEL, shape, arguments) }
}
