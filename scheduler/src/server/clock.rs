//! The server's clocks. The core never sees them; the driver and the front door read them here.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A monotonic clock that counts nanoseconds from the server's start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    pub fn start() -> Self {
        Clock {
            start: Instant::now(),
        }
    }

    /// Nanoseconds since the start; good for 584 years.
    pub fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }
}

/// Seconds since 1970, for tokens and records.
pub fn unix_s() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
