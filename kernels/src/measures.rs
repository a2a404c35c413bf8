//! The measures that keep memory clean, each of which can be switched off for the whole process.
//!
//! All are on. Off serves two ends only: measuring what a measure costs, and showing in a test what it alone protects.
//! Nothing is zeroed here: what was freed while a measure was off stays as it is.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// One measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Memory that is freed is zeroed and read back.
    Heap,
    /// What calls left behind on a thread's stack is overwritten.
    Stacks,
    /// Buffers that are kept from job to job are zeroed and read back.
    Scratch,
    /// Blocks of keys and values are zeroed and read back.
    Blocks,
}

static OFF: AtomicU8 = AtomicU8::new(0);

impl Measure {
    /// All of them.
    pub const ALL: [Measure; 4] = [
        Measure::Heap,
        Measure::Stacks,
        Measure::Scratch,
        Measure::Blocks,
    ];

    /// Its name in configurations and between processes.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Heap => "heap",
            Measure::Stacks => "stacks",
            Measure::Scratch => "scratch",
            Measure::Blocks => "blocks",
        }
    }

    /// The measure of this name.
    pub fn named(name: &str) -> Option<Measure> {
        Measure::ALL.into_iter().find(|one| one.name() == name)
    }

    /// Whether it is in force.
    #[inline]
    pub fn is_on(self) -> bool {
        OFF.load(Relaxed) & self.bit() == 0
    }

    /// Switches it off. Where prompts are worked on, at the start, before other threads exist.
    pub fn switch_off(self) {
        OFF.fetch_or(self.bit(), Relaxed);
    }

    /// Switches it on again: for measuring what it costs, with and without in one process.
    pub fn switch_on(self) {
        OFF.fetch_and(!self.bit(), Relaxed);
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_a_bit_of_its_own() {
        let bits = Measure::ALL.iter().fold(0, |bits, one| bits | one.bit());
        assert_eq!(bits.count_ones() as usize, Measure::ALL.len());
        for one in Measure::ALL {
            assert_eq!(Measure::named(one.name()), Some(one));
        }
        assert_eq!(Measure::named("zeroing"), None);
    }
}
