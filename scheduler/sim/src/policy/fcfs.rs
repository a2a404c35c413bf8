//! First come, first served: one queue for all tenants.
//!
//! The baseline without isolation; nobody is told apart.

use std::collections::VecDeque;

use super::{Policy, Request, Verdict};
use crate::workload::Arrival;

/// Admits in the order of arrival.
#[derive(Debug, Default)]
pub struct Fcfs {
    queue: VecDeque<Request>,
}

impl Policy for Fcfs {
    fn name(&self) -> String {
        "FCFS".to_owned()
    }

    fn arrive(&mut self, request: Request) -> Verdict {
        self.queue.push_back(request);
        Verdict::Waits
    }

    fn admit(&mut self, fits: &dyn Fn(&Arrival) -> bool) -> Option<Request> {
        self.queue.pop_front_if(|head| fits(&head.arrival))
    }
}
