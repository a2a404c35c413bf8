//! The words of a verdict.

use bulkhead_kernels::device::DeviceInfo;
use std::fmt;

/// How a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// All is well.
    Healthy,
    /// It serves, and somebody should look.
    Degraded(Trouble),
    /// Nothing may run on it.
    Bad(Trouble),
}

impl Health {
    /// Whether nothing may run on it.
    pub fn is_bad(self) -> bool {
        matches!(self, Health::Bad(_))
    }

    /// Its word in metrics and records.
    pub fn word(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Degraded(_) => "degraded",
            Health::Bad(_) => "bad",
        }
    }

    /// What is the matter, where something is.
    pub fn trouble(self) -> Option<Trouble> {
        match self {
            Health::Healthy => None,
            Health::Degraded(trouble) | Health::Bad(trouble) => Some(trouble),
        }
    }
}

/// What is the matter with a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It was there and is not: unplugged, fallen off the bus, or taken by the operator.
    Gone,
    /// The driver reported an error of this number; see [`super::xid`].
    Xid(u64),
    /// Memory errors that could not be corrected: there are more than there were.
    EccUncorrected,
    /// The operator divided its GPU otherwise.
    MigReconfigured,
    /// It is slowed down by heat.
    Hot,
    /// Processes that are not ours have memory on it.
    Strangers,
    /// It is there and does not answer.
    Mute,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Gone => f.write_str("gone"),
            Trouble::Xid(code) => write!(f, "xid_{code}"),
            Trouble::EccUncorrected => f.write_str("ecc_uncorrected"),
            Trouble::MigReconfigured => f.write_str("mig_reconfigured"),
            Trouble::Hot => f.write_str("hot"),
            Trouble::Strangers => f.write_str("strangers"),
            Trouble::Mute => f.write_str("mute"),
        }
    }
}

/// What is thought of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// As it was seen last.
    pub device: DeviceInfo,
    /// False where it is not there now.
    pub here: bool,
    pub health: Health,
    /// What was thought before; `None` of one that is new.
    pub before: Option<Health>,
    /// Memory that processes have that are not ours, bytes.
    pub strangers_bytes: u64,
    /// What is left of its memory without that, bytes.
    pub usable_bytes: u64,
    /// What the driver reported of it since the last time.
    pub xids: Vec<u64>,
}

impl Verdict {
    /// Whether it came to be thought otherwise, or is new and not well.
    pub fn is_news(&self) -> bool {
        self.before.unwrap_or(Health::Healthy) != self.health
    }

    /// Whether it is a device by itself, and not only what instances are parts of.
    pub fn is_whole(&self) -> bool {
        !self.device.split
    }
}
