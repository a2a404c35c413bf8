//! Zeroing what no pool holds: shared memory and registers of every multiprocessor, at the end of a tenant's turn.
//!
//! A launch cannot say where its blocks run. It asks for all of a multiprocessor's shared memory, or all of its
//! registers, so that no two blocks share one; each tells where it was; and launches are repeated until all have
//! been told. What is left out: the kilobyte of shared memory that the system keeps for itself in each block,
//! some 5 % of the registers, which no thread can name, and caches, which answer to addresses alone.

use super::launch::{Device, LaunchError, Shape, as_bytes, as_bytes_mut};

/// Launches until all multiprocessors have to have been reached.
const LAUNCHES_MAX: u32 = 16;
/// Threads of a block that takes all registers: see `scrub_registers`.
const REGISTER_THREADS: u32 = 256;
/// How often each register is made anew.
const ROUNDS: u32 = 2;
/// Words of the set of multiprocessors: 2,048 of them, ten times what there are.
const SEEN_WORDS: usize = 64;

/// What was done on chip, as evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a multiprocessor that was missed, or residue, means that the device must not be used again"]
pub struct OnChip {
    /// Multiprocessors of the device.
    pub multiprocessors: u32,
    /// Those whose shared memory was zeroed.
    pub shared_scrubbed: u32,
    /// Those whose registers were.
    pub registers_scrubbed: u32,
    /// Shared memory of each, bytes.
    pub shared_bytes: u32,
    /// Words of shared memory and threads' registers that were not zero even so.
    pub residue: u64,
    /// How many launches that took.
    pub launches: u32,
}

impl OnChip {
    /// True if all were reached and nothing was left.
    pub fn is_clean(&self) -> bool {
        let all = self.multiprocessors;
        self.shared_scrubbed == all && self.registers_scrubbed == all && self.residue == 0
    }
}

/// Zeroes shared memory and registers of all multiprocessors.
pub fn scrub_on_chip<D: Device>(on: &D) -> Result<OnChip, LaunchError> {
    let shared_bytes = on.shared_bytes_max() / 4 * 4;
    let mut done = OnChip {
        multiprocessors: on.multiprocessors(),
        shared_scrubbed: 0,
        registers_scrubbed: 0,
        shared_bytes,
        residue: 0,
        launches: 0,
    };
    done.shared_scrubbed = until_all(on, &mut done, |seen, residue| {
        let grid = [on.multiprocessors(), 1, 1];
        let shape = Shape {
            grid,
            block: 1024,
            shared_bytes,
        };
        let mut arguments = [
            shared_bytes.into(),
            on.span_mut::<u32>(seen).as_argument(),
            (SEEN_WORDS as u32).into(),
            on.span_mut::<u64>(residue).as_argument(),
        ];
        // SAFETY: it writes these two, of the lengths that it is told or knows.
        unsafe { on.launch("scrub_shared", shape, &mut arguments) }
    })?;
    let zero = on.upload(&[0; 4])?;
    done.registers_scrubbed = until_all(on, &mut done, |seen, residue| {
        let grid = [on.multiprocessors(), 1, 1];
        let shape = Shape {
            grid,
            block: REGISTER_THREADS,
            shared_bytes: 0,
        };
        let mut arguments = [
            on.span::<u32>(&zero).into(),
            ROUNDS.into(),
            on.span_mut::<u32>(seen).as_argument(),
            (SEEN_WORDS as u32).into(),
            on.span_mut::<u64>(residue).as_argument(),
        ];
        // SAFETY: it reads one word and writes these two, of the lengths that it is told or knows.
        unsafe { on.launch("scrub_registers", shape, &mut arguments) }
    })?;
    Ok(done)
}

/// Launches until every multiprocessor was seen, or often enough. Returns how many were.
fn until_all<D: Device>(
    on: &D,
    done: &mut OnChip,
    launch: impl Fn(&mut D::Memory, &mut D::Memory) -> Result<(), LaunchError>,
) -> Result<u32, LaunchError> {
    let mut words = [0u32; SEEN_WORDS];
    let mut found = [0u64];
    let mut seen = on.upload(as_bytes(&words))?;
    let mut residue = on.upload(as_bytes(&found))?;
    let mut reached = 0;
    for _ in 0..LAUNCHES_MAX {
        launch(&mut seen, &mut residue)?;
        done.launches += 1;
        on.download(&seen, as_bytes_mut(&mut words))?;
        reached = words.iter().map(|word| word.count_ones()).sum();
        if reached >= on.multiprocessors() {
            break;
        }
    }
    on.download(&residue, as_bytes_mut(&mut found))?;
    done.residue += found[0];
    Ok(reached)
}
