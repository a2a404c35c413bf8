//! The lease that a worker holds, as the driver knows it. What was heard under it is for metrics; nothing here is charged.

use bulkhead_core::{LeaseId, LeaseTimes};

/// A lease, and what was heard under it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub id: LeaseId,
    /// What its worker knows it by.
    pub number: u64,
    pub times: LeaseTimes,
}
