//! Scrubbing the part of a thread's stack that is not in use.
//!
//! Function calls leave their frames behind: parsing a prompt may leave pieces of it below the stack
//! pointer until a later call happens to overwrite them. After a job, a thread calls [`scrub`], which
//! pushes zeroed frames over that region and pops them again. Only memory below the caller's frame is
//! touched; live frames cannot be.

use crate::{Measure, fill_zero};

/// Bytes of one pushed frame.
const FRAME_BYTES: usize = 4096;

/// The most that one call overwrites, bytes. Rust's default thread stack is 2 MiB; half of it leaves
/// room for the caller's own frames.
pub const SCRUB_BYTES_MAX: usize = 1 << 20;

/// Overwrites about `bytes` of the current thread's unused stack with zero (at most
/// [`SCRUB_BYTES_MAX`]), and returns how many bytes that were: none where [`Measure::Stacks`] is off.
pub fn scrub(bytes: usize) -> u64 {
    if !Measure::Stacks.is_on() {
        return 0;
    }
    let frames = bytes.min(SCRUB_BYTES_MAX).div_ceil(FRAME_BYTES);
    push(frames);
    (frames * FRAME_BYTES) as u64
}

/// One frame of zeros, and below it the rest. Not a loop: only a deeper call reaches deeper memory.
#[inline(never)]
fn push(frames: usize) {
    if frames == 0 {
        return;
    }
    let mut frame = [0u8; FRAME_BYTES];
    push(frames - 1);
    // After the call, so that the frame is live across it and the call cannot become a jump.
    fill_zero(&mut frame);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fill::observe;

    /// Leaves `value` in 8 KiB of stack below the caller and says where.
    #[inline(never)]
    fn litter(value: u8) -> usize {
        let mut frame = [0u8; 8192];
        frame.fill(value);
        observe(frame.as_ptr());
        frame.as_ptr() as usize
    }

    /// Counts words of nothing but `value` at `address`, in the stack below the caller. Words, since a
    /// single byte of an address that a call leaves there may happen to be the value.
    #[inline(never)]
    fn count_dead(address: usize, value: u8) -> usize {
        let first = address.next_multiple_of(size_of::<u64>());
        let mut count = 0;
        // The lower half only: the frame of this very function may lie over the upper end.
        for word in 0..511 {
            // SAFETY: the address lies in this thread's mapped stack (a frame was there a moment
            // ago and nothing was unmapped) and is aligned; the read is volatile, of plain bytes,
            // and its value is only compared.
            let word = unsafe { std::ptr::read_volatile((first as *const u64).add(word)) };
            count += usize::from(word == u64::from_ne_bytes([value; 8]));
        }
        count
    }

    #[test]
    fn what_a_call_left_behind_is_gone_after_a_scrub() {
        let address = litter(0xC7);
        assert!(
            count_dead(address, 0xC7) > 500,
            "the test must bite: the litter is there"
        );
        assert_eq!(scrub(64 << 10), 64 << 10);
        assert_eq!(count_dead(address, 0xC7), 0);
    }

    #[test]
    fn the_greatest_scrub_fits_a_default_thread() {
        let bytes = std::thread::spawn(|| scrub(usize::MAX))
            .join()
            .expect("the stack holds");
        assert_eq!(bytes, SCRUB_BYTES_MAX as u64);
    }
}
