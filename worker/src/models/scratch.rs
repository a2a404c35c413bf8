//! Buffers for activations, kept between steps and scrubbed at the end of a job.
//!
//! Kept, because asking the system for megabytes anew in every layer costs more than computing in
//! them. Dirty from one use to the next inside a job; how far each was written is known, and a scrub
//! zeroes that far and reads it back.

use crate::engine::Scrubbed;
use bulkhead_kernels::{Measure, fill_zero, verify_zero};
use pulp::bytemuck::cast_slice_mut;
use std::ops::Range;

/// A buffer that grew beyond this is given back at the next scrub, floats.
const KEPT_FLOATS_MAX: usize = 8 << 20;

/// One growing buffer.
#[derive(Debug, Default)]
pub struct Buffer {
    floats: Vec<f32>,
    dirty: usize,
}

impl Buffer {
    /// `length` floats of unspecified (but initialised) content, to be overwritten.
    pub fn take(&mut self, length: usize) -> &mut [f32] {
        if self.floats.len() < length {
            // A new one instead of growing: the old content need not be copied.
            self.floats = vec![0.0; length.next_power_of_two()];
            self.dirty = 0;
        }
        self.dirty = self.dirty.max(length);
        &mut self.floats[..length]
    }

    /// Of its rows, `width` wide, keeps these, which ascend; all behind them is zeroed and read back.
    pub fn keep(&mut self, rows: &[usize], width: usize) -> Scrubbed {
        for (to, from) in rows.iter().enumerate() {
            self.floats
                .copy_within(from * width..(from + 1) * width, to * width);
        }
        self.scrub_from(rows.len() * width)
    }

    /// Zeroes these floats, as far as they were written, and reads them back; the others stay.
    pub fn scrub_part(&mut self, part: Range<usize>) -> Scrubbed {
        let end = part.end.min(self.dirty);
        zeroed(&mut self.floats[part.start.min(end)..end])
    }

    /// Zeroes what was written since the last time, and reads it back.
    pub fn scrub(&mut self) -> Scrubbed {
        let scrubbed = self.scrub_from(0);
        if self.floats.len() > KEPT_FLOATS_MAX {
            self.floats = Vec::new();
        }
        scrubbed
    }

    fn scrub_from(&mut self, start: usize) -> Scrubbed {
        let end = self.dirty.max(start);
        self.dirty = start;
        zeroed(&mut self.floats[start..end])
    }
}

fn zeroed(floats: &mut [f32]) -> Scrubbed {
    if !Measure::Scratch.is_on() {
        return Scrubbed::default();
    }
    let bytes: &mut [u8] = cast_slice_mut(floats);
    fill_zero(bytes);
    Scrubbed::read_back(bytes.len() as u64, verify_zero(bytes))
}

/// The sum of two scrubs.
pub fn sum(a: Scrubbed, b: Scrubbed) -> Scrubbed {
    Scrubbed {
        zeroed: a.zeroed + b.zeroed,
        verified: a.verified + b.verified,
        residue: a.residue + b.residue,
        first_residue: a.first_residue.or(b.first_residue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_zero_after_a_scrub_and_counted() {
        let mut buffer = Buffer::default();
        buffer.take(1000).fill(1.0);
        buffer.take(10).fill(2.0);
        let scrubbed = buffer.scrub();
        assert_eq!(
            scrubbed,
            Scrubbed {
                zeroed: 4000,
                verified: 4000,
                ..Scrubbed::default()
            }
        );
        assert!(buffer.take(1000).iter().all(|x| *x == 0.0));
        assert_eq!(buffer.scrub().zeroed, 4000);
        assert_eq!(buffer.scrub(), Scrubbed::default());
    }
}
