//! Counters of the allocator, cheap enough to sit in every free.
//!
//! Each thread adds to plain cells of its own and moves them into the shared atomics when they
//! amount to [`BATCH_BYTES`] or hold residue. So totals can lag behind by one batch for each other
//! thread, and a batch is lost when a thread ends: evidence is only ever understated. Nothing here
//! allocates, locks, or runs a destructor: it is called from inside the allocator.

use crate::Residue;
use std::cell::Cell;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

/// What a thread may hold back, bytes zeroed or bytes of change in live memory.
pub const BATCH_BYTES: u64 = 64 << 10;

static ZEROED: AtomicU64 = AtomicU64::new(0);
static VERIFIED: AtomicU64 = AtomicU64::new(0);
static RESIDUE: AtomicU64 = AtomicU64::new(0);
/// Offset of the very first residue in its block.
static FIRST_RESIDUE: AtomicU64 = AtomicU64::new(NONE);
/// No block is that long.
const NONE: u64 = u64::MAX;
static LIVE: AtomicI64 = AtomicI64::new(0);
static LIVE_PEAK: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static PENDING: Pending = const {
        Pending { zeroed: Cell::new(0), verified: Cell::new(0), live: Cell::new(0) }
    };
}

struct Pending {
    zeroed: Cell<u64>,
    verified: Cell<u64>,
    live: Cell<i64>,
}

/// Totals since the process began, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AllocCounters {
    /// Overwritten with zero before they were freed.
    pub bytes_zeroed: u64,
    /// Of those, read back.
    pub bytes_verified: u64,
    /// Of those, found not to be zero.
    pub residue_bytes: u64,
    /// Offset of the very first of those in the block that was freed.
    pub first_residue: Option<u64>,
    /// Allocated now and not yet freed.
    pub live_bytes: u64,
    /// The most that ever were.
    pub live_bytes_peak: u64,
}

impl AllocCounters {
    /// What was zeroed, verified and found since `earlier`; live bytes as they are now.
    pub fn since(&self, earlier: &AllocCounters) -> AllocCounters {
        AllocCounters {
            bytes_zeroed: self.bytes_zeroed - earlier.bytes_zeroed,
            bytes_verified: self.bytes_verified - earlier.bytes_verified,
            residue_bytes: self.residue_bytes - earlier.residue_bytes,
            first_residue: self.first_residue.filter(|_| earlier.residue_bytes == 0),
            ..*self
        }
    }
}

/// The totals, with all of the calling thread's own part in them.
pub fn snapshot() -> AllocCounters {
    PENDING.with(flush);
    AllocCounters {
        bytes_zeroed: ZEROED.load(Relaxed),
        bytes_verified: VERIFIED.load(Relaxed),
        residue_bytes: RESIDUE.load(Relaxed),
        first_residue: Some(FIRST_RESIDUE.load(Relaxed)).filter(|first| *first != NONE),
        live_bytes: LIVE.load(Relaxed).max(0) as u64,
        live_bytes_peak: LIVE_PEAK.load(Relaxed).max(0) as u64,
    }
}

#[inline]
pub(super) fn allocated(bytes: usize) {
    PENDING.with(|pending| change_live(pending, bytes as i64));
}

#[inline]
pub(super) fn freed(bytes: usize) {
    PENDING.with(|pending| change_live(pending, -(bytes as i64)));
}

#[inline]
pub(super) fn zeroed(bytes: usize, verified: usize, residue: Residue) {
    PENDING.with(|pending| {
        pending.zeroed.set(pending.zeroed.get() + bytes as u64);
        pending
            .verified
            .set(pending.verified.get() + verified as u64);
        if residue.count > 0 {
            let first = residue.first_offset.unwrap_or(0);
            let _ = FIRST_RESIDUE.compare_exchange(NONE, first, Relaxed, Relaxed);
            RESIDUE.fetch_add(residue.count, Relaxed);
        }
        if pending.zeroed.get() >= BATCH_BYTES || residue.count > 0 {
            flush(pending);
        }
    });
}

#[inline]
fn change_live(pending: &Pending, bytes: i64) {
    pending.live.set(pending.live.get() + bytes);
    if pending.live.get().unsigned_abs() >= BATCH_BYTES {
        flush(pending);
    }
}

#[cold]
fn flush(pending: &Pending) {
    ZEROED.fetch_add(pending.zeroed.take(), Relaxed);
    VERIFIED.fetch_add(pending.verified.take(), Relaxed);
    let change = pending.live.take();
    let live = LIVE.fetch_add(change, Relaxed) + change;
    LIVE_PEAK.fetch_max(live, Relaxed);
}
