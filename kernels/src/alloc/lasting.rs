//! Memory that is written once and read ever after, such as a model's weights: outside all heaps, and in large pages.
//!
//! The threads of a forked process are given the heaps that its parent's threads left, and fill the gaps there. With each
//! such write between two weights a large page would fall apart into small ones. Nothing but weights ever lies here. What
//! is given back is given to nobody else: it is unmapped with its slab, once none of that is left and another is cut.
//! What of a slab is nobody's yet cannot be written, so that it counts to no process's bound.

use super::{counters, pages::LARGE_BYTES};
use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

/// A slab, where no more is asked for at once, bytes.
const SLAB_BYTES: usize = 64 << 20;
/// Where blocks begin, bytes: a cache line.
const ALIGNED_BYTES: usize = 64;

/// The slab that blocks are cut from now.
static CURRENT: Mutex<Option<Cutting>> = Mutex::new(None);

/// Numbers of which all bits may be zero.
pub trait Number: Copy + private::Sealed {}
impl Number for f32 {}
impl Number for u32 {}

mod private {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
}

/// So many numbers, for as long as this lives.
#[derive(Debug)]
pub struct Lasting<T: Number> {
    start: NonNull<T>,
    length: usize,
    /// What they lie in.
    _slab: Arc<Slab>,
}

// SAFETY: the block belongs to this value alone, and numbers are tied to no thread.
unsafe impl<T: Number + Send> Send for Lasting<T> {}
// SAFETY: as above; shared, it can only be read.
unsafe impl<T: Number + Sync> Sync for Lasting<T> {}

impl<T: Number> Lasting<T> {
    /// `length` zeroes. Like a vector, ends the process where there is no memory.
    pub fn zeroes(length: usize) -> Lasting<T> {
        let layout = Layout::array::<T>(length).ok();
        let room = layout.and_then(|layout| layout.size().checked_next_multiple_of(ALIGNED_BYTES));
        let cut = room.and_then(cut);
        let Some((start, slab)) = cut else {
            handle_alloc_error(layout.unwrap_or(Layout::new::<T>()));
        };
        counters::allocated(size_of::<T>() * length);
        Lasting {
            start: start.cast(),
            length,
            _slab: slab,
        }
    }
}

impl<T: Number> Drop for Lasting<T> {
    fn drop(&mut self) {
        counters::freed(size_of::<T>() * self.length);
    }
}

/// A block of so many bytes, which nobody had before.
fn cut(bytes: usize) -> Option<(NonNull<u8>, Arc<Slab>)> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |cutting: &&mut Cutting| cutting.slab.bytes - cutting.used >= bytes;
    let cutting = match current.as_mut().filter(fits) {
        Some(_) => current.as_mut()?,
        None => current.insert(Cutting {
            slab: Arc::new(Slab::map(bytes.max(SLAB_BYTES))?),
            used: 0,
            open: 0,
        }),
    };
    cutting.open(cutting.used + bytes)?;
    // SAFETY: it fits, so the block begins inside the slab or at its end.
    let start = unsafe { cutting.slab.start.add(cutting.used) };
    cutting.used += bytes;
    Some((start, Arc::clone(&cutting.slab)))
}

/// A slab, how much of it is somebody's, and how much can be written: whole large pages.
struct Cutting {
    slab: Arc<Slab>,
    used: usize,
    open: usize,
}

impl Cutting {
    /// Has the slab written to that far.
    fn open(&mut self, until: usize) -> Option<()> {
        let until = until.next_multiple_of(LARGE_BYTES);
        if until <= self.open {
            return Some(());
        }
        // SAFETY: what is opened lies in the slab, whose length is of whole large pages, and is nobody's yet.
        let rc = unsafe {
            let start = self.slab.start.add(self.open);
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mprotect(start.as_ptr().cast(), until - self.open, access)
        };
        self.open = until;
        (rc == 0).then_some(())
    }
}

/// A mapping that begins at a large page, and that can be neither read nor written as long as it is not opened.
#[derive(Debug)]
struct Slab {
    start: NonNull<u8>,
    bytes: usize,
    /// The whole mapping, of which it is a part.
    mapped: NonNull<u8>,
    mapped_bytes: usize,
}

