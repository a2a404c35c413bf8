//! The pool on the CPU: one anonymous mapping of its own, outside the heap.
//!
//! The kernel gives it zeroed pages when they are first touched, so an unused quota costs nothing. It
//! is left out of core dumps, and kept out of swap where the process may lock memory. It asks for large
//! pages: attention reads a few kilobytes here and there in all of it, and each small page would have to
//! be looked up anew. How far it was
//! ever written is tracked, so that a scrub covers that and not the whole quota.

use super::{Pool, PoolError, check, span};
use crate::{Residue, fill_zero, verify_zero};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// The greatest quota, bytes: what a process of 48-bit addresses can map.
const QUOTA_BYTES_MAX: usize = 1 << 48;

/// A tenant's memory in this process.
#[derive(Debug)]
pub struct CpuPool {
    start: NonNull<u8>,
    quota_bytes: usize,
    touched_bytes: usize,
    locked: bool,
}

// SAFETY: the mapping belongs to this value alone; nothing about it is tied to a thread.
unsafe impl Send for CpuPool {}

impl CpuPool {
    /// Maps a pool of `quota_bytes`. Memory is taken from the system only as it is touched.
    pub fn new(quota_bytes: usize) -> Result<Self, PoolError> {
        if quota_bytes == 0 || quota_bytes > QUOTA_BYTES_MAX {
            return Err(PoolError::Quota { bytes: quota_bytes });
        }
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no
        // memory that exists.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                quota_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            let detail = io::Error::last_os_error().to_string();
            return Err(PoolError::NoMemory {
                bytes: quota_bytes,
                detail,
            });
        }
        let Some(start) = NonNull::new(start.cast()) else {
            return Err(PoolError::NoMemory {
                bytes: quota_bytes,
                detail: "mapped at 0".into(),
            });
        };
        let mut pool = CpuPool {
            start,
            quota_bytes,
            touched_bytes: 0,
            locked: false,
        };
        pool.shield();
        Ok(pool)
    }

    /// Asks that the pool be left out of core dumps and of swap, and for large pages. All are best
    /// effort: the first fails on kernels without it, the second where RLIMIT_MEMLOCK is smaller than the
    /// quota.
    fn shield(&mut self) {
        // SAFETY: the range is this pool's own mapping; the advice changes no content.
        unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                self.quota_bytes,
                libc::MADV_DONTDUMP,
            )
        };
        // SAFETY: as above. Fails on kernels without large pages, which changes nothing but speed.
        unsafe {
            libc::madvise(
                self.start.as_ptr().cast(),
                self.quota_bytes,
                libc::MADV_HUGEPAGE,
            )
        };
        // SAFETY: as above. Locking on fault only: locking at once would touch the whole quota.
        let rc = unsafe {
            libc::mlock2(
                self.start.as_ptr().cast(),
                self.quota_bytes,
                libc::MLOCK_ONFAULT,
            )
        };
        self.locked = rc == 0;
    }

    /// True where the system promised to keep the pool out of swap.
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// A range, to read.
    pub fn slice(&self, range: Range<usize>) -> Result<&[u8], PoolError> {
        check(&range, self.quota_bytes)?;
        // SAFETY: the range lies in the mapping, whose pages are initialised (the kernel zeroes
        // them), and `&self` keeps writers away while the slice lives.
        Ok(
            unsafe {
                std::slice::from_raw_parts(self.start.add(range.start).as_ptr(), range.len())
            },
        )
    }

    /// A range, to write. It counts as touched from now on.
    pub fn slice_mut(&mut self, range: Range<usize>) -> Result<&mut [u8], PoolError> {
        check(&range, self.quota_bytes)?;
        self.touched_bytes = self.touched_bytes.max(range.end);
        // SAFETY: the range lies in the mapping, whose pages are initialised, and `&mut self` keeps
        // everyone else away while the slice lives.
        Ok(unsafe {
            std::slice::from_raw_parts_mut(self.start.add(range.start).as_ptr(), range.len())
        })
    }

    /// The whole pool, to write. All of it counts as touched from now on; where less is enough,
    /// [`CpuPool::slice_mut`] makes scrubs cheaper.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        self.touched_bytes = self.quota_bytes;
        // SAFETY: as in `slice_mut`, over the whole mapping.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.quota_bytes) }
    }
}

impl Pool for CpuPool {
    fn quota_bytes(&self) -> usize {
        self.quota_bytes
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), PoolError> {
        let range = span(offset, bytes.len(), self.quota_bytes)?;
        self.slice_mut(range)?.copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, offset: usize, bytes: &mut [u8]) -> Result<(), PoolError> {
        let range = span(offset, bytes.len(), self.quota_bytes)?;
        bytes.copy_from_slice(self.slice(range)?);
        Ok(())
    }

    fn zero(&mut self, range: Range<usize>) -> Result<(), PoolError> {
        check(&range, self.quota_bytes)?;
        // Beyond what was touched the kernel's own zero pages stand; writing would only take memory.
        let end = range.end.min(self.touched_bytes);
        if range.start < end {
            fill_zero(self.slice_mut(range.start..end)?);
        }
        Ok(())
    }

    fn verify(&mut self, range: Range<usize>) -> Result<Residue, PoolError> {
        Ok(verify_zero(self.slice(range)?))
    }

    fn touched_bytes(&self) -> usize {
        self.touched_bytes
    }
}

impl Drop for CpuPool {
    fn drop(&mut self) {
        if let Ok(written) = self.slice_mut(0..self.touched_bytes) {
            fill_zero(written);
        }
        // SAFETY: the mapping is this value's own, of this size, and never used again. The kernel
        // zeroes pages before anyone else gets them; the fill above is for pages it may keep.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.quota_bytes) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_untouched_quota_takes_no_memory_and_a_scrub_keeps_it_so() {
        let resident = || {
            let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
            let pages = statm.split(' ').nth(1).expect("resident pages");
            pages.parse::<u64>().expect("a number") * 4096
        };
        let before = resident();
        let mut pool = CpuPool::new(64 << 30).expect("address space is plenty");
        pool.write(0, &[1; 4096]).expect("in range");
        assert_eq!(
            pool.scrub_all(&|| 0)
                .expect("no device to fail")
                .bytes_zeroed,
            4096
        );
        assert!(resident() < before + (256 << 20));
    }

    #[test]
    fn slices_are_bounded_by_the_quota() {
        let mut pool = CpuPool::new(100).expect("small");
        assert!(pool.slice(0..100).is_ok());
        assert!(pool.slice_mut(0..101).is_err());
        assert_eq!(
            pool.touched_bytes(),
            0,
            "a refused range counts for nothing"
        );
        assert_eq!(pool.as_mut_slice().len(), 100);
        assert_eq!(pool.touched_bytes(), 100);
    }

    #[test]
    fn impossible_quotas_are_refused() {
        for bytes in [0, usize::MAX] {
            assert!(matches!(CpuPool::new(bytes), Err(PoolError::Quota { .. })));
        }
    }
}
