//! An allocator that zeroes what is freed, reads it back, and counts both.
//!
//! It sits over the system's allocator as the `#[global_allocator]` of every process that prompts pass
//! through. What a job wrote to the heap is zero before the next job can be given that memory, whoever
//! freed it and on whatever thread, and also in memory that the C library keeps for itself.
//!
//! `realloc` always moves: the system's own would copy and free the old block behind our back, and what
//! it does differs between C libraries. Memory that C code allocates for itself is not covered.

mod counters;
mod lasting;
mod pages;

pub use counters::{AllocCounters, BATCH_BYTES, snapshot};
pub use lasting::Lasting;
pub use pages::Mappings;

use crate::fill::fill_zero_uninit;
use crate::{Measure, Residue, verify_zero};
use std::alloc::{GlobalAlloc, Layout, System};
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static VERIFYING: AtomicBool = AtomicBool::new(true);

/// An allocator, the system's if no other is named, but every freed byte is zeroed and read back first.
///
/// ```
/// #[global_allocator]
/// static ALLOCATOR: bulkhead_kernels::ZeroingAllocator = bulkhead_kernels::ZeroingAllocator::SYSTEM;
/// # fn main() {
/// let before = bulkhead_kernels::alloc::snapshot();
/// drop(vec![7u8; 1000]);
/// let done = bulkhead_kernels::alloc::snapshot().since(&before);
/// assert!(done.bytes_zeroed >= 1000 && done.residue_bytes == 0);
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct ZeroingAllocator<A = System>(A);

impl ZeroingAllocator {
    /// Over the system's.
    pub const SYSTEM: ZeroingAllocator = ZeroingAllocator::over(System);
}

impl<A> ZeroingAllocator<A> {
    /// Over another. That one's own books must hold nothing of what it was given to keep.
    pub const fn over(allocator: A) -> ZeroingAllocator<A> {
        ZeroingAllocator(allocator)
    }
}

/// Switches the read-back of freed memory, from now on and on all threads. On at the start.
pub fn set_verifying(on: bool) {
    VERIFYING.store(on, Relaxed);
}

/// Gives memory that was freed back to the system, where the C library can: it is zero, but it takes
/// room, and in a process that forks each child would copy it.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: releases pages of free chunks alone, under the C library's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What the C library's allocator takes from the system as a block of its own, from this size on, bytes; and what
/// may lie free at a heap's end. They are the most that it would come to by itself.
#[cfg(target_env = "gnu")]
const OWN_BLOCK_BYTES: libc::c_int = 32 << 20;

/// The same while a model is loaded, bytes.
#[cfg(target_env = "gnu")]
const LOADED_BLOCK_BYTES: libc::c_int = 128 << 10;

/// While a model is loaded, until [`settle`]: what is large and only needed for that lies outside the C library's heaps, and
/// nothing is left of it there.
pub fn settle_for_loading() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets an integer of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LOADED_BLOCK_BYTES);
    }
}

/// Fixes how the C library's allocator deals with the system, so that it never asks a file whether memory may be
/// given back: a sealed process would be killed for the question. Free memory goes back by [`give_back`] alone, and
/// where a whole heap is free. To be called before other threads exist.
pub fn settle() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two integers of the allocator, under its own lock.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_BLOCK_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 2 * OWN_BLOCK_BYTES);
    }
}

// SAFETY: every block comes from the allocator below with the caller's layout and goes back to it with the same
// layout. In between only bytes inside the block are written, and only after the caller has given it
// up. Nothing here unwinds: there is no indexing, no arithmetic that can overflow, no allocation.
unsafe impl<A: GlobalAlloc> GlobalAlloc for ZeroingAllocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise about `layout` is passed on.
        let block = unsafe { self.0.alloc(layout) };
        if !block.is_null() {
            counters::allocated(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Left to it: fresh pages from the kernel are zero without being written.
        // SAFETY: the caller's promise about `layout` is passed on.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if !block.is_null() {
            counters::allocated(layout.size());
        }
        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if Measure::Heap.is_on()
            && let Some(start) = NonNull::new(block)
        {
            // SAFETY: the caller gives the block up, so nobody else reads or writes these bytes,
            // and it is `layout.size()` bytes long.
            unsafe { wipe(start, layout.size(), fill_zero_uninit) };
        }
        counters::freed(layout.size());
        // SAFETY: the caller's promise about `block` and `layout` is passed on.
        unsafe { self.0.dealloc(block, layout) };
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that `size`, rounded up to the alignment, does not overflow.
        let new_layout = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        // SAFETY: the caller promises that `size` is not zero.
        let new_block = unsafe { self.alloc(new_layout) };
        if !new_block.is_null() {
            // SAFETY: both blocks are live, distinct, and at least this long.
            unsafe { new_block.copy_from_nonoverlapping(block, layout.size().min(size)) };
            // SAFETY: the block is the caller's, with this layout, and given up on success.
            unsafe { self.dealloc(block, layout) };
        }
        new_block
    }
}

/// Zeroes a block with `fill`, reads it back if that is switched on, and counts.
///
/// # Safety
/// `block` is valid for reads and writes of `bytes` bytes, and nobody else uses them.
#[inline]
unsafe fn wipe(
    block: NonNull<u8>,
    bytes: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> &mut [u8],
) -> Residue {
    // SAFETY: valid and exclusive by the caller's promise; `MaybeUninit` asks for no more.
    let memory = unsafe { std::slice::from_raw_parts_mut(block.as_ptr().cast(), bytes) };
    let filled = fill(memory);
    let verify = VERIFYING.load(Relaxed);
    let residue = if verify {
        verify_zero(filled)
    } else {
        Residue::default()
    };
    counters::zeroed(bytes, if verify { bytes } else { 0 }, residue);
    residue
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_that_forgets_to_fill_is_found() {
        let mut block = vec![0x77u8; 300];
        let start = NonNull::from(&mut block[0]);
        // SAFETY: the vector is owned here, initialised, 300 bytes long, and used by nobody else.
        let residue = unsafe { wipe(start, 300, |bytes| bytes.assume_init_mut()) };
        assert_eq!(residue.count, 300);
        // SAFETY: as above.
        let residue = unsafe { wipe(start, 300, fill_zero_uninit) };
        assert!(residue.is_clean());
        assert!(
            snapshot().residue_bytes >= 300,
            "residue reaches the totals at once"
        );
    }
}