// SAFETY: a slab is a range of addresses; what lies there belongs to the blocks that were cut.
unsafe impl Send for Slab {}
// SAFETY: as above.
unsafe impl Sync for Slab {}

impl Slab {
    fn map(bytes: usize) -> Option<Slab> {
        let bytes = bytes.checked_next_multiple_of(LARGE_BYTES)?;
        let mapped_bytes = bytes.checked_add(LARGE_BYTES)?;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no memory that exists.
        let mapped = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                libc::PROT_NONE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if mapped == libc::MAP_FAILED {
            return None;
        }
        let mapped = NonNull::new(mapped.cast::<u8>())?;
        let off = mapped.as_ptr().align_offset(LARGE_BYTES);
        // SAFETY: a large page more was mapped than is asked for, so that much can be left out.
        let start = unsafe { mapped.add(off) };
        // SAFETY: the range is in the mapping; the advice changes no content, and where it fails only speed is lost.
        unsafe { libc::madvise(start.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Some(Slab {
            start,
            bytes,
            mapped,
            mapped_bytes,
        })
    }
}

impl Drop for Slab {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and none of the blocks in it is left.
        unsafe { libc::munmap(self.mapped.as_ptr().cast(), self.mapped_bytes) };
    }
}

impl<T: Number> Deref for Lasting<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: the block is this long, begins at a cache line, and the kernel has initialised it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl<T: Number> DerefMut for Lasting<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and nobody else has it.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.length) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_zero_holds_what_is_written_and_may_be_empty() {
        let mut numbers: Lasting<u32> = Lasting::zeroes(5000);
        assert!(numbers.iter().all(|number| *number == 0));
        numbers[4999] = 7;
        assert_eq!((numbers.len(), numbers[4999]), (5000, 7));
        assert!(Lasting::<f32>::zeroes(0).is_empty());
    }

    /// Fails where two are given the same memory, or one that is given back to another.
    #[test]
    fn no_memory_is_given_twice() {
        let write = |nth: u32| {
            let mut block = Lasting::<u32>::zeroes(100 + nth as usize);
            assert!(block.iter().all(|number| *number == 0));
            block.fill(nth + 1);
            block
        };
        let mut blocks: Vec<Lasting<u32>> = (0..50).map(write).collect();
        drop(blocks.drain(..25));
        blocks.extend((50..100).map(write));
        for (block, nth) in blocks.iter().zip(25..) {
            assert!(block.iter().all(|number| *number == nth + 1));
            assert!(block.as_ptr().addr().is_multiple_of(ALIGNED_BYTES));
        }
    }

    /// Fails where a slab could be written to its end, and so count to its process's bound, before it is used.
    #[test]
    fn what_is_nobodys_cannot_be_written() {
        let mut cutting = Cutting {
            slab: Arc::new(Slab::map(SLAB_BYTES).expect("room for one")),
            used: 0,
            open: 0,
        };
        cutting.open(1).expect("a page of it");
        let at = cutting.slab.start.as_ptr().addr();
        let smaps = std::fs::read_to_string("/proc/self/maps").expect("the kernel tells");
        let access_at = |at: usize| {
            let line = smaps.lines().find(|line| {
                let range = line
                    .split_once(' ')
                    .and_then(|(range, _)| range.split_once('-'));
                let number = |digits| usize::from_str_radix(digits, 16).unwrap_or_default();
                range.is_some_and(|(start, end)| (number(start)..number(end)).contains(&at))
            });
            line.and_then(|line| line.split(' ').nth(1))
        };
        assert_eq!(access_at(at), Some("rw-p"));
        assert_eq!(access_at(at + LARGE_BYTES), Some("---p"));
    }

    #[test]
    fn one_may_be_larger_than_a_slab() {
        let mut block: Lasting<f32> = Lasting::zeroes(SLAB_BYTES / 4 + 1);
        let last = block.len() - 1;
        block[last] = 1.0;
        assert_eq!((block[0], block[last]), (0.0, 1.0));
    }
}
