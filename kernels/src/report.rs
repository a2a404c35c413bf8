//! The evidence that a scrub returns.

use crate::Residue;

/// What one scrub did and found. Sums of reports are reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use = "residue in a report means that the memory must not be used again"]
pub struct ScrubReport {
    /// Bytes overwritten with zero.
    pub bytes_zeroed: u64,
    /// Bytes read back.
    pub bytes_verified: u64,
    /// Of those, bytes that were not zero.
    pub residue_bytes: u64,
    /// Offset of the first of them in the memory that was scrubbed, where that is known.
    pub first_residue: Option<u64>,
    /// How long it took on the caller's clock, nanoseconds.
    pub scrub_ns: u64,
}

impl ScrubReport {
    /// True when nothing that was read back held anything but zero.
    pub fn is_clean(&self) -> bool {
        self.residue_bytes == 0
    }

    /// The report of `bytes` zeroed and all read back, with what the read-back found.
    pub fn of(bytes: u64, residue: Residue, scrub_ns: u64) -> Self {
        ScrubReport {
            bytes_zeroed: bytes,
            bytes_verified: bytes,
            residue_bytes: residue.count,
            first_residue: residue.first_offset,
            scrub_ns,
        }
    }

    /// Adds another scrub's evidence. The first residue stays that of whoever found one first.
    pub fn add(&mut self, other: ScrubReport) {
        self.bytes_zeroed += other.bytes_zeroed;
        self.bytes_verified += other.bytes_verified;
        self.residue_bytes += other.residue_bytes;
        self.first_residue = self.first_residue.or(other.first_residue);
        self.scrub_ns += other.scrub_ns;
    }
}
