//! The policies that the paper compares, for every test that runs them all.

use bulkhead_sim::{Fcfs, Policy, Rpm, Vtc};

/// Afresh, in the order of the published table.
pub fn policies() -> Vec<Box<dyn Policy>> {
    vec![
        Box::new(Fcfs::default()),
        Box::new(Vtc::lcf()),
        Box::new(Vtc::plain()),
        Box::new(Vtc::predicting()),
        Box::new(Vtc::oracle()),
        Box::new(Rpm::new(5)),
        Box::new(Rpm::new(20)),
    ]
}
